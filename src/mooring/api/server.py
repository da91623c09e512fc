"""``mooring serve``: one process that listens until it is told to stop, then drains."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import orjson
import uvicorn

from mooring.api.app import create_app
from mooring.api.security import is_loopback
from mooring.api.services import Services, open_services
from mooring.config import ConfigError, DeploymentSettings, Settings
from mooring.errors import Conflict
from mooring.telemetry.logging import configure_logging, get_logger

log = get_logger(__name__)
_LAST_CALL_SECONDS = 1.5


def serve(settings: Settings, deployments: Mapping[str, DeploymentSettings]) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit code. ``deployments`` are declared and remembered.

    Raises Conflict when the port is busy, ConfigError when the address is not this machine's or would be open to
    others without a key.
    """
    configure_logging(settings.log_level, settings.log_format)
    listener = bind(settings)
    with contextlib.closing(listener), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, deployments, listener))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists (not on Windows)."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def bind(settings: Settings) -> socket.socket:
    """Take the port. Raises Conflict, ConfigError; see ``serve``."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With the protocol named, asyncio sets TCP_NODELAY also where there is no uvloop.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform != "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(
                f"Cannot listen on '{settings.host}': {error.strerror or error}. Give --host a name or an address "
                f"of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for its network."
            ) from error
        raise Conflict(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Another program "
            f"(perhaps another `mooring serve`) has that port; choose one with --port.",
            code="port_busy",
        ) from error
    return listener


async def _serve(
    settings: Settings, deployments: Mapping[str, DeploymentSettings], listener: socket.socket
) -> int:
    async with open_services(settings, deployments) as services:
        if settings.auth and not is_loopback(settings.host) and not await services.storage.keys.any_valid():
            raise ConfigError(
                f"Refusing to listen on {settings.host} without a key: everyone who reaches it could use it. "
                f"Run `mooring key create` first, or pass --no-auth if the network is trusted."
            )
        host, port = listener.getsockname()[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104
        services.url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
        server = _Server(services)
        with _announced(services):
            await server.serve(sockets=[listener])
        return 0


class _Server(uvicorn.Server):
    """uvicorn, told to refuse new work while it drains and to say where it listens."""

    def __init__(self, services: Services) -> None:
        config = uvicorn.Config(
            create_app(services),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=65,
            timeout_graceful_shutdown=max(1, round(services.settings.drain_timeout)),
        )
        super().__init__(config)
        self._services = services

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on SIGTERM and Ctrl-C. uvicorn would raise the signal again at the end, and so end this
        process before its workers are stopped.
        """
        names = ("SIGINT", "SIGTERM", "SIGBREAK")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        mode = "open to this machine, no key needed" if self._services.auth.open_mode else "key needed"
        print(f"Mooring is ready: {self._services.url}  ({mode})", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        services, seconds = self._services, self._services.settings.drain_timeout
        services.dispatcher.draining = True
        log.info("draining", seconds=seconds)
        last_call = asyncio.create_task(_last_call(services, max(0.0, seconds - _LAST_CALL_SECONDS)))
        try:
            await super().shutdown(sockets)
        finally:
            last_call.cancel()


async def _last_call(services: Services, seconds: float) -> None:
    """Before time is up, tell those who still wait or read: an error in words instead of a cut connection."""
    await asyncio.sleep(seconds)
    services.dispatcher.refuse_waiting()
    await services.controller.close()


@contextlib.contextmanager
def _announced(services: Services) -> Iterator[None]:
    """``server.json`` for the CLI on this host, readable by this user only, while the server runs."""
    path = services.settings.server_file
    content = orjson.dumps({"url": services.url, "pid": os.getpid(), "token": services.local_token})
    _write_private(path, content)
    try:
        yield
    finally:
        if path.is_file() and orjson.loads(path.read_bytes()).get("pid") == os.getpid():
            path.unlink()


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.replace(path)
