"""A controller whose workers exist only in the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mooring.cluster.controller import Controller
from mooring.cluster.replica import ProgressHook, Replica
from mooring.config import Settings
from mooring.engines.base import WorkerSpec
from mooring.errors import WorkerFailed
from mooring.telemetry.metrics import Metrics
from support.server import fake_deployment, fake_home


@dataclass(eq=False)
class Worker:
    """A process that exists only here."""

    spec: WorkerSpec
    pid: int = 1
    url: str = "http://127.0.0.1:1"
    code: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def wait(self) -> int:
        return await asyncio.shield(self.code)

    async def stop(self) -> None:
        self.die(0)

    def die(self, code: int) -> None:
        if not self.code.done():
            self.code.set_result(code)

    def memory_bytes(self) -> int:
        return 0

    def log_tail(self, lines: int) -> Sequence[str]:
        return ("last words",)


@dataclass
class Launcher:
    """Starts workers at once, or fails ``failures`` times first; ``gate`` holds starts back."""

    started: list[Worker] = field(default_factory=list)
    failures: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self, spec: WorkerSpec, on_progress: ProgressHook) -> Worker:
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise WorkerFailed("it fell over")
        self.started.append(Worker(spec))
        return self.started[-1]

    def models(self) -> list[str]:
        return [worker.spec.model for worker in self.started]


@asynccontextmanager
async def cluster(home: Path, *names: str, **settings: object) -> AsyncIterator[tuple[Controller, Launcher]]:
    store = fake_home(home, *names)
    launcher = Launcher()
    launcher.gate.set()
    chosen = Settings.model_validate({"home": home, **settings})
    controller = Controller(chosen, store, launcher, Metrics())
    for name in names:
        controller.declare(f"{name}:latest", fake_deployment())
    try:
        yield controller, launcher
    finally:
        await controller.close()


async def load(controller: Controller, name: str) -> Replica:
    deployment, _ = controller.resolve(name)
    task = controller.ensure(deployment)
    return await task if task is not None else deployment.ready[0]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)
