"""A model inside this process: ``from mooring import LLM``; no server needed.

    with LLM("smollm2") as llm:
        print(llm.chat("Why is the sky blue?", max_tokens=100).text)
        for chunk in llm.chat("Tell a story.", stream=True):
            print(chunk.text, end="")

Many threads may use one LLM: as many requests as it has slots run together, the others wait.
"""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

from mooring.config import DeploymentSettings, Settings, calm_openmp, load_settings
from mooring.engines.base import Prepared
from mooring.engines.registry import get_engine
from mooring.errors import Conflict, InvalidParameter, ModelNotFound
from mooring.types import ProgressFn, ignore_progress

if TYPE_CHECKING:
    from mooring.modelstore.store import Model, ModelStore

Message = dict[str, Any]
"""``{"role": "user", "content": "…"}`` and OpenAI's further fields of a message."""


class Sampling(TypedDict, total=False):
    """What may be said about an answer; as in OpenAI's API, and llama.cpp's ``top_k`` to ``repeat_penalty``."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    stop: str | list[str]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class ToolCall:
    """``arguments`` is JSON text, of which a stream's chunks each carry a part; ``id`` and ``name`` come first."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of an answer; the last ones carry ``finish_reason`` and ``usage``."""

    text: str = ""
    reasoning: str = ""
    tool_call: ToolCall | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """``finish_reason``: "stop", "length" or "tool_calls"."""

    text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    usage: Usage

    def json(self) -> Any:
        """The text as JSON, for answers that were bound by ``json_schema``. Raises JSONDecodeError."""
        return json.loads(self.text)


class LLM:
    """``model``: a name of the store, a source (``hf:org/repo``) or a file's path. What is not in the store is
    pulled first, unless ``offline``.

    ``context`` (tokens per request), ``slots`` (requests at once), ``threads`` and ``gpu_layers`` are chosen
    from the machine and the model unless given. ``home`` is ``MOORING_HOME`` by default.
    Raises ModelNotFound, SourceError, ModelTooLarge, InvalidModelFile.
    """

    def __init__(
        self,
        model: str,
        *,
        context: int | None = None,
        slots: int | None = None,
        threads: int | None = None,
        gpu_layers: int | None = None,
        home: str | Path | None = None,
        offline: bool | None = None,
        progress: ProgressFn = ignore_progress,
    ) -> None:
        calm_openmp()  # before llama.cpp's library loads
        from mooring.cluster.hardware import read_machine
        from mooring.cluster.planning import plan_worker
        from mooring.engines.llamacpp.server import load
        from mooring.modelstore.store import ModelStore

        settings = load_settings(home=Path(home) if home is not None else None, offline=offline)
        store = ModelStore(settings.store_dir)
        found = _find(store, model, settings, progress)
        wish = DeploymentSettings(
            engine="llamacpp", context=context, slots=slots, threads=threads, gpu_layers=gpu_layers
        )
        planned = plan_worker(found, wish, 0, read_machine(settings.memory_limit).ram_available)
        self._dialect = get_engine("llamacpp").dialect
        self._target = planned.target
        self._held = ExitStack()
        self._held.enter_context(store.use(found))
        try:
            self._server: Any = load(planned.spec)
        except BaseException:
            self._held.close()
            raise

    @property
    def model(self) -> str:
        """The model's full name."""
        return self._target.model

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self._target.context

    @overload
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stream: Literal[False] = ...,
        json_schema: dict[str, Any] | None = ...,
        tools: Sequence[dict[str, Any]] | None = ...,
        tool_choice: str | dict[str, Any] | None = ...,
        **sampling: Unpack[Sampling],
    ) -> Answer: ...

    @overload
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stream: Literal[True],
        json_schema: dict[str, Any] | None = ...,
        tools: Sequence[dict[str, Any]] | None = ...,
        tool_choice: str | dict[str, Any] | None = ...,
        **sampling: Unpack[Sampling],
    ) -> Iterator[Chunk]: ...

    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        stream: bool = False,
        json_schema: dict[str, Any] | None = None,
        tools: Sequence[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        **sampling: Unpack[Sampling],
    ) -> Answer | Iterator[Chunk]:
        """Answer a conversation; a string is one user's message.

        ``json_schema`` binds the answer's text; ``tools`` and ``tool_choice`` are OpenAI's.
        Raises ContextLengthExceeded, InvalidParameter, UnsupportedCapability.
        """
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        body: dict[str, Any] = {"messages": said, **_checked(sampling)}
        if json_schema is not None:
            schema = {"name": "answer", "schema": json_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if tools is not None:
            body["tools"] = list(tools)
        if tool_choice is not None:
            body["tool_choice"] = tool_choice
        chunks = self._stream("chat/completions", body)
        return chunks if stream else _collect(chunks)

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[False] = ..., **sampling: Unpack[Sampling]
    ) -> Answer: ...

    @overload
    def generate(
        self, prompt: str, *, stream: Literal[True], **sampling: Unpack[Sampling]
    ) -> Iterator[Chunk]: ...

    def generate(
        self, prompt: str, *, stream: bool = False, **sampling: Unpack[Sampling]
    ) -> Answer | Iterator[Chunk]:
        """Continue ``prompt`` as it stands, without a chat template."""
        chunks = self._stream("completions", {"prompt": prompt, **_checked(sampling)})
        return chunks if stream else _collect(chunks)

    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """One unit vector per text. Raises UnsupportedCapability for a model that embeds nothing."""
        body = {"input": [texts] if isinstance(texts, str) else list(texts)}
        prepared = self._dialect.prepare("embeddings", body, self._target)
        answer = self._running().handle_embeddings(json.dumps(prepared.body or body).encode())
        data = json.loads(self._checked_answer(answer))["data"]
        return [item["embedding"] for item in sorted(data, key=lambda item: item["index"])]

    def close(self) -> None:
        """Free the model's memory, once the streams that still run have ended. May be called twice."""
        self._server = None
        self._held.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> Any:
        if self._server is None:
            raise Conflict("This LLM is closed; make a new one.")
        return self._server

    def _checked_answer(self, answer: bytes) -> bytes:
        """The engine's answer, unless it is an error, which is raised as a server's client would get it."""
        if not answer.startswith(b'{"error"'):
            return answer
        code = int(json.loads(answer)["error"].get("code", 500))
        raise self._dialect.error(code, answer, self._target)

    def _stream(self, endpoint: str, body: dict[str, Any]) -> Iterator[Chunk]:
        """Prepares at once, so that a wrong request fails before the first ``next``."""
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        prepared = self._dialect.prepare(endpoint, body, self._target)
        server = self._running()
        chat = endpoint == "chat/completions"
        handler = server.handle_chat_completions if chat else server.handle_completions
        return self._chunks(self._run(handler, prepared.body or body), prepared)

    def _chunks(self, answers: Iterator[bytes], prepared: Prepared) -> Iterator[Chunk]:
        events = prepared.events() if prepared.events is not None else None
        for answer in answers:
            event = b"data: " + answer + b"\n\n"
            for passed in (event if events is None else events.feed(event)).split(b"\n\n"):
                if passed:
                    yield from _read_chunk(json.loads(passed.removeprefix(b"data: ")))

    def _run(self, handler: Callable[..., None], body: dict[str, Any]) -> Iterator[bytes]:
        """What the engine answers, piece by piece. The call runs in a thread of its own: leaving the iterator
        (or Ctrl-C) stops it at its next token.
        """
        pieces: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
        left = threading.Event()

        def on_piece(piece: bytes) -> bool:
            pieces.put(piece)
            return left.is_set()

        def call() -> None:
            try:
                handler(json.dumps(body).encode(), on_piece)
                pieces.put(None)
            except BaseException as error:  # noqa: BLE001 - raised where the answer is awaited
                pieces.put(error)

        threading.Thread(target=call, name="mooring-llm", daemon=True).start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield self._checked_answer(piece)
        finally:
            left.set()


