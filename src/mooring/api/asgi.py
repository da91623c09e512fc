"""The few ASGI moves that the hot path needs, without a framework between (ASGI 3.0 specification)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import orjson
from starlette.types import Receive, Scope, Send

from mooring.errors import BadRequest, MooringError, PayloadTooLarge
from mooring.gateway.answer import Answer, error_body

JSON_TYPE = (b"content-type", b"application/json")
SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class ClientLeft(Exception):
    """The client closed its connection; there is nobody to answer."""


def headers_of(scope: Scope) -> dict[str, str]:
    """Header names (lower case) and values; of a repeated header the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def read_body(receive: Receive, limit: int, declared: str | None) -> bytes:
    """The whole body, of at most ``limit`` bytes. Raises PayloadTooLarge, ClientLeft."""
    if declared is not None and declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
        if not message.get("more_body"):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than {limit} bytes (max_body_bytes). Send less at a time.")


@asynccontextmanager
async def until_client_leaves(receive: Receive) -> AsyncIterator[None]:
    """Cancel the block when the client disconnects, and turn that into ClientLeft."""
    owner = asyncio.current_task()
    assert owner is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        owner.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if left and owner.uncancel() == 0:
            raise ClientLeft from None
        raise
    finally:
        watcher.cancel()


async def send_bytes(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


def encode_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


async def send_answer(send: Send, answer: Answer, extra: Iterable[tuple[bytes, bytes]]) -> None:
    """Send a gateway's answer; the stream is closed whatever happens."""
    headers = [*encode_headers(answer.headers), *extra]
    if answer.events is None:
        await send_bytes(send, 200, answer.body, [JSON_TYPE, *headers])
        return
    try:
        await send({"type": "http.response.start", "status": 200, "headers": [*SSE_HEADERS, *headers]})
        async for event in answer.events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        await answer.aclose()


def error_headers(error: MooringError) -> list[tuple[bytes, bytes]]:
    headers = [JSON_TYPE]
    if error.retry_after is not None:
        headers.append((b"retry-after", str(max(1, round(error.retry_after))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


async def send_error(send: Send, error: MooringError, extra: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """An error in OpenAI's shape."""
    await send_bytes(send, error.status, orjson.dumps(error_body(error)), [*error_headers(error), *extra])


def unexpected() -> MooringError:
    """What a client is told of an error that nobody foresaw."""
    return MooringError("The server made an error; its log has the details. Try again.")


def require_json(headers: Mapping[str, str]) -> None:
    """Raises BadRequest unless the content type is JSON: browsers cannot send that across origins unasked."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest(
            "Send the body with 'Content-Type: application/json'.", code="unsupported_media_type"
        )
