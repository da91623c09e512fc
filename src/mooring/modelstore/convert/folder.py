"""Reading the JSON files of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mooring.errors import InvalidModelFile


def read_json(path: Path) -> Any:
    """The file's value, None when there is no such file. Raises InvalidModelFile when it is not JSON."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidModelFile(f"{path} is not JSON ({error}). Download the model again.") from error


def read_object(path: Path) -> dict[str, Any] | None:
    """As read_json, for a file that must hold an object."""
    data = read_json(path)
    if data is not None and not isinstance(data, dict):
        raise InvalidModelFile(f"{path} is not a JSON object. Download the model again.")
    return data
