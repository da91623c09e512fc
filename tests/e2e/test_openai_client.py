"""The official ``openai`` package against ``mooring serve`` with real models: what the README promises."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import urllib.request
from collections.abc import Sequence
from typing import Any

import openai
import pytest

from support.server import RunningServer

pytestmark = pytest.mark.weights

CHAT = "smollm2:135m"
ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}


@pytest.fixture
def client(live_server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{live_server.url}/v1", api_key="unused", max_retries=0)


def test_a_short_name_chats_and_usage_adds_up(client: openai.OpenAI) -> None:
    with client:
        answer = client.chat.completions.create(model="smollm2", messages=ASK, max_tokens=16)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 37
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_greedy_stream_says_the_same_as_the_plain_answer(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"model": CHAT, "messages": ASK, "max_tokens": 24, "temperature": 0}
    with client:
        plain = client.chat.completions.create(**wanted)
        stream = client.chat.completions.create(**wanted, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert plain.usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def test_a_json_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer"}},
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    with client:
        answer = client.chat.completions.create(
            model=CHAT,
            messages=ASK,
            max_tokens=120,
            response_format={"type": "json_schema", "json_schema": {"name": "city", "schema": schema}},
        )
    parsed = json.loads(answer.choices[0].message.content or "")
    assert isinstance(parsed["city"], str)
    assert isinstance(parsed["population"], int)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_required_tool_is_called_with_well_formed_arguments(client: openai.OpenAI, choice: Any) -> None:
    wanted: dict[str, Any] = {
        "model": CHAT,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER, CLOCK],
        "tool_choice": choice,
        "max_tokens": 120,
        "temperature": 0,
    }
    with client:
        answer = client.chat.completions.create(**wanted)
        chunks = list(client.chat.completions.create(**wanted, stream=True))
    assert answer.choices[0].finish_reason == "tool_calls"
    call = (answer.choices[0].message.tool_calls or [])[0]
    streamed = [c for chunk in chunks for x in chunk.choices for c in x.delta.tool_calls or []]
    name = "".join(c.function.name or "" for c in streamed if c.function)
    arguments = "".join(c.function.arguments or "" for c in streamed if c.function)
    assert call.type == "function"
    assert (name, json.loads(arguments)) == (call.function.name, json.loads(call.function.arguments))
    if choice != "required":
        assert set(json.loads(arguments)) == {"city", "unit"}


def test_tools_that_the_model_cannot_choose_are_refused_not_ignored(client: openai.OpenAI) -> None:
    with client, pytest.raises(openai.BadRequestError, match="required"):
        client.chat.completions.create(model=CHAT, messages=ASK, tools=[WEATHER])  # type: ignore[list-item]


def test_several_choices_and_prompts_are_numbered_and_metered(client: openai.OpenAI) -> None:
    with client:
        chat = client.chat.completions.create(model=CHAT, messages=ASK, n=3, max_tokens=4, seed=1)
        text = client.completions.create(model=CHAT, prompt=["Hello", "The sky is"], max_tokens=4, n=2)
    assert [choice.index for choice in chat.choices] == [0, 1, 2]
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == 37
    assert 3 <= chat.usage.completion_tokens <= 12
    assert [choice.index for choice in text.choices] == [0, 1, 2, 3]


def test_related_sentences_embed_closer_than_unrelated(client: openai.OpenAI) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The stock market fell today."]
    with client:
        cat, kitten, market = (
            item.embedding for item in client.embeddings.create(model="all-minilm", input=texts).data
        )
    assert cosine(cat, kitten) > 0.5 > 0.2 > cosine(cat, market)


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def test_what_does_not_fit_names_both_numbers(client: openai.OpenAI) -> None:
    with client:
        with pytest.raises(openai.BadRequestError, match=r"(?s)8192.*20031") as chat:
            client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "x " * 20_000}])
        with pytest.raises(openai.BadRequestError, match=r"(?s)512.*3002"):
            client.embeddings.create(model="all-minilm", input="word " * 3000)
    assert chat.value.code == "context_length_exceeded"


def test_documents_are_ranked_by_an_embedding_model(live_server: RunningServer) -> None:
    body = {"model": "all-minilm", "query": "cats", "documents": ["stocks", "kittens", "the law"], "top_n": 2}
    request = urllib.request.Request(
        f"{live_server.url}/v1/rerank", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        results = json.load(response)["results"]
    assert [len(results), results[0]["index"]] == [2, 1]


async def test_sixteen_streams_at_once(live_server: RunningServer) -> None:
    client = openai.AsyncOpenAI(base_url=f"{live_server.url}/v1", api_key="unused", max_retries=0)

    async def one(number: int) -> str:
        stream = await client.chat.completions.create(
            model=CHAT,
            messages=[{"role": "user", "content": f"Tell me story number {number}."}],
            max_tokens=12,
            stream=True,
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    async with client:
        assert all(await asyncio.gather(*(one(number) for number in range(16))))


@pytest.mark.skipif(os.name != "posix", reason="kills by POSIX signal")
def test_a_worker_killed_mid_stream_is_an_error_in_words_and_the_next_request_works(
    client: openai.OpenAI, live_server: RunningServer
) -> None:
    with client:
        stream = client.chat.completions.create(
            model=CHAT, messages=ASK, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
        )
        for _ in range(5):
            next(stream)
        os.kill(worker_pid(live_server), signal.SIGKILL)
        with pytest.raises(openai.APIError, match="signal 9"):
            list(stream)
        again = client.chat.completions.create(model=CHAT, messages=ASK, max_tokens=8)
    assert again.choices[0].message.content


def worker_pid(server: RunningServer) -> int:
    with urllib.request.urlopen(f"{server.url}/admin/v1/workers", timeout=10) as response:
        workers = json.load(response)["data"]
    return next(int(worker["pid"]) for worker in workers if worker["model"] == CHAT)
