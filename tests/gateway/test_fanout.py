"""Several sequences in one request come back complete, numbered and metered once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from mooring.errors import UpstreamFailed
from mooring.gateway import fanout
from mooring.gateway.answer import DONE, Answer, error_event
from mooring.gateway.proxy import parse_event


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event(**fields: Any) -> bytes:
    return b"data: " + orjson.dumps({"id": "x", "object": "text_completion", **fields}) + b"\n\n"


async def streamed(part: dict[str, Any]) -> Answer:
    async def events() -> AsyncGenerator[bytes, None]:
        for word in (part["prompt"], "!"):
            yield event(choices=[{"index": 0, "text": word, "finish_reason": None}])
        yield event(choices=[], usage=usage(3, 2)) + DONE

    return Answer(events=events())


def test_parts_take_prompts_in_order_and_their_own_seeds() -> None:
    parts = fanout.split({"prompt": ["a", "b"], "n": 2, "seed": 7})
    assert [(part["prompt"], part["seed"]) for part in parts] == [("a", 7), ("a", 8), ("b", 7), ("b", 8)]
    assert all("n" not in part for part in parts)


def test_token_ids_are_one_prompt_and_chat_is_not_split_without_n() -> None:
    assert fanout.split({"prompt": [1, 2, 3]}) == [{"prompt": [1, 2, 3]}]
    assert fanout.split({"messages": []}) == [{"messages": []}]


async def test_a_prompt_counts_once_for_all_its_choices() -> None:
    async def send(part: dict[str, Any]) -> Answer:
        body = {"id": "x", "choices": [{"index": 0, "text": part["prompt"]}], "usage": usage(3, 5)}
        return Answer(body=orjson.dumps(body))

    parts = fanout.split({"prompt": ["a", "b"], "n": 2})
    merged = orjson.loads((await fanout.unary(parts, 2, send)).body)
    assert [(choice["index"], choice["text"]) for choice in merged["choices"]] == [
        (0, "a"),
        (1, "a"),
        (2, "b"),
        (3, "b"),
    ]
    assert (merged["usage"]["prompt_tokens"], merged["usage"]["completion_tokens"]) == (6, 20)


async def test_merged_streams_keep_every_word_and_end_once() -> None:
    parts = fanout.split({"prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}})
    answer = await fanout.stream(parts, 1, streamed)
    assert answer.events is not None
    raw = b"".join([piece async for piece in answer.events])
    chunks = [chunk for part in raw.split(b"\n\n")[:-1] if (chunk := parse_event(part)) is not None]
    texts = {0: "", 1: ""}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == {0: "a!", 1: "b!"}
    assert chunks[-1]["usage"]["total_tokens"] == 10
    assert raw.count(DONE) == 1
    assert raw.endswith(DONE)


async def test_usage_is_left_out_when_the_client_did_not_ask() -> None:
    answer = await fanout.stream(fanout.split({"prompt": ["a", "b"], "stream": True}), 1, streamed)
    assert answer.events is not None
    assert b"usage" not in b"".join([piece async for piece in answer.events])


async def test_an_error_in_one_part_ends_the_stream_with_that_error() -> None:
    async def send(part: dict[str, Any]) -> Answer:
        async def events() -> AsyncGenerator[bytes, None]:
            yield event(choices=[{"index": 0, "text": "a", "finish_reason": None}])
            yield error_event(UpstreamFailed("gone"))

        return Answer(events=events()) if part["prompt"] == "b" else await streamed(part)

    answer = await fanout.stream(fanout.split({"prompt": ["a", "b"], "stream": True}), 1, send)
    assert answer.events is not None
    raw = b"".join([piece async for piece in answer.events])
    assert b'"message":"gone"' in raw.split(b"\n\n")[-2]
    assert DONE not in raw


async def test_a_part_that_is_refused_at_once_is_an_error_not_a_stream() -> None:
    async def send(part: dict[str, Any]) -> Answer:
        raise UpstreamFailed(f"no {part['prompt']}")

    with pytest.raises(UpstreamFailed):
        await fanout.stream(fanout.split({"prompt": ["a", "b"], "stream": True}), 1, send)
