"""The worker contract's errors, events and metrics as bytes, for both ends of the wire."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from mooring.errors import (
    BadRequest,
    ContextLengthExceeded,
    MooringError,
    NotFound,
    Unavailable,
    UpstreamFailed,
)

_BY_STATUS: dict[int, type[MooringError]] = {404: NotFound, 503: Unavailable}


def error_body(error: MooringError) -> bytes:
    """OpenAI's error object; a context error carries its numbers beside the text."""
    detail: dict[str, Any] = {
        "message": error.message,
        "type": error.kind,
        "code": error.code,
        "param": error.param,
    }
    if isinstance(error, ContextLengthExceeded):
        detail |= {"prompt_tokens": error.prompt_tokens, "context_length": error.context_length}
    return orjson.dumps({"error": detail})


def to_error(status: int, body: bytes, model: str) -> MooringError:
    """The error that ``error_body`` wrote, on the gateway's side of the wire."""
    try:
        detail = orjson.loads(body)["error"]
        message, code, param = detail["message"], detail["code"], detail["param"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        text = body[:500].decode(errors="replace")
        return UpstreamFailed(
            f"The worker of model '{model}' answered {status}: {text}. See `mooring logs {model}`."
        )
    if code == ContextLengthExceeded.code:
        return ContextLengthExceeded(detail["prompt_tokens"], detail["context_length"], param=param)
    kind = _BY_STATUS.get(status, BadRequest if 400 <= status < 500 else UpstreamFailed)
    return kind(message, code=code, param=param)


def sse(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    return b"data: " + (data.encode() if isinstance(data, str) else orjson.dumps(data)) + b"\n\n"


def metrics_text(values: Mapping[str, float]) -> str:
    """Gauges in Prometheus' text format."""
    return "".join(f"# TYPE {name} gauge\n{name} {json.dumps(value)}\n" for name, value in values.items())
