"""A worker process's side of the pipe to its controller.

stdin carries the WorkerSpec as one JSON line, later perhaps ``stop``; its end means that the parent died.
stdout carries JSON lines: ``{"event": "loading"}``, then ``{"event": "ready", "url", "pid"}`` or
``{"event": "failed", "error", "code"}``. Everything else a library prints goes to stderr, the worker's log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from mooring.engines.base import WorkerSpec
from mooring.errors import MooringError

_PR_SET_PDEATHSIG = 1


class ParentPipe:
    """Owns the process's stdin and stdout. Build it first thing in ``main``."""

    def __init__(self) -> None:
        self._events: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides

    def read_spec(self) -> WorkerSpec:
        """The first line; exits when the parent closed the pipe instead."""
        line = sys.stdin.readline()
        if not line:
            sys.exit(0)
        _die_with_parent()
        return WorkerSpec.from_json(line)

    def loading(self, progress: float) -> None:
        self._send(event="loading", progress=progress)

    def ready(self, url: str) -> None:
        self._send(event="ready", url=url, pid=os.getpid())

    def failed(self, error: MooringError) -> None:
        self._send(event="failed", error=error.message, code=error.code)

    def wait(self) -> None:
        """Block until the parent says stop or dies."""
        for line in sys.stdin:
            if line.strip() == "stop":
                return

    def watch(self, on_stop: Callable[[], None]) -> None:
        """Wait in a thread; calls ``on_stop`` there. The end of the pipe ends the process at once."""

        def run() -> None:
            for line in sys.stdin:
                if line.strip() == "stop":
                    on_stop()
            os._exit(1)

        threading.Thread(target=run, name="parent-pipe", daemon=True).start()

    def _send(self, **event: object) -> None:
        try:
            self._events.write(json.dumps(event) + "\n")
            self._events.flush()
        except BrokenPipeError:
            os._exit(1)


def _die_with_parent() -> None:
    """Linux: have the kernel kill this process when its parent dies (prctl(2)).

    It covers the time in which an engine's loader holds the interpreter lock and nobody can read stdin;
    elsewhere the process ends when the load does.
    """
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
