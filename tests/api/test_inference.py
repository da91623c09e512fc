"""One server over the fake engine: what any OpenAI client relies on."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from mooring.errors import InvalidParameter
from mooring.gateway.auth import Caller
from mooring.gateway.requests import validate
from mooring.storage.keys import Role
from support.server import fake_deployment, fake_server

Chat = list[dict[str, Any]]


def says(text: str) -> Chat:
    return [{"role": "user", "content": text}]


async def test_streamed_text_equals_the_plain_answer_and_usage_adds_up(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, _):
        client = openai.AsyncOpenAI(base_url=f"{services.url}/v1", api_key="unused", max_retries=0)
        async with client:
            plain = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "one two three"}], max_tokens=12
            )
            stream = await client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": "one two three"}],
                max_tokens=12,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert plain.usage is not None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens


async def test_a_worker_killed_mid_stream_ends_it_with_an_error_and_the_next_request_works(
    tmp_path: Path,
) -> None:
    async with fake_server(tmp_path) as (services, _):
        client = openai.AsyncOpenAI(base_url=f"{services.url}/v1", api_key="unused", max_retries=0)
        async with client:
            stream = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "/crash"}], stream=True
            )
            with pytest.raises(openai.APIError, match="mooring logs"):
                async for _chunk in stream:
                    pass
            again = await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "hello"}], max_tokens=3
            )
            assert again.choices[0].message.content


async def test_errors_are_openais_and_name_what_is_wrong(tmp_path: Path) -> None:
    cases: list[tuple[Any, int, str]] = [
        ({"model": "tiny"}, 400, "messages"),
        ({"model": "tiny", "messages": []}, 400, "messages"),
        ({"model": "tiny", "messages": [{"content": "x"}]}, 400, "messages[0].role"),
        ({"model": "tiny", "messages": [{"role": ["user"], "content": "x"}]}, 400, "messages[0].role"),
        ({"model": "tiny", "messages": [{"role": {}, "content": "x"}]}, 400, "messages[0].role"),
        (
            {
                "model": "tiny",
                "messages": says("x"),
                "tool_choice": {"type": "function", "function": {"name": ["f"]}},
            },
            400,
            "tool_choice",
        ),
        ({"model": "tiny", "messages": says("x"), "max_tokens": "many"}, 400, "max_tokens"),
        ({"model": "tiny", "messages": says("x"), "tools": "x"}, 400, "tools"),
        ({"model": "tiny", "messages": says("x"), "frobnicate": 1}, 400, "frobnicate"),
        ({"model": "tiny", "messages": says("x"), "temperature": 9}, 400, "temperature"),
        ({"model": "tiny", "messages": says("x"), "keep_alive": "soon"}, 400, "keep_alive"),
        ({"model": "tinny", "messages": says("x")}, 404, "model"),
        ([], 400, ""),
    ]
    async with fake_server(tmp_path) as (_, client):
        for body, status, param in cases:
            response = await client.post("/v1/chat/completions", json=body)
            error = (await response.json())["error"]
            assert (response.status, error["param"] or "") == (status, param), (body, error)
        response = await client.post(
            "/v1/chat/completions", data=b"{", headers={"content-type": "application/json"}
        )
        assert (await response.json())["error"]["code"] == "invalid_json"
        response = await client.post("/v1/chat/completions", json={"model": "tinny", "messages": says("x")})
        assert "tiny" in (await response.json())["error"]["message"]
        wide = {"x-mooring-context": "9" * 5000}
        response = await client.post(
            "/v1/chat/completions", json={"model": "tiny", "messages": says("x")}, headers=wide
        )
        assert (await response.json())["error"]["param"] == "x-mooring-context"
        response = await client.post("/tokenize", json={"model": "tiny", "messages": says("x")})
        assert (response.status, (await response.json())["error"]["code"]) == (400, "unsupported")
        response = await client.post("/v1/nothing", json={})
        assert response.status == 404


def test_a_document_to_rank_needs_its_text() -> None:
    body = {"model": "tiny", "query": "q", "documents": ["a", {"text": "b"}, {"title": "x"}]}
    with pytest.raises(InvalidParameter, match=r"documents\[2\].text"):
        validate("rerank", body)


async def test_a_prompt_that_does_not_fit_names_both_numbers(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (_, client):
        body = {"model": "tiny", "messages": says("word " * 400)}
        response = await client.post("/v1/chat/completions", json=body)
        error = (await response.json())["error"]
    assert (response.status, error["code"]) == (400, "context_length_exceeded")
    assert "256" in error["message"]
    assert "40" in error["message"]


async def test_a_larger_context_is_loaded_when_a_request_asks_for_it(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, client):
        body = {"model": "tiny", "messages": says("word " * 400), "max_tokens": 2}
        assert (
            await client.post("/v1/chat/completions", json={**body, "messages": says("hi")})
        ).status == 200
        response = await client.post("/v1/chat/completions", json=body, headers={"x-mooring-context": "1024"})
        assert response.status == 200, await response.text()
        deployment, _ = services.controller.resolve("tiny")
        assert [replica.context for replica in deployment.ready] == [1024]


async def test_a_full_queue_sheds_load_politely(tmp_path: Path) -> None:
    slow = {"tiny": fake_deployment(slots=1, options={"token_delay": 0.02})}
    async with fake_server(tmp_path, slow, queue_size=3) as (_, client):
        body = {"model": "tiny", "messages": says("hello"), "max_tokens": 10}
        responses = await asyncio.gather(*(client.post("/v1/chat/completions", json=body) for _ in range(8)))
        statuses = sorted(response.status for response in responses)
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 3
        refused = next(response for response in responses if response.status == 429)
        assert int(refused.headers["retry-after"]) >= 1
        waited = [int(r.headers["x-mooring-queue-position"]) for r in responses if r.status == 200]
        assert max(waited) >= 3


async def test_a_client_that_leaves_frees_its_slot(tmp_path: Path) -> None:
    slow = {"tiny": fake_deployment(slots=1, options={"token_delay": 0.05})}
    async with fake_server(tmp_path, slow) as (services, client):
        body = {"model": "tiny", "messages": says("hello"), "max_tokens": 2000, "stream": True}
        response = await client.session.post("/v1/chat/completions", json=body)
        await response.content.readany()
        deployment, _ = services.controller.resolve("tiny")
        assert deployment.active == 1
        response.close()
        async with asyncio.timeout(5):
            while deployment.active:
                await asyncio.sleep(0.01)
        short = {**body, "max_tokens": 2, "stream": False}
        async with asyncio.timeout(5):
            assert (await client.post("/v1/chat/completions", json=short)).status == 200


async def test_a_stream_that_nobody_began_to_read_frees_its_slot_when_closed(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, _):
        body = json.dumps({"model": "tiny", "messages": says("hello"), "stream": True}).encode()
        answer = await services.gateway.handle("chat/completions", body, Caller("t", Role.MEMBER), {})
        deployment, _ = services.controller.resolve("tiny")
        assert deployment.active == 1
        await answer.aclose()
        assert deployment.active == 0


async def test_an_idle_model_is_unloaded_and_comes_back(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, client):
        body = {"model": "tiny", "messages": says("hello"), "max_tokens": 2}
        assert (await client.post("/v1/chat/completions", json={**body, "keep_alive": 0})).status == 200
        deployment, _ = services.controller.resolve("tiny")
        async with asyncio.timeout(10):
            while deployment.replicas:
                await asyncio.sleep(0.01)
        assert (await client.post("/v1/chat/completions", json={**body, "keep_alive": -1})).status == 200
        assert deployment.ready[0].expires_at is None


async def test_models_say_what_they_can_and_whether_they_are_loaded(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (_, client):
        listed = (await (await client.get("/v1/models")).json())["data"]
        assert [(model["id"], model["state"]) for model in listed] == [("tiny:latest", "cold")]
        assert "chat" in listed[0]["capabilities"]
        body = {"model": "tiny", "messages": says("hello"), "max_tokens": 2}
        await client.post("/v1/chat/completions", json=body)
        one = await (await client.get("/v1/models/tiny")).json()
        assert (one["id"], one["state"]) == ("tiny:latest", "loaded")
        assert (await client.get("/v1/models/nothing")).status == 404


async def test_a_key_is_asked_for_as_soon_as_there_is_one(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (services, client):
        assert (await client.get("/v1/models")).status == 200
        _, secret = await services.storage.keys.create("member", Role.MEMBER)
        await services.auth.refresh()
        refused = await client.get("/v1/models")
        assert (refused.status, (await refused.json())["error"]["code"]) == (401, "invalid_api_key")
        for headers in ({"authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
            assert (await client.get("/v1/models", headers=headers)).status == 200
        member = {"authorization": f"Bearer {secret}"}
        assert (await client.get("/admin/v1/workers", headers=member)).status == 403
        admin = {"authorization": f"Bearer {services.local_token}"}
        assert (await client.get("/admin/v1/workers", headers=admin)).status == 200


async def test_web_pages_of_others_cannot_use_an_open_server(tmp_path: Path) -> None:
    async with fake_server(tmp_path, allowed_origins=["https://trusted.example"]) as (services, client):
        assert (await client.get("/v1/models", headers={"host": "rebound.example"})).status == 403
        assert (await client.get("/v1/models", headers={"origin": "https://evil.example"})).status == 403
        assert (await client.get("/v1/models", headers={"origin": services.url})).status == 200
        trusted = await client.get("/v1/models", headers={"origin": "https://trusted.example"})
        assert trusted.headers["access-control-allow-origin"] == "https://trusted.example"
        body = json.dumps({"model": "tiny", "messages": says("x")}).encode()
        simple = await client.post("/v1/chat/completions", data=body, headers={"content-type": "text/plain"})
        assert simple.status == 400


async def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with fake_server(tmp_path, max_body_bytes=1000) as (_, client):
        body = {"model": "tiny", "messages": says("x" * 2000)}
        assert (await client.post("/v1/chat/completions", json=body)).status == 413


async def test_metrics_tell_requests_and_the_workers_own_figures(tmp_path: Path) -> None:
    async with fake_server(tmp_path) as (_, client):
        body = {"model": "tiny", "messages": says("hello"), "max_tokens": 2}
        await client.post("/v1/chat/completions", json=body)
        page = await (await client.get("/metrics")).text()
    assert 'mooring_requests_total{endpoint="chat/completions",model="tiny:latest",status="200"} 1.0' in page
    assert 'generation_tokens_total{model="tiny:latest",worker="worker_' in page


async def test_sixteen_streams_at_once_all_arrive_whole(tmp_path: Path) -> None:
    replicas = {"tiny": fake_deployment(slots=2, replicas_max=2, options={"token_delay": 0.02})}
    async with fake_server(tmp_path, replicas) as (services, _):
        client = openai.AsyncOpenAI(base_url=f"{services.url}/v1", api_key="unused", max_retries=0)

        async def one(number: int) -> str:
            stream = await client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": f"stream {number}"}],
                max_tokens=20,
                stream=True,
            )
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        async with client:
            alone = await one(3)
            together = await asyncio.gather(*(one(number) for number in range(16)))
        deployment, _ = services.controller.resolve("tiny")
        assert together[3] == alone
        assert all(together)
        assert len(deployment.ready) == 2
        assert deployment.active == 0
