"""Server-sent events as llama.cpp's server writes them: one ``data:`` line each."""

from __future__ import annotations

from typing import Any, cast

import orjson


def event_data(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None for ``[DONE]``, comments and errors."""
    if not event.startswith(b"data: {"):
        return None
    return cast("dict[str, Any]", orjson.loads(event[6:]))


def to_event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
