"""What the chat asks of a server, in the chat's own words."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

from mooring.cli.client import Client, ServerUnreachable
from mooring.types import Progress, ProgressFn


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What the chat must know of a model; ``fields`` is for people, already worded."""

    name: str
    capabilities: frozenset[str]
    fields: tuple[tuple[str, str], ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    template: str = ""
    license: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of an answer; ``finish_reason`` and ``usage`` come with the last ones."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``body`` is the OpenAI request without model and stream; ``context`` in tokens is asked of the loader."""

    model: str
    body: dict[str, Any]
    context: int | None = None
    keep_alive: float | None = None


class Backend(Protocol):
    def answer(self, request: Request) -> Generator[Piece, None, None]:
        """Stream an answer; closing the iterator stops it. Raises MooringError."""

    def load(self, model: str) -> ModelCard:
        """Make a model ready (pulling it if need be), showing progress. Raises MooringError."""


class ServerBackend:
    """``answer`` over HTTP: chat completions when the request has messages, else plain completions."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def answer(self, request: Request) -> Generator[Piece, None, None]:
        body = {
            **request.body,
            "model": request.model,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.keep_alive is not None:
            body["keep_alive"] = request.keep_alive
        headers = {"x-mooring-context": str(request.context)} if request.context else {}
        path = "/v1/chat/completions" if "messages" in request.body else "/v1/completions"
        with closing(self.client.events(path, body, headers)) as events:
            for event in events:
                yield _piece(event)

    def load_model(
        self, model: str, progress: ProgressFn, *, keep_alive: float | None = None, context: int | None = None
    ) -> None:
        """Load a model and wait until it is ready. Raises MooringError."""
        wishes = {"keep_alive": keep_alive, "context": context}
        body = {"model": model, **{name: value for name, value in wishes.items() if value is not None}}
        self._follow("/admin/v1/models/load", body, progress)

    def pull_model(self, model: str, progress: ProgressFn) -> None:
        """Have the server fetch a model into its own store. Raises MooringError."""
        self._follow("/admin/v1/models/pull", {"model": model}, progress)

    def _follow(self, path: str, body: dict[str, Any], progress: ProgressFn) -> None:
        for line in self.client.ndjson(path, body):
            if line.get("status") == "success":
                return
            progress(_progress(line))
        raise ServerUnreachable(f"The server at {self.client.url} went away before it was done. Try again.")


def _progress(line: dict[str, Any]) -> Progress:
    return Progress(
        status=str(line.get("status", "")),
        digest=str(line.get("digest", "")),
        total=int(line.get("total") or 0),
        completed=int(line.get("completed") or 0),
    )


def _piece(event: dict[str, Any]) -> Piece:
    choices = event.get("choices") or [{}]
    delta = choices[0].get("delta") or choices[0]
    return Piece(
        text=delta.get("content") or delta.get("text") or "",
        reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
        finish_reason=choices[0].get("finish_reason") or "",
        usage=event.get("usage"),
    )


@dataclass(slots=True)
class Stopwatch:
    """How fast an answer came: wall-clock seconds as the user saw them."""

    started: float = field(default_factory=time.monotonic)
    first: float | None = None
    ended: float | None = None

    def piece(self) -> None:
        self.ended = time.monotonic()
        self.first = self.first or self.ended

    def report(self, usage: dict[str, Any] | None) -> list[tuple[str, str]]:
        """Worded figures for ``--verbose``; token counts are the server's."""
        usage = usage or {}
        ended = self.ended or time.monotonic()
        answered = int(usage.get("completion_tokens") or 0)
        fields = [("total", f"{ended - self.started:.2f} s")]
        if self.first is not None:
            fields.append(("first token after", f"{self.first - self.started:.2f} s"))
        fields.append(("prompt", f"{usage.get('prompt_tokens', '?')} tokens"))
        fields.append(("answer", f"{answered or '?'} tokens"))
        if self.first is not None and answered > 1 and ended > self.first:
            fields.append(("speed", f"{(answered - 1) / (ended - self.first):.1f} tokens/s"))
        return fields
