"""The talk itself: messages, settings and answers, without a terminal."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mooring.cli.repl.backend import Backend, ModelCard, Piece, Request, Stopwatch
from mooring.cli.repl.images import attach_images
from mooring.cli.repl.parameters import read_parameter
from mooring.errors import InvalidParameter, UnsupportedCapability


@dataclass(kw_only=True)
class Talk:
    """One conversation with one model at a time. What is not set here, the server takes from the model's own.

    ``parameters`` are in the words of the API, ``response_format`` is OpenAI's field; ``stats`` are the figures
    of the last answer.
    """

    backend: Backend
    card: ModelCard
    system: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    response_format: dict[str, Any] | None = None
    context: int | None = None
    keep_alive: float | None = None
    verbose: bool = False
    messages: list[dict[str, Any]] = field(default_factory=list)
    stats: list[tuple[str, str]] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    finish_reason: str = ""

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Send a message and stream the answer, which joins the conversation.

        Closing the iterator stops the answer and keeps what had come; a question without any answer is forgotten.
        Raises MooringError.
        """
        question = {"role": "user", "content": attach_images(self.card.name, self.card.capabilities, text)}
        request = Request(
            model=self.card.name, body=self._body(question), context=self.context, keep_alive=self.keep_alive
        )
        watch, answer = Stopwatch(), ""
        self.usage, self.finish_reason = None, ""
        try:
            with closing(self.backend.answer(request)) as pieces:
                for piece in pieces:
                    if piece.text or piece.reasoning:
                        watch.piece()
                    answer += piece.text
                    self.usage = piece.usage or self.usage
                    self.finish_reason = piece.finish_reason or self.finish_reason
                    yield piece
        finally:
            if answer:
                self.messages += [question, {"role": "assistant", "content": answer}]
            self.stats = watch.report(self.usage)

    def _body(self, question: dict[str, Any]) -> dict[str, Any]:
        body = dict(self.parameters)
        if self.response_format is not None:
            body["response_format"] = self.response_format
        if "chat" not in self.card.capabilities:
            return {**body, "prompt": self._plain_prompt(question)}
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {**body, "messages": [*system, *self.messages, question]}

    def _plain_prompt(self, question: dict[str, Any]) -> str:
        """A base model continues text: it is given the question alone."""
        if self.system:
            raise UnsupportedCapability(
                self.card.name,
                "a system message",
                "it has no chat template; `/set system` with nothing removes it.",
            )
        return str(question["content"])

    def load(self, model: str) -> None:
        """Go on with another model; the conversation stays. Raises MooringError."""
        card = self.backend.load(model)
        require_talker(card)
        self.card = card

    def clear(self) -> None:
        self.messages.clear()

    def set_parameter(self, name: str, text: str) -> None:
        """Raises InvalidParameter."""
        wire, value = read_parameter(name, text)
        if wire == "context":
            self.context = value
        else:
            self.parameters[wire] = value

    def set_schema(self, path: Path) -> None:
        """Answers must fit the JSON schema in this file. Raises InvalidParameter."""
        self.response_format = schema_format(path)


def require_talker(card: ModelCard) -> None:
    """Raises UnsupportedCapability for a model that cannot write text."""
    if not card.capabilities & {"chat", "completion"}:
        can = ", ".join(sorted(card.capabilities)) or "nothing that Mooring knows"
        raise UnsupportedCapability(
            card.name,
            "chat",
            f"it can do: {can}. Serve it (`mooring serve {card.name}`) and use /v1/embeddings or /v1/rerank, "
            f"or chat with another model.",
        )


def schema_format(path: Path) -> dict[str, Any]:
    """OpenAI's ``response_format`` for a JSON schema in a file. Raises InvalidParameter."""
    try:
        schema = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidParameter(
            "schema", f"{path} cannot be read ({error.strerror}); check the path"
        ) from error
    except ValueError as error:
        raise InvalidParameter("schema", f"{path} is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise InvalidParameter("schema", f"{path} is no JSON schema: expected an object at the top")
    return {"type": "json_schema", "json_schema": {"name": path.stem, "schema": schema, "strict": True}}
