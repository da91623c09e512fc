"""Writes docs/openapi.json, the description of every HTTP route; with --check only compares."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mooring.api.app import openapi_document

TARGET = Path(__file__).parent.parent / "docs" / "openapi.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page is not what the code says")
    check = parser.parse_args().check
    text = json.dumps(openapi_document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if not check:
        TARGET.write_text(text, "utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text("utf-8") == text:
        return 0
    sys.stderr.write(f"{TARGET.name} is not what the code says: run `make docs` and commit the result.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
