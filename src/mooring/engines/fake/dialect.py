"""The fake engine speaks the worker contract as it stands, so requests pass unchanged."""

from __future__ import annotations

from typing import Any

from mooring.engines.base import Prepared, Target
from mooring.engines.wire import to_error
from mooring.errors import MooringError, UnsupportedCapability


class FakeDialect:
    def prepare(self, endpoint: str, body: dict[str, Any], target: Target) -> Prepared:
        for name in ("logprobs", "echo", "suffix", "dimensions"):
            if body.get(name):
                raise UnsupportedCapability(
                    target.model, f"'{name}'", "the fake engine has none; leave it out"
                )
        if endpoint == "tokenize" and body.get("messages") is not None:
            raise UnsupportedCapability(target.model, "'messages' on /tokenize", "send the text as 'prompt'")
        path = endpoint if endpoint in ("tokenize", "detokenize") else f"v1/{endpoint}"
        return Prepared(path=f"/{path}")

    def error(self, status: int, body: bytes, target: Target) -> MooringError:
        return to_error(status, body, target.model)
