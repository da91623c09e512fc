"""One request for several sequences (``n``, several prompts) as several requests for one.

For engines that answer or meter such requests wrongly. Each part takes a slot of its own and runs to its
end on its own, so that parts never wait for each other while holding slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from mooring.errors import InvalidParameter, MooringError
from mooring.gateway.answer import DONE, Answer, error_event
from mooring.gateway.proxy import parse_event
from mooring.telemetry.logging import get_logger

MAX_PARTS = 256
_AT_ONCE = 8
log = get_logger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[Answer]]


def split(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of ``body`` in the order of their ``index``; ``body`` itself if there is nothing to split.

    With a seed the k-th choice of a prompt gets ``seed + k``, so that choices differ and repeat.
    Raises InvalidParameter when there would be more than MAX_PARTS.
    """
    prompts = _prompts(body["prompt"]) if "prompt" in body else [None]
    count = body.get("n") or 1
    if len(prompts) * count > MAX_PARTS:
        what = f"{len(prompts)} prompts with {count} choices each are" if len(prompts) > 1 else f"{count} is"
        raise InvalidParameter("n", f"{what} more than {MAX_PARTS} answers in one request; send several")
    if count == 1 and "n" not in body and prompts[0] is body.get("prompt"):
        return [body]
    parts = []
    for prompt in prompts:
        for choice in range(count):
            part = {key: value for key, value in body.items() if key != "n"}
            if prompt is not None:
                part["prompt"] = prompt
            if choice and part.get("seed") is not None:
                part["seed"] = (part["seed"] + choice) & 0xFFFF_FFFF
            parts.append(part)
    return parts


def _prompts(prompt: Any) -> list[Any]:
    """Token ids are one prompt; a list of strings or of token ids is several."""
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        return prompt
    return [prompt]


@dataclass
class _Usage:
    """Sums the parts' usage; a prompt counts once for all its choices, as OpenAI counts."""

    choices_per_prompt: int
    _parts: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, index: int, usage: dict[str, Any] | None) -> None:
        if usage:
            self._parts[index] = usage

    def total(self) -> dict[str, Any]:
        firsts = [u for i, u in sorted(self._parts.items()) if i % self.choices_per_prompt == 0]
        prompt = sum(usage["prompt_tokens"] for usage in firsts)
        completion = sum(usage["completion_tokens"] for usage in self._parts.values())
        cached = sum((u.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for u in firsts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


async def unary(parts: list[dict[str, Any]], choices_per_prompt: int, send: Send) -> Answer:
    """Ask the parts, some at once, and put their choices together; the first error ends them all."""
    places = asyncio.Semaphore(_AT_ONCE)
    tasks = [asyncio.create_task(_ask(part, send, places)) for part in parts]
    try:
        answers = await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    usage = _Usage(choices_per_prompt)
    choices = []
    for index, answer in enumerate(answers):
        usage.add(index, answer.get("usage"))
        choices.append({**answer["choices"][0], "index": index})
    merged = {**answers[0], "choices": choices, "usage": usage.total()}
    merged.pop("timings", None)
    return Answer(body=orjson.dumps(merged))


async def _ask(part: dict[str, Any], send: Send, places: asyncio.Semaphore) -> dict[str, Any]:
    async with places:
        answer = await send(part)
    parsed: dict[str, Any] = orjson.loads(answer.body)
    return parsed


async def stream(parts: list[dict[str, Any]], choices_per_prompt: int, send: Send) -> Answer:
    """Start the parts, some at once; an error before the first of them streams is raised, a later one ends the stream."""
    wants_usage = bool((parts[0].get("stream_options") or {}).get("include_usage"))
    asked = [{**part, "stream_options": {"include_usage": True}} for part in parts]
    queue: asyncio.Queue[tuple[int, bytes | MooringError | None]] = asyncio.Queue(maxsize=4 * len(parts))
    places = asyncio.Semaphore(_AT_ONCE)
    tasks = [asyncio.create_task(_pour(index, part, send, places, queue)) for index, part in enumerate(asked)]
    try:
        first = await queue.get()
        if isinstance(first[1], MooringError):
            raise first[1]
    except BaseException:
        await _stop(tasks)
        raise

    def close() -> None:
        for task in tasks:
            task.cancel()

    merged = _merge(first, queue, tasks, _Usage(choices_per_prompt), wants_usage=wants_usage)
    return Answer(events=merged, on_close=close)


async def _pour(
    index: int,
    part: dict[str, Any],
    send: Send,
    places: asyncio.Semaphore,
    queue: asyncio.Queue[tuple[int, bytes | MooringError | None]],
) -> None:
    """One part's events into the common queue; None at its end, the error if it failed."""
    end: MooringError | None = None
    try:
        async with places:
            await _forward(index, await send(part), queue)
    except MooringError as error:
        end = error
    except Exception:  # whatever it was, the stream must not wait for this part for ever
        log.exception("a part of a request failed")
        end = MooringError("The server made an error; its log has the details. Try again.")
    await queue.put((index, end))


async def _forward(
    index: int, answer: Answer, queue: asyncio.Queue[tuple[int, bytes | MooringError | None]]
) -> None:
    assert answer.events is not None
    try:
        async for whole in answer.events:
            await queue.put((index, whole))
    finally:
        await answer.aclose()


async def _merge(
    first: tuple[int, bytes | MooringError | None],
    queue: asyncio.Queue[tuple[int, bytes | MooringError | None]],
    tasks: list[asyncio.Task[None]],
    usage: _Usage,
    *,
    wants_usage: bool,
) -> AsyncGenerator[bytes, None]:
    open_parts, item = len(tasks), first
    stem: dict[str, Any] = {}
    try:
        while True:
            index, piece = item
            if isinstance(piece, MooringError):
                yield error_event(piece)
                return
            if piece is None:
                open_parts -= 1
                if not open_parts:
                    break
            else:
                out, failed = _rewrite(piece, index, stem, usage)
                yield out
                if failed:
                    return
            item = await queue.get()
        if wants_usage:
            yield _event({**stem, "choices": [], "usage": usage.total()})
        yield DONE
    finally:
        await _stop(tasks)


def _rewrite(whole: bytes, index: int, stem: dict[str, Any], usage: _Usage) -> tuple[bytes, bool]:
    """Renumber the choices of one part's events and give all parts one id; True if it carries an error."""
    out: list[bytes] = []
    for event in whole.split(b"\n\n")[:-1]:
        chunk = parse_event(event)
        if chunk is None:
            continue
        if "error" in chunk:
            return b"".join([*out, event + b"\n\n"]), True
        if not stem:
            stem.update(
                {key: value for key, value in chunk.items() if key not in ("choices", "usage", "timings")}
            )
        usage.add(index, chunk.get("usage"))
        if chunk.get("choices"):
            out.append(
                _event({**stem, "choices": [{**choice, "index": index} for choice in chunk["choices"]]})
            )
    return b"".join(out), False


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
