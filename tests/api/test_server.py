"""``mooring serve`` as a process: how it starts, refuses to start, and stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from mooring.api.server import bind
from mooring.config import ConfigError, Settings
from mooring.engines.http import loopback_listener
from support.server import fake_home, mooring_serve

CONFIG = "deployments:\n  tiny:\n    engine: fake\n    context: 256\n    options: {token_delay: 0.02}\n"


def prepared(home: Path) -> Path:
    fake_home(home, "tiny")
    (home / "mooring.yaml").write_text(CONFIG)
    return home


def ask(url: str, **fields: object) -> bytes:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], **fields}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())


def refused(home: Path, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", "mooring", "--home", str(home), "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
    return run.stderr


def test_a_busy_port_is_said_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = refused(tmp_path, "--port", str(taken.getsockname()[1]))
    assert "--port" in message


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_this_machines_is_not_called_a_busy_port(host: str) -> None:
    with pytest.raises(ConfigError, match="--host"):
        bind(Settings(host=host, port=0))


@pytest.mark.parametrize("listen", [lambda: bind(Settings(port=0)), loopback_listener])
def test_answers_do_not_wait_for_acknowledgements_without_uvloop(
    listen: Callable[[], socket.socket],
) -> None:
    async def nodelay() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = listen()
        async with await asyncio.start_server(accept, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.close()
            return await accepted

    assert asyncio.run(nodelay())


def test_another_address_needs_a_key(tmp_path: Path) -> None:
    assert "mooring key create" in refused(tmp_path, "--host", "0.0.0.0", "--port", "0")


def test_a_typing_error_in_the_settings_is_named(tmp_path: Path) -> None:
    (tmp_path / "mooring.yaml").write_text("prot: 80\n")
    assert "'port'" in refused(tmp_path)


def test_the_address_file_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    with mooring_serve(prepared(tmp_path)) as server:
        file = tmp_path / "server.json"
        assert json.loads(file.read_text())["url"] == server.url
        if os.name == "posix":
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not file.exists()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigterm_lets_running_answers_finish(tmp_path: Path) -> None:
    answers: list[bytes] = []
    with mooring_serve(prepared(tmp_path)) as server:
        ask(server.url, max_tokens=1)
        thread = threading.Thread(target=lambda: answers.append(ask(server.url, max_tokens=60, stream=True)))
        thread.start()
        while b'"active":1' not in _get(f"{server.url}/admin/v1/workers"):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        thread.join(20)
    assert answers[0].endswith(b"data: [DONE]\n\n")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_workers_end_when_the_server_is_killed(tmp_path: Path) -> None:
    with mooring_serve(prepared(tmp_path)) as server:
        ask(server.url, max_tokens=1)
        pid = json.loads(_get(f"{server.url}/admin/v1/workers"))["data"][0]["pid"]
        server.process.kill()
        server.process.wait(10)
        deadline = time.monotonic() + 10
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _alive(pid)


def test_what_was_deployed_is_there_after_a_restart(tmp_path: Path) -> None:
    with mooring_serve(prepared(tmp_path)) as server:
        request = urllib.request.Request(
            f"{server.url}/admin/v1/deployments/tiny",
            json.dumps({"engine": "fake", "replicas_min": 1, "context": 64}).encode(),
            {"content-type": "application/json"},
            method="PUT",
        )
        urllib.request.urlopen(request, timeout=10).close()
    with mooring_serve(tmp_path) as server:
        deadline = time.monotonic() + 20
        while (
            b'"state":"ready"' not in _get(f"{server.url}/admin/v1/workers") and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        workers = json.loads(_get(f"{server.url}/admin/v1/workers"))["data"]
    assert [(worker["model"], worker["context"]) for worker in workers] == [("tiny:latest", 64)]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as response:
        return bytes(response.read())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
