"""The server that a command speaks to: the one named, the one that runs here, or one started for the session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mooring.cli.client import Client, ServerUnreachable
from mooring.cli.invocation import Invocation
from mooring.config import client_environment
from mooring.errors import WorkerFailed

if TYPE_CHECKING:
    from mooring.config import Settings

_START_TIMEOUT = 60.0
_POLL = 0.05


@dataclass(frozen=True)
class RunningServer:
    """What ``server.json`` in the home folder says."""

    url: str
    pid: int
    token: str


@dataclass(frozen=True)
class Connection:
    """``is_local``: the server works on this home folder, so that pulling into its store is our own work."""

    client: Client
    is_local: bool


def read_server_file(path: Path) -> RunningServer | None:
    """None where there is no such file, or none that a server has finished writing."""
    try:
        fields = json.loads(path.read_text("utf-8"))
        return RunningServer(url=str(fields["url"]), pid=int(fields["pid"]), token=str(fields["token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_server(invocation: Invocation) -> Connection | None:
    """The server that was named, unasked; else the one of the home folder if it is alive; else None.

    A key from MOORING_API_KEY goes to any server, the home folder's token only to the server that wrote it.
    """
    named_url, key = client_environment()
    named_url = invocation.url or named_url
    running = read_server_file(invocation.settings().server_file)
    if named_url:
        client = Client(named_url, key)
        if running is not None and client.url == running.url.rstrip("/"):
            return Connection(Client(running.url, key or running.token), is_local=True)
        return Connection(client, is_local=False)
    if running is None:
        return None
    client = Client(running.url, key or running.token)
    return Connection(client, is_local=True) if client.is_alive() else None


def connect(invocation: Invocation) -> Connection:
    """Like ``find_server``, but its absence is ServerUnreachable."""
    found = find_server(invocation)
    if found is None:
        raise ServerUnreachable(
            f"No server is running for {invocation.settings().home}. Start one with `mooring serve`, "
            f"or name one with --url."
        )
    return found


@contextmanager
def session_server(invocation: Invocation, *, offline: bool = False) -> Iterator[Connection]:
    """A server for this session: a child process on a free port, stopped at the end.

    It also ends when this process dies, because it watches its stdin.
    Raises WorkerFailed with the last lines of its log when it does not start.
    """
    settings = invocation.settings()
    settings.logs_dir.mkdir(parents=True, exist_ok=True)
    log_path = settings.logs_dir / "session-server.log"
    settings.server_file.unlink(missing_ok=True)
    child = _spawn(settings, log_path, offline=offline)
    try:
        running = _wait_until_ready(child, settings.server_file, log_path)
        _, key = client_environment()
        yield Connection(Client(running.url, key or running.token), is_local=True)
    finally:
        _end(child, settings.drain_timeout)


def _spawn(settings: Settings, log_path: Path, *, offline: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mooring", "--home", str(settings.home), "serve"]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--stop-with-parent",
        *(["--offline"] if offline else []),
    ]
    # A process group of its own: Ctrl-C in the terminal stops an answer, not the server.
    group: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    with log_path.open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, **group)


def _wait_until_ready(child: subprocess.Popen[bytes], server_file: Path, log_path: Path) -> RunningServer:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        running = read_server_file(server_file)
        if running is not None and Client(running.url).is_alive():
            return running
        if child.poll() is not None:
            break
        time.sleep(_POLL)
    ended = f"ended with code {child.returncode}" if child.poll() is not None else "did not start in time"
    tail = log_path.read_text("utf-8", "replace").splitlines()[-15:]
    raise WorkerFailed(f"The server for this session {ended}. Its log is {log_path}.", log_tail=tail)


def _end(child: subprocess.Popen[bytes], drain_timeout: float) -> None:
    """Close the child's stdin, which it takes as the order to stop; kill it if it does not."""
    if child.stdin is not None:
        child.stdin.close()
    try:
        child.wait(timeout=drain_timeout + 5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def stop_server(invocation: Invocation) -> RunningServer:
    """End the server of the home folder and wait until it is gone. Raises ServerUnreachable."""
    import signal

    settings = invocation.settings()
    running = read_server_file(settings.server_file)
    if running is None or not Client(running.url).is_alive():
        raise ServerUnreachable(f"No server is running for {settings.home}; there is nothing to stop.")
    os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + settings.drain_timeout + 10
    while Client(running.url).is_alive(timeout=1.0):
        if time.monotonic() > deadline:
            raise WorkerFailed(
                f"The server (process {running.pid}) is still draining; end it by its process id."
            )
        time.sleep(_POLL)
    return running
