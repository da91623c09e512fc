"""``/v1/completions``: OpenAI's legacy log probabilities and its usage event.

llama.cpp answers ``logprobs`` in chat's shape, and a stream's usage inside the last text event.
"""

from __future__ import annotations

from typing import Any

import orjson

from mooring.engines.base import EventFilter, Prepared, Target
from mooring.engines.llamacpp.sse import event_data, to_event
from mooring.errors import InvalidParameter, UnsupportedCapability

PATH = "/v1/completions"


def prepare(body: dict[str, Any], target: Target) -> Prepared:
    _check(body, target)
    wants_logprobs = body.get("logprobs") is not None
    prompt = body.get("prompt")
    offset = len(prompt) if isinstance(prompt, str) else 0
    wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))

    def events() -> EventFilter:
        return _Events(_Legacy(body["logprobs"], offset) if wants_logprobs else None, wants_usage)

    return Prepared(
        path=PATH,
        body={**body, "logprobs": max(1, body["logprobs"])} if wants_logprobs else None,
        unary=_Legacy(body["logprobs"], offset).rewrite_answer if wants_logprobs else None,
        events=events if body.get("stream") else None,
    )


def _check(body: dict[str, Any], target: Target) -> None:
    refused = {
        "echo": "send the prompt without it and put the two together",
        "suffix": "put the suffix in the prompt as the model's fill-in-the-middle format wants it",
        "response_format": "use /v1/chat/completions, where the answer's format is enforced",
    }
    for name, instead in refused.items():
        if body.get(name):
            raise UnsupportedCapability(target.model, f"'{name}' on /v1/completions", instead)
    if (body.get("best_of") or 1) > (body.get("n") or 1):
        raise UnsupportedCapability(target.model, "'best_of'", "use 'n' and choose among the answers")
    if body.get("prompt") in ("", [], [""]):
        raise InvalidParameter("prompt", "is empty; give the model at least one token to go on from")


class _Legacy:
    """OpenAI's legacy log probabilities: the ``count`` likeliest tokens and the one that was taken.

    ``offset`` counts characters from the start of the prompt.
    """

    def __init__(self, count: int, offset: int) -> None:
        self._count = count
        self._offset = offset

    def rewrite_answer(self, answer: bytes) -> bytes:
        data = orjson.loads(answer)
        for choice in data["choices"]:
            choice["logprobs"] = self.convert(choice["logprobs"])
        return orjson.dumps(data)

    def convert(self, logprobs: dict[str, Any] | None) -> dict[str, Any] | None:
        if not logprobs:
            return None
        entries = logprobs["content"]
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in entries],
            "token_logprobs": [entry["logprob"] for entry in entries],
            "top_logprobs": [
                {top["token"]: top["logprob"] for top in (*entry["top_logprobs"][: self._count], entry)}
                for entry in entries
            ],
            "text_offset": offsets,
        }


class _Events:
    """Gives usage its own event (or none), and log probabilities their legacy shape if there are any."""

    def __init__(self, legacy: _Legacy | None, wants_usage: bool) -> None:
        self._legacy = legacy
        self._wants_usage = wants_usage

    def feed(self, event: bytes) -> bytes:
        if self._legacy is None and b'"usage":{' not in event:
            return event
        chunk = event_data(event)
        if chunk is None:
            return event
        if self._legacy is not None:
            for choice in chunk["choices"]:
                choice["logprobs"] = self._legacy.convert(choice["logprobs"])
        usage = chunk.pop("usage", None)
        if usage is None or not self._wants_usage:
            return to_event(chunk)
        return to_event(chunk) + to_event({**chunk, "choices": [], "usage": usage})
