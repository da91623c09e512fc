"""What commands print: lines, JSON and tables. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any


def print_line(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def error_line(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """One JSON document on one line, flushed, so that a reader of a stream sees it at once."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns aligned by spaces, the last one left ragged; never cut, so that a pipe loses nothing."""
    lines = [columns, *rows]
    widths = [max(_cells(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [cell + " " * (width - _cells(cell)) for cell, width in zip(line, widths, strict=True)]
        print_line("  ".join(cells).rstrip())


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """``name  value`` lines; fields without a value are left out."""
    known = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        print_line(f"  {name:<{width}}  {value}")


def _cells(text: str) -> int:
    """Terminal columns of a text; wide for Chinese and other full-width characters."""
    if text.isascii():
        return len(text)
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def format_bytes(count: int) -> str:
    """Powers of 1000, as disks and downloads are sold: ``98 MB``, ``4.7 GB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def format_memory(count: int) -> str:
    """Powers of 1024, as memory is counted: ``184 MiB``, ``7.6 GiB``."""
    value = count / 1024**2
    return f"{value:.0f} MiB" if value < 1024 else f"{value / 1024:.1f} GiB"


def format_count(count: int) -> str:
    """Parameters of a model: ``135M``, ``7.6B``."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            value = count / size
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.1f}{unit}"
    return str(count) if count else ""


def format_age(epoch_ms: int) -> str:
    """How long ago: ``3 minutes ago``."""
    return f"{format_span(time.time() - epoch_ms / 1000)} ago"


def format_span(seconds: float) -> str:
    """The largest unit only: ``4 minutes``."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    count = max(0, int(seconds))
    return f"{count} second{'s' if count != 1 else ''}"
