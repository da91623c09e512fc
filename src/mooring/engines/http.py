"""The HTTP shell of in-process engines: key check, errors, disconnects, one port on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import socket
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from mooring.engines.base import WorkerSpec
from mooring.engines.process import ParentPipe
from mooring.engines.wire import error_body
from mooring.errors import InvalidParameter, MooringError

T = TypeVar("T")


def json_response(data: object, status: int = 200) -> Response:
    return Response(orjson.dumps(data), status, media_type="application/json")


async def read_json(request: Request) -> dict[str, Any]:
    """The body as an object. Raises InvalidParameter when it is not one."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise InvalidParameter("body", f"not JSON: {error}; send one JSON object") from error
    if not isinstance(body, dict):
        raise InvalidParameter("body", "send one JSON object")
    return body


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """Await ``work``; cancel it and return None when the client goes away first."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class _KeyCheck:
    """Every route but ``/health`` wants ``Authorization: Bearer <spec.api_key>``."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                denied = {"error": {"message": "Invalid worker key", "code": "invalid_api_key"}}
                await json_response(denied, 401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def create_app(spec: WorkerSpec, routes: Sequence[BaseRoute]) -> Starlette:
    async def on_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, MooringError)
        return Response(error_body(error), error.status, media_type="application/json")

    return Starlette(
        routes=list(routes),
        middleware=[Middleware(_KeyCheck, api_key=spec.api_key)],
        exception_handlers={MooringError: on_error},
    )


class _Server(uvicorn.Server):
    """Leaves SIGTERM to the default action: a worker has nothing to save and must go within a second."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def loopback_listener() -> socket.socket:
    """A free port on loopback. The protocol is named because asyncio, without uvloop, sets TCP_NODELAY on such
    sockets only; without it, every answer waits 40 ms for the client's acknowledgement.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    return listener


def serve(app: Starlette, pipe: ParentPipe) -> None:
    """Listen on a free loopback port, say ready, and run until the parent says stop."""
    listener = loopback_listener()
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    server = _Server(config)

    def stop() -> None:
        server.should_exit = True

    pipe.watch(stop)
    pipe.ready(f"http://127.0.0.1:{listener.getsockname()[1]}")
    server.run(sockets=[listener])
