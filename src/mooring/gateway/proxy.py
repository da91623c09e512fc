"""Forwarding one request to one replica over a pooled connection. Stream chunks pass on as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Any

import aiohttp
import orjson

from mooring.cluster.replica import Replica, ReplicaState
from mooring.engines.base import EventFilter, Prepared
from mooring.engines.registry import get_engine
from mooring.errors import UpstreamFailed
from mooring.gateway.answer import DONE, Answer, encode, error_event
from mooring.gateway.dispatch import Lease

_GONE = (aiohttp.ClientError, ConnectionError, TimeoutError)
_EVENT_END = b"\n\n"
_STALE_CONNECTIONS = 2
_ERROR = b'data: {"error":'


class WorkerGone(Exception):
    """The worker went away before the first byte of its answer: another may be asked."""

    def __init__(self, error: UpstreamFailed) -> None:
        super().__init__(error.message)
        self.error = error


class Proxy:
    """One connection pool for all workers; use as an async context manager."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Proxy:
        # llama.cpp's server closes a connection after 5 idle seconds: let go of it first.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=3)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, read_bufsize=2**18
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def send(self, prepared: Prepared, raw: bytes, *, stream: bool, lease: Lease) -> Answer:
        """Ask the lease's replica. The lease is released when the answer is complete, or on any error.

        Raises the engine's refusal as a MooringError, WorkerGone if it died before answering.
        """
        try:
            response = await self._post(prepared, raw, lease.replica)
        except BaseException:
            lease.release()
            raise
        if stream and response.status == 200:
            events = prepared.events() if prepared.events is not None else None

            def close() -> None:
                response.close()
                lease.release()

            return Answer(events=self._stream(response, events, lease), on_close=close)
        try:
            body = await response.read()
            lease.release(answered=response.status < 500)
        except _GONE as error:
            raise WorkerGone(await why_gone(lease.replica, error)) from error
        finally:
            response.release()
            lease.release()
        if response.status != 200:
            raise get_engine(lease.replica.spec.engine).dialect.error(
                response.status, body, lease.replica.target
            )
        return Answer(body=prepared.unary(body) if prepared.unary is not None else body)

    async def _post(self, prepared: Prepared, raw: bytes, replica: Replica) -> aiohttp.ClientResponse:
        assert self._session is not None
        data = raw if prepared.body is None else encode(prepared.body)
        headers = {"authorization": f"Bearer {replica.spec.api_key}", "content-type": "application/json"}
        url = replica.url + prepared.path
        for attempt in range(_STALE_CONNECTIONS + 1):
            try:
                return await self._session.post(url, data=data, headers=headers)
            except aiohttp.ClientConnectorError as error:
                raise WorkerGone(await why_gone(replica, error)) from error
            except _GONE as error:
                # The worker may have closed a pooled connection as we took it: that is no reason to wait.
                if attempt == _STALE_CONNECTIONS or replica.state is not ReplicaState.READY:
                    raise WorkerGone(await why_gone(replica, error)) from error
        raise AssertionError("unreachable")

    async def get(self, replica: Replica, path: str) -> bytes:
        """A worker's own page, such as ``/metrics``. Raises aiohttp.ClientError."""
        assert self._session is not None
        headers = {"authorization": f"Bearer {replica.spec.api_key}"}
        async with self._session.get(replica.url + path, headers=headers, raise_for_status=True) as response:
            return await response.read()

    async def _stream(
        self, response: aiohttp.ClientResponse, events: EventFilter | None, lease: Lease
    ) -> AsyncGenerator[bytes, None]:
        """Pass whole events on. A stream that breaks off ends with an error event, never mid-event."""
        pending, done, failed = b"", False, False
        try:
            async for chunk in response.content.iter_any():
                data = pending + chunk if pending else chunk
                end = data.rfind(_EVENT_END) + 2
                if end < 2:
                    pending = data
                    continue
                pending, whole = data[end:], data[:end]
                if (last := whole.find(DONE)) >= 0:
                    whole, done = whole[: last + len(DONE)], True
                failed = _ERROR in whole
                out = whole if events is None else _filtered(whole, events)
                if out:
                    yield out
                if done or failed:
                    break  # llama.cpp may keep the connection open up to 30 s after [DONE]: do not wait for its end
            if not done and not failed:
                raise aiohttp.ClientPayloadError("the answer ended without [DONE]")
        except _GONE as error:
            yield error_event(await why_gone(lease.replica, error))
        finally:
            response.release()
            lease.release(answered=done)


def _filtered(whole: bytes, events: EventFilter) -> bytes:
    return b"".join(events.feed(event + _EVENT_END) for event in whole.split(_EVENT_END)[:-1])


async def why_gone(replica: Replica, error: BaseException) -> UpstreamFailed:
    """Words for a broken connection; a dying worker is given a moment to be noticed."""
    for _ in range(20):
        if replica.state is not ReplicaState.READY:
            break
        await asyncio.sleep(0.05)
    reason = replica.last_error or f"{type(error).__name__}: {error}"
    return UpstreamFailed(
        f"The worker of '{replica.spec.model}' failed while it answered ({reason}). Send the request again; "
        f"`mooring logs {replica.spec.model}` shows what it said.",
        code="worker_failed",
    )


def parse_event(event: bytes) -> dict[str, Any] | None:
    """The JSON of a ``data:`` event; None for comments and ``[DONE]``."""
    if not event.startswith(b"data: ") or event.startswith(b"data: [DONE]"):
        return None
    parsed = orjson.loads(event[6:])
    return parsed if isinstance(parsed, dict) else None
