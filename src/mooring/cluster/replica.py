"""A replica: one worker process of a deployment, as the controller and the gateway see it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from mooring.cluster.memory import LoadPlan
from mooring.config import DeploymentSettings
from mooring.engines.base import Target, WorkerSpec


class ReplicaState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Process(Protocol):
    """A running worker, whoever launched it."""

    @property
    def pid(self) -> int: ...
    @property
    def url(self) -> str: ...
    async def wait(self) -> int:
        """The exit code, once it has ended."""

    async def stop(self) -> None:
        """Ask it to end, and make it; returns when it has gone and its memory is free."""

    def memory_bytes(self) -> int:
        """Resident memory now; 0 once it has gone."""

    def log_tail(self, lines: int) -> Sequence[str]: ...


class Launcher(Protocol):
    async def start(self, spec: WorkerSpec, on_progress: ProgressHook) -> Process:
        """Returns when the worker is ready. Raises WorkerFailed with its last log lines."""


class ProgressHook(Protocol):
    def __call__(self, fraction: float) -> None: ...


@dataclass(eq=False)
class Replica:
    """Set by the controller; ``wish`` is what it was started for; ``active`` is moved by the gateway through ``Controller.begin`` and ``end``.

    ``held`` keeps the model's files in the store while they are in use. Times ending in ``_at`` are epoch
    seconds.
    """

    spec: WorkerSpec
    target: Target
    plan: LoadPlan
    wish: DeploymentSettings
    state: ReplicaState = ReplicaState.STARTING
    process: Process | None = None
    active: int = 0
    served: int = 0
    progress: float = 0.0
    load_seconds: float = 0.0
    loaded_at: float | None = None
    idle_since: float = 0.0
    expires_at: float | None = None
    last_error: str = ""
    log_tail: Sequence[str] = ()
    idle_timer: asyncio.TimerHandle | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    held: ExitStack = field(default_factory=ExitStack)
    stopping: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.spec.worker_id

    @property
    def context(self) -> int:
        """Tokens that one request may use."""
        return self.spec.context

    @property
    def url(self) -> str:
        assert self.process is not None, "only a ready replica has an address"
        return self.process.url

    @property
    def has_room(self) -> bool:
        return self.state is ReplicaState.READY and self.active < self.spec.slots

    @property
    def predicted_bytes(self) -> int:
        return self.plan.estimate.ram_total
