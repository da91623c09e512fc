from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest

from mooring.engines.base import WorkerSpec
from mooring.engines.registry import get_engine
from mooring.errors import InvalidParameter
from mooring.types import Capability
from support.worker import Worker, make_spec, send_spec, start_worker


def test_a_spec_survives_the_pipe_to_the_worker(tmp_path: Path) -> None:
    spec = make_spec(
        "fake",
        tmp_path / "gewichte ä.gguf",
        projector=tmp_path / "p",
        adapters=(tmp_path / "a",),
        capabilities=frozenset({Capability.CHAT, Capability.VISION}),
        options={"token_delay": 0.5},
    )
    assert "\n" not in spec.to_json()
    assert WorkerSpec.from_json(spec.to_json()) == spec


def test_an_unknown_engine_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidParameter, match="llamacpp"):
        get_engine("llama.cpp")


def test_a_worker_dies_with_its_parent(tmp_path: Path) -> None:
    with start_worker(make_spec("fake", tmp_path), tmp_path / "log") as worker:
        assert worker.process.stdin is not None
        worker.process.stdin.close()
        worker.process.wait(5)


@pytest.mark.skipif(
    sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's; elsewhere the load ends first"
)
def test_a_worker_dies_with_its_parent_even_while_it_loads(tmp_path: Path) -> None:
    spec = make_spec("fake", tmp_path, options={"load_time": 600})
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'mooring.engines.fake.worker'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)\n"
        "child.stdin.write(sys.argv[1] + '\\n'); child.stdin.flush()\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", script, spec.to_json()], capture_output=True, text=True, check=True, timeout=30
    )
    pid = int(parent.stdout)
    deadline = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_sigterm_ends_a_worker_within_a_second_even_with_a_stream_open(tmp_path: Path) -> None:
    spec = make_spec("fake", tmp_path, options={"token_delay": 0.05})
    with start_worker(spec, tmp_path / "log") as worker:
        stream = worker.call("/v1/completions", {"prompt": "/count 100", "stream": True})
        with stream:
            stream.readline()
            worker.process.terminate()
            worker.process.wait(1)


def test_stop_ends_a_worker_cleanly(tmp_path: Path) -> None:
    with start_worker(make_spec("fake", tmp_path), tmp_path / "log") as worker:
        assert worker.process.stdin is not None
        worker.process.stdin.write("stop\n")
        worker.process.stdin.flush()
        assert worker.process.wait(5) == 0


def test_a_worker_that_cannot_load_says_why(tmp_path: Path) -> None:
    for options in ({"fail": "no such file"}, {"speed": "warp"}):
        process = subprocess.Popen(
            [sys.executable, "-m", "mooring.engines.fake.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            *_, last = send_spec(process, make_spec("fake", tmp_path, options=options))
        assert last["event"] == "failed"
        assert next(iter(options.values())) in last["error"] or "speed" in last["error"]


def test_a_worker_refuses_callers_without_its_key(fake: Worker) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        fake.call("/v1/models", key="guess")
    assert refused.value.code == 401
    refused.value.close()
    with fake.call("/health", key="guess") as response:
        assert response.status == 200
