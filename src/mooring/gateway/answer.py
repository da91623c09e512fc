"""What comes back from a target: one body, or a stream of whole server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from mooring.errors import BadRequest, MooringError

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Answer:
    """``events`` yields bytes that always end at an event's end. Whoever holds the answer closes it.

    ``on_close`` frees what the stream holds, also when it was never begun: closing a generator that has not
    started runs none of its code.
    """

    body: bytes = b""
    events: AsyncGenerator[bytes, None] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    on_close: Callable[[], None] | None = None

    async def aclose(self) -> None:
        try:
            if self.events is not None:
                await self.events.aclose()
        finally:
            if self.on_close is not None:
                self.on_close()


def encode(body: dict[str, Any]) -> bytes:
    """JSON for upstream. Raises BadRequest for what JSON or its writer cannot hold (depth, huge numbers)."""
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as error:
        raise BadRequest(f"The body cannot be passed on: {error}. Nest less deeply.") from None


def error_body(error: MooringError) -> dict[str, object]:
    """OpenAI's error object: https://platform.openai.com/docs/guides/error-codes."""
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_event(error: MooringError) -> bytes:
    """The error as the last event of a stream; OpenAI's clients raise APIError on it."""
    return b"data: " + orjson.dumps(error_body(error)) + b"\n\n"
