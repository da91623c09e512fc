"""The fake engine's answers in OpenAI's shapes."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer to be: ``limit`` tokens at most. ``call`` is the name of a tool that must be called."""

    prompt: str
    prompt_tokens: int
    limit: int
    call: str | None
    tokens: list[str]


class ChatAnswer:
    """OpenAI's shapes of a chat answer."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(self, model: str, generation: Generation) -> None:
        self.generation = generation
        self._model = model
        self._id = f"{self.prefix}-{uuid.uuid4().hex}"

    def frame(self, choices: list[dict[str, Any]], kind: str) -> dict[str, Any]:
        created = int(time.time())
        return {"id": self._id, "object": kind, "created": created, "model": self._model, "choices": choices}

    def usage(self, count: int) -> dict[str, int]:
        prompt = self.generation.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}

    def finish_reason(self) -> str:
        if len(self.generation.tokens) > self.generation.limit:
            return "length"
        return "tool_calls" if self.generation.call else "stop"

    def whole(self, tokens: list[str]) -> dict[str, Any]:
        choice = {"index": 0, **self._content("".join(tokens)), "finish_reason": self.finish_reason()}
        return self.frame([choice], self.object) | {"usage": self.usage(len(tokens))}

    def chunk(self, token: str | None, *, first: bool) -> dict[str, Any]:
        """``token`` None: the last one."""
        reason = self.finish_reason() if token is None else None
        choice = {"index": 0, **self._delta(token, first), "finish_reason": reason}
        return self.frame([choice], self.chunk_object)

    def _content(self, text: str) -> dict[str, Any]:
        if self.generation.call is None:
            return {"message": {"role": "assistant", "content": text}}
        function = {"name": self.generation.call, "arguments": text}
        call = {"id": f"call_{self._id}", "type": "function", "function": function}
        return {"message": {"role": "assistant", "content": None, "tool_calls": [call]}}

    def _delta(self, token: str | None, first: bool) -> dict[str, Any]:
        delta: dict[str, Any] = {"role": "assistant"} if first else {}
        if token is not None and self.generation.call is not None:
            call: dict[str, Any] = {"index": 0, "function": {"arguments": token}}
            if first:
                call |= {"id": f"call_{self._id}", "type": "function"}
                call["function"]["name"] = self.generation.call
            delta["tool_calls"] = [call]
        elif token is not None:
            delta["content"] = token
        return {"delta": delta}


class TextAnswer(ChatAnswer):
    """OpenAI's shapes of a legacy completion."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def _content(self, text: str) -> dict[str, Any]:
        return {"text": text, "logprobs": None}

    def _delta(self, token: str | None, first: bool) -> dict[str, Any]:
        return self._content(token or "")