def _find(store: ModelStore, name: str, settings: Settings, progress: ProgressFn) -> Model:
    try:
        return store.get(name)
    except ModelNotFound:
        if settings.offline:
            raise
    except InvalidParameter:
        pass  # no name, so a source or a path; `pull` says so if it is neither
    from mooring.egress import Egress
    from mooring.modelstore.pull import pull

    async def fetch() -> Model:
        async with Egress(settings) as egress:
            return await pull(store, egress, settings, name, progress=progress)

    with ThreadPoolExecutor(1) as pool:  # notebooks run an event loop in this thread already
        return pool.submit(lambda: asyncio.run(fetch())).result()


def _checked(sampling: Sampling) -> dict[str, Any]:
    for name in sampling:
        if name not in Sampling.__annotations__:
            known = ", ".join(Sampling.__annotations__)
            raise InvalidParameter(name, f"unknown; there are {known}")
    return dict(sampling)


def _read_chunk(data: dict[str, Any]) -> Iterator[Chunk]:
    """OpenAI's chunk of a chat or a completion."""
    usage = data.get("usage")
    if usage is not None:
        yield Chunk(usage=Usage(usage["prompt_tokens"], usage["completion_tokens"]))
    for choice in data["choices"]:
        delta = choice.get("delta") or {"content": choice.get("text")}
        text, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
        reason = choice["finish_reason"]
        if text or reasoning or reason:
            yield Chunk(text=text, reasoning=reasoning, finish_reason=reason)
        for call in delta.get("tool_calls") or ():
            function = call["function"]
            part = ToolCall(call.get("id") or "", function.get("name") or "", function.get("arguments") or "")
            yield Chunk(tool_call=part)


def _collect(chunks: Iterator[Chunk]) -> Answer:
    text, reasoning, reason, usage = [], [], "stop", Usage(0, 0)
    calls: list[ToolCall] = []
    for chunk in chunks:
        text.append(chunk.text)
        reasoning.append(chunk.reasoning)
        reason = chunk.finish_reason or reason
        usage = chunk.usage or usage
        if part := chunk.tool_call:
            if part.id or not calls:
                calls.append(part)
            else:
                last = calls.pop()
                calls.append(ToolCall(last.id, last.name, last.arguments + part.arguments))
    return Answer("".join(text), "".join(reasoning), tuple(calls), reason, usage)
