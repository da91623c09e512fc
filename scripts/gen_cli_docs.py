"""Write docs/CLI.md from the commands' own --help; with ``--check`` only say whether it is fresh (exit 1 if not)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from typer.testing import CliRunner

from mooring.cli.app import build_app
from mooring.cli.table import SECTIONS

TARGET = Path(__file__).parents[1] / "docs" / "CLI.md"
GROUPS = {"key": ("create", "list", "revoke")}
INTRO = """\
# The command line

Written from the commands' own `--help` by `scripts/gen_cli_docs.py`; do not edit.
"""


def help_of(*command: str) -> str:
    """A fenced block with the help, 80 columns wide."""
    result = CliRunner().invoke(build_app(), [*command, "--help"], prog_name="mooring")
    if result.exit_code != 0:
        raise SystemExit(f"`mooring {' '.join(command)} --help` fails:\n{result.output}")
    text = "\n".join(line.rstrip() for line in result.stdout.rstrip().splitlines())
    return f"```text\n{text}\n```\n"


def render() -> str:
    parts = [INTRO, help_of()]
    for section in SECTIONS:
        parts.append(f"## {section.title}\n")
        for entry in section.entries:
            parts += [f"### mooring {entry.name}\n", help_of(entry.name)]
            for sub in GROUPS.get(entry.name, ()):
                parts += [f"#### mooring {entry.name} {sub}\n", help_of(entry.name, sub)]
    return "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    text = render()
    if parser.parse_args().check:
        fresh = TARGET.is_file() and TARGET.read_text("utf-8") == text
        if not fresh:
            sys.stderr.write(f"{TARGET} is stale: run python scripts/gen_cli_docs.py\n")
        return 0 if fresh else 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
