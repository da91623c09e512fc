"""One worker process, asked as the gateway asks it: through its engine's dialect."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mooring.config import worker_environment
from mooring.engines.base import Target, WorkerSpec
from mooring.engines.registry import get_engine
from mooring.types import Capability, ModelFormat, ModelInfo

TEXT = frozenset({Capability.CHAT, Capability.COMPLETION})


def make_spec(engine: str, weights: Path, **changes: Any) -> WorkerSpec:
    spec = WorkerSpec(
        engine=engine,
        model="tiny:latest",
        worker_id="wrk-test",
        weights=weights,
        api_key="worker-key",
        capabilities=TEXT,
        context=512,
        slots=2,
        threads=2,
    )
    return replace(spec, **changes)


def make_target(spec: WorkerSpec, **info: Any) -> Target:
    known = {"format": ModelFormat.GGUF, "architecture": "llama", "capabilities": spec.capabilities, **info}
    return Target(model=spec.model, context=spec.context, info=ModelInfo(**known))


@dataclass
class Worker:
    """A ready worker."""

    process: subprocess.Popen[str]
    spec: WorkerSpec
    target: Target
    url: str

    def call(self, path: str, body: object = None, key: str | None = None) -> Any:
        """The open HTTP response; raises HTTPError."""
        headers = {"authorization": f"Bearer {key or self.spec.api_key}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.urlopen(urllib.request.Request(self.url + path, data, headers), timeout=120)

    def ask(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """One unary request through the dialect. Raises the MooringError that a client would get."""
        dialect = get_engine(self.spec.engine).dialect
        prepared = dialect.prepare(endpoint, body, self.target)
        try:
            with self.call(prepared.path, prepared.body or body) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise dialect.error(error.code, error.read(), self.target) from None
        if prepared.unary is not None:
            answer = prepared.unary(answer)
        return cast("dict[str, Any]", json.loads(answer))

    def stream(self, endpoint: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of one streamed request through the dialect, without ``[DONE]``."""
        prepared = get_engine(self.spec.engine).dialect.prepare(
            endpoint, body | {"stream": True}, self.target
        )
        sent = prepared.body or body | {"stream": True}
        filter_ = prepared.events() if prepared.events is not None else None
        with self.call(prepared.path, sent) as response:
            for event in _events(response):
                passed = filter_.feed(event) if filter_ is not None else event
                yield from parse_events(passed)

    def chat(self, text: str, **more: Any) -> dict[str, Any]:
        return self.ask("chat/completions", chat_body(text, **more))


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "tiny:latest", "messages": [{"role": "user", "content": text}], **more}


def _events(response: Any) -> Iterator[bytes]:
    waiting = b""
    while piece := response.read1(65536):
        *events, waiting = (waiting + piece).split(b"\n\n")
        yield from (event + b"\n\n" for event in events)


def parse_events(data: bytes) -> list[dict[str, Any]]:
    """The JSON objects of whole server-sent events."""
    parts = [part.removeprefix(b"data: ") for part in data.split(b"\n\n") if part.startswith(b"data: {")]
    return [json.loads(part) for part in parts]


@contextmanager
def start_worker(spec: WorkerSpec, log: Path, **info: Any) -> Iterator[Worker]:
    """A worker process as the launcher starts it, its stderr in ``log``."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", get_engine(spec.engine).worker_module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=worker_environment(),
        )
    try:
        events = list(send_spec(process, spec))
        assert events[-1]["event"] == "ready", (events, log.read_text())
        yield Worker(process, spec, make_target(spec, **info), events[-1]["url"])
    finally:
        process.kill()
        with process:  # closes its pipes
            process.wait()


def send_spec(process: subprocess.Popen[str], spec: WorkerSpec) -> Iterator[dict[str, Any]]:
    """Send the spec; yields the worker's events up to ``ready`` or its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(spec.to_json() + "\n")
    process.stdin.flush()
    for line in process.stdout:
        event = json.loads(line)
        yield event
        if event["event"] == "ready":
            return
