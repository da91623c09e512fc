"""The commands that speak to a server, against real ones on the fake engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.line import CommandLine
from mooring.cli.exit_codes import ExitCode
from mooring.cli.server import read_server_file
from support.server import RunningServer, mooring_serve


def test_a_prompt_is_answered_once_and_the_model_stays_loaded(served: CommandLine) -> None:
    result = served("run", "tiny", "Good", "morning")
    assert result.exit_code == 0, result.output
    assert "Good morning" in result.stdout
    loaded = served.json("ps")
    assert [worker["model"] for worker in loaded] == ["tiny:latest"]
    assert "tiny:latest" in served("ps").stdout
    assert served("logs", "tiny", "-n", "5").exit_code == 0
    assert served("stop", "tiny").exit_code == 0
    assert served.json("ps") == []


def test_piped_text_is_the_prompt_or_joins_it(served: CommandLine) -> None:
    assert "from a pipe" in served("run", "tiny", stdin="from a pipe").stdout
    both = served("run", "tiny", "Summarise:", stdin="the text").stdout
    assert both.index("Summarise:") < both.index("the text")


def test_a_script_gets_the_answer_and_its_usage(served: CommandLine) -> None:
    answer = served.json("run", "tiny", "Hi", "--set", "max_tokens=3")
    assert answer["usage"]["completion_tokens"] == 3
    assert answer["finish_reason"] == "length"
    assert answer["model"] == "tiny:latest"


def test_a_schema_file_shapes_the_answer(served: CommandLine, tmp_path: Path) -> None:
    schema = tmp_path / "city.json"
    schema.write_text('{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}')
    answer = served("run", "tiny", "Where?", "--schema", str(schema)).stdout
    assert set(json.loads(answer)) == {"city"}


def test_an_empty_pipe_is_a_usage_error(served: CommandLine) -> None:
    assert served("run", "tiny").exit_code == ExitCode.USAGE
    assert served("run", "tiny", "Hi", "--set", "temperature").exit_code == ExitCode.USAGE
    assert served("run", "tiny", "Hi", "--keep-alive", "soon").exit_code == ExitCode.USAGE


def test_an_unknown_model_shows_the_nearest(served: CommandLine) -> None:
    result = served("run", "tinny", "Hi")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "tiny:latest" in result.stderr
    assert served("stop", "tinny").exit_code == ExitCode.NOT_FOUND
    assert served("logs", "tinny").exit_code == ExitCode.NOT_FOUND


def test_a_server_that_is_named_is_asked_without_a_home(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = read_server_file(server.home / "server.json")
    assert token is not None
    environment = {**os.environ, "MOORING_API_KEY": token.token}
    command = [
        sys.executable,
        "-m",
        "mooring",
        "--home",
        str(tmp_path),
        "--url",
        server.url,
        "run",
        "other",
        "Hello",
    ]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout


def test_commands_without_a_server_say_how_to_start_one(mooring: CommandLine) -> None:
    for command in (["ps"], ["stop", "tiny"], ["stop", "--server"], ["logs", "tiny"]):
        result = mooring(*command)
        assert result.exit_code == ExitCode.UNREACHABLE, result.output
    assert "mooring serve" in mooring("ps").stderr
    assert mooring("stop").exit_code == ExitCode.USAGE


def test_run_starts_a_server_for_the_session_and_stops_it(stocked: CommandLine) -> None:
    result = stocked("run", "tiny", "Hello there", "--verbose")
    assert result.exit_code == 0, result.output + (stocked.home / "logs/session-server.log").read_text()
    assert "Hello there" in result.stdout
    assert "tokens" in result.stderr
    assert not (stocked.home / "server.json").exists()


def test_a_session_server_that_cannot_start_shows_its_last_words(stocked: CommandLine) -> None:
    (stocked.home / "state.db").mkdir()
    result = stocked("run", "tiny", "Hi")
    assert result.exit_code == ExitCode.FAILURE
    assert "session-server.log" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_the_session_server_ends_when_its_chat_is_killed(stocked: CommandLine) -> None:
    command = [sys.executable, "-m", "mooring", "--home", str(stocked.home), "run", "tiny", "/count 100000"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as chat:
        assert chat.stdout is not None
        assert chat.stdout.read(4)
        running = read_server_file(stocked.home / "server.json")
        assert running is not None
        chat.kill()
    wait_until_gone(running.pid)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT")
def test_ctrl_c_stops_a_long_answer_with_130(served: CommandLine) -> None:
    command = [sys.executable, "-m", "mooring", "--home", str(served.home), "run", "tiny", "/count 100000"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as chat:
        assert chat.stdout is not None
        assert chat.stderr is not None
        assert chat.stdout.read(4)
        chat.send_signal(signal.SIGINT)
        assert chat.wait(30) == ExitCode.INTERRUPTED
        assert b"Traceback" not in chat.stderr.read()


def test_stop_server_drains_and_ends_it(stocked: CommandLine) -> None:
    with mooring_serve(stocked.home) as running:
        assert stocked.json("stop", "--server")["url"] == running.url
        assert running.process.wait(30) == 0


def test_a_busy_port_says_who_has_it_and_what_to_do(mooring: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = process(mooring.home, "serve", "--port", port)
    assert done.returncode == ExitCode.FAILURE
    assert port in done.stderr
    assert str(os.getpid()) in done.stderr
    assert "--port" in done.stderr


def test_a_second_server_of_a_home_is_pointed_to_the_first(
    served: CommandLine, server: RunningServer
) -> None:
    done = process(served.home, "serve", "--port", server.url.rpartition(":")[2])
    assert server.url in done.stderr
    assert "mooring stop --server" in done.stderr


def test_options_for_models_need_a_model(mooring: CommandLine) -> None:
    result = mooring("serve", "--ctx", "512")
    assert result.exit_code == ExitCode.USAGE
    assert "MODEL" in result.stderr


def test_a_served_model_is_loaded_without_being_asked_until_it_is_stopped(stocked: CommandLine) -> None:
    with mooring_serve(stocked.home, "tiny", "--engine", "fake", "--ctx", "128", "--slots", "3"):
        deadline = time.monotonic() + 30
        while not (workers := stocked.json("ps")) or workers[0]["state"] != "ready":
            assert time.monotonic() < deadline
        assert "no longer kept" in stocked("stop", "tiny").stdout
        assert stocked.json("ps") == []
    assert (workers[0]["context"], workers[0]["slots"]) == (128, 3)


def process(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "mooring", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def wait_until_gone(pid: int) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(timeout=30)
    except psutil.NoSuchProcess:
        return
