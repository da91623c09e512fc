"""What a client sees of a stream is whole events and one clear end, whatever the worker does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from mooring.engines.base import Prepared
from mooring.errors import MooringError
from mooring.gateway.answer import DONE
from mooring.gateway.dispatch import Dispatcher, Lease
from mooring.gateway.proxy import Proxy, WorkerGone
from mooring.telemetry.metrics import Metrics
from support.cluster import cluster

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
FAILED = b'data: {"error":{"message":"out of luck"}}\n\n'


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@asynccontextmanager
async def upstream(home: Path, reply: bytes) -> AsyncIterator[tuple[Proxy, Lease]]:
    """A worker that answers every request with these very bytes and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster(home, "a") as (controller, launcher), Proxy() as proxy:
        dispatcher = Dispatcher(controller, controller.settings, Metrics())
        deployment, _ = controller.resolve("a")
        lease = await dispatcher.acquire(deployment, tenant="t")
        launcher.started[0].url = f"http://127.0.0.1:{port}"
        yield proxy, lease
        assert deployment.active == 0


async def streamed(home: Path, reply: bytes) -> bytes:
    async with upstream(home, reply) as (proxy, lease):
        answer = await proxy.send(Prepared(path="/v1/chat/completions"), b"{}", stream=True, lease=lease)
        assert answer.events is not None
        raw = b"".join([piece async for piece in answer.events])
        await answer.aclose()
    assert raw.endswith(b"\n\n")
    return raw


def errors(raw: bytes) -> list[str]:
    events = [event[6:] for event in raw.split(b"\n\n") if event.startswith(b"data: {")]
    return [found["error"]["message"] for event in events if "error" in (found := orjson.loads(event))]


async def test_events_pass_on_as_they_are_however_they_were_cut(tmp_path: Path) -> None:
    pieces = (EVENT[:9], EVENT[9:-1], EVENT[-1:] + DONE[:3], DONE[3:])
    assert await streamed(tmp_path, HEAD + chunked(*pieces, b"")) == EVENT + DONE


async def test_a_stream_cut_in_the_middle_of_an_event_ends_with_one_whole_error(tmp_path: Path) -> None:
    raw = await streamed(tmp_path, HEAD + chunked(EVENT, EVENT[:20]))
    assert raw.startswith(EVENT)
    assert len(errors(raw)) == 1
    assert "mooring logs" in errors(raw)[0]
    assert DONE not in raw


async def test_an_end_without_done_is_an_error_not_an_answer(tmp_path: Path) -> None:
    assert len(errors(await streamed(tmp_path, HEAD + chunked(EVENT, b"")))) == 1


async def test_the_workers_own_error_event_is_the_only_one(tmp_path: Path) -> None:
    assert errors(await streamed(tmp_path, HEAD + chunked(EVENT, FAILED, b""))) == ["out of luck"]


async def test_nothing_follows_done(tmp_path: Path) -> None:
    assert await streamed(tmp_path, HEAD + chunked(EVENT + DONE, b": ping\n\n", b"")) == EVENT + DONE


async def test_a_worker_that_dawdles_after_done_does_not_hold_the_answer(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + chunked(EVENT + DONE))
        await writer.drain()
        await never.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with cluster(tmp_path, "a") as (controller, launcher), Proxy() as proxy:
        dispatcher = Dispatcher(controller, controller.settings, Metrics())
        deployment, _ = controller.resolve("a")
        lease = await dispatcher.acquire(deployment, tenant="t")
        launcher.started[0].url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(2):
            found = await proxy.send(Prepared(path="/v1/completions"), b"{}", stream=True, lease=lease)
            assert found.events is not None
            assert b"".join([piece async for piece in found.events]) == EVENT + DONE
        assert deployment.active == 0
        never.set()
    server.close()


async def test_a_worker_that_dies_before_answering_can_be_replaced(tmp_path: Path) -> None:
    async with upstream(tmp_path, b"") as (proxy, lease):
        with pytest.raises(WorkerGone):
            await proxy.send(Prepared(path="/v1/chat/completions"), b"{}", stream=True, lease=lease)


async def test_a_pooled_connection_that_the_worker_closes_costs_no_request_and_no_wait(
    tmp_path: Path,
) -> None:
    """The worker answers each connection once and closes it without a word when it is used again."""
    body = b'{"choices":[]}'
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(reply)
        await writer.drain()
        await reader.readexactly(1)
        writer.transport.abort()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster(tmp_path, "a") as (controller, launcher), Proxy() as proxy:
        dispatcher = Dispatcher(controller, controller.settings, Metrics())
        deployment, _ = controller.resolve("a")
        prepared = Prepared(path="/v1/completions")
        async with asyncio.timeout(0.9):
            for _ in range(6):
                lease = await dispatcher.acquire(deployment, tenant="t")
                launcher.started[0].url = f"http://127.0.0.1:{port}"
                assert (await proxy.send(prepared, b"{}", stream=False, lease=lease)).body == body


async def test_the_engines_refusal_keeps_its_meaning(tmp_path: Path) -> None:
    body = b'{"error":{"message":"no such thing","type":"invalid_request_error","code":"invalid_request","param":null}}'
    head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(
        body
    )
    async with upstream(tmp_path, head + body) as (proxy, lease):
        with pytest.raises(MooringError, match="no such thing") as refused:
            await proxy.send(Prepared(path="/v1/chat/completions"), b"{}", stream=True, lease=lease)
    assert refused.value.status == 400
