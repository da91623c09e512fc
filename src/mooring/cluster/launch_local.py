"""Workers as child processes of this one.

The worker gets its spec as one JSON line on stdin and answers with JSON lines on stdout (``loading``,
``ready``, ``failed``); its stderr is its log file. The open stdin tells it that its parent lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from mooring.cluster.replica import ProgressHook
from mooring.config import worker_environment
from mooring.engines.base import WorkerSpec
from mooring.engines.registry import get_engine
from mooring.errors import BadRequest, InvalidModelFile, MooringError, WorkerFailed
from mooring.telemetry.logging import get_logger

_STOP_SECONDS = 5.0
_KEPT_LOGS = 5
log = get_logger(__name__)


class LocalLauncher:
    """Starts workers as child processes; their logs go to ``logs_dir``."""

    def __init__(self, logs_dir: Path, load_timeout: float) -> None:
        self._logs_dir = logs_dir
        self._load_timeout = load_timeout

    async def start(self, spec: WorkerSpec, on_progress: ProgressHook) -> LocalProcess:
        """Start one worker and wait until it is ready.

        Raises WorkerFailed (with the log's last lines), or the worker's own verdict on its model file.
        """
        log_path = self._new_log(spec)
        with log_path.open("wb") as log_file:
            log_file.write(_log_head(spec))
            log_file.flush()
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                get_engine(spec.engine).worker_module,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log_file,
                env=worker_environment(),
            )
        process = LocalProcess(child, log_path)
        try:
            assert child.stdin is not None
            child.stdin.write(spec.to_json().encode() + b"\n")
            await child.stdin.drain()
            async with asyncio.timeout(self._load_timeout):
                process.url = await self._until_ready(process, spec, on_progress)
        except TimeoutError:
            await process.stop()
            raise WorkerFailed(
                f"The worker for '{spec.model}' was not ready within {self._load_timeout:g} s. Raise "
                f"load_timeout, or look into {log_path}.",
                log_tail=process.log_tail(20),
            ) from None
        except (BrokenPipeError, ConnectionResetError):
            raise await self._ended(process, spec) from None
        except BaseException:
            await process.stop()
            raise
        process.watch_output()
        return process

    def _new_log(self, spec: WorkerSpec) -> Path:
        self._logs_dir.mkdir(parents=True, exist_ok=True)
        old = logs_of(self._logs_dir, spec.model)
        for path in old[: max(0, len(old) - _KEPT_LOGS + 1)]:
            with contextlib.suppress(OSError):  # Windows keeps a log that a living worker writes
                path.unlink()
        return self._logs_dir / f"{_stem(spec.model)}--{spec.worker_id}.log"

    async def _until_ready(self, process: LocalProcess, spec: WorkerSpec, on_progress: ProgressHook) -> str:
        while line := await process.read_line():
            event = _event(line)
            match event.get("event"):
                case "loading":
                    on_progress(float(event.get("progress", 0.0)))
                case "ready":
                    return str(event["url"])
                case "failed":
                    await process.stop()
                    raise _verdict(event, spec, process)
        raise await self._ended(process, spec)

    async def _ended(self, process: LocalProcess, spec: WorkerSpec) -> WorkerFailed:
        code = await process.wait()
        tail = process.log_tail(20)
        return WorkerFailed(
            f"The worker for '{spec.model}' ended while loading ({explain_exit(code)}). "
            f"Its last words: {tail[-1] if tail else 'none'}. `mooring logs {spec.model}` shows more.",
            log_tail=tail,
        )


def _stem(model: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in model)


def logs_of(logs_dir: Path, model: str) -> list[Path]:
    """The logs of a model's workers, oldest first."""
    return sorted(logs_dir.glob(f"{_stem(model)}--*.log"), key=lambda path: path.stat().st_mtime)


def _log_head(spec: WorkerSpec) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return (
        f"{now} {spec.engine} worker {spec.worker_id} of {spec.model}: {spec.weights}, context {spec.context}, "
        f"{spec.slots} slots, {spec.threads} threads, {spec.gpu_layers} GPU layers\n"
    ).encode()


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return event if isinstance(event, dict) else {}


def _verdict(event: dict[str, Any], spec: WorkerSpec, process: LocalProcess) -> MooringError:
    message = f"'{spec.model}' could not be loaded: {event.get('error', 'no reason given')}"
    match event.get("code"):
        case "invalid_model_file":
            return InvalidModelFile(message)
        case "invalid_request" | "invalid_parameter" | "unsupported":
            return BadRequest(message, code=event["code"])
        case _:
            return WorkerFailed(message, log_tail=process.log_tail(20))


def explain_exit(code: int) -> str:
    """An exit code in words; negative codes are signals."""
    if code == -9:
        return "killed by signal 9: by hand, or by the system because memory ran out"
    if code < 0:
        return f"killed by signal {-code}"
    return f"exit code {code}"


class LocalProcess:
    """A child process and its log."""

    def __init__(self, child: asyncio.subprocess.Process, log_path: Path) -> None:
        self._child = child
        self._output: asyncio.Task[None] | None = None
        self.log_path = log_path
        self.url = ""

    @property
    def pid(self) -> int:
        return self._child.pid

    async def read_line(self) -> bytes:
        """The next line of its standard output; empty at the end."""
        assert self._child.stdout is not None
        return await self._child.stdout.readline()

    def watch_output(self) -> None:
        """Keep reading, so that a chatty worker never blocks on a full pipe."""
        self._output = asyncio.create_task(self._discard())

    async def _discard(self) -> None:
        while await self.read_line():
            pass

    async def wait(self) -> int:
        return await self._child.wait()

    async def stop(self) -> None:
        if self._child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._child.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._child.wait()
            except TimeoutError:
                log.warning("worker did not stop when asked; killing it", pid=self.pid)
                with contextlib.suppress(ProcessLookupError):
                    self._child.kill()
                await self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()
        if self._output is not None:
            await self._output

    def memory_bytes(self) -> int:
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def log_tail(self, lines: int) -> Sequence[str]:
        return tail(self.log_path, lines)


def tail(path: Path, lines: int, limit: int = 256 * 1024) -> Sequence[str]:
    """The last ``lines`` lines of a text file, of at most its last ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - limit))
            text = file.read(limit).decode("utf-8", "replace")
    except OSError:
        return ()
    return tuple(deque(text.splitlines(), maxlen=lines))
