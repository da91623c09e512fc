"""Memory of this machine as a resource: what is free, what could be freed, whom to unload first."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping

from mooring.cluster.deployment import Deployment
from mooring.cluster.hardware import read_machine
from mooring.cluster.memory import LoadPlan
from mooring.cluster.replica import Replica, ReplicaState
from mooring.config import Settings
from mooring.errors import MemoryBusy
from mooring.telemetry.logging import get_logger

log = get_logger(__name__)
GIB = 1024**3


def worth(replica: Replica, deployment: Deployment, now: float) -> float:
    """What keeping an idle replica loaded is worth per byte it holds.

    Loading seconds saved at the next use, more for models used often, less the longer nobody came:
    the cost-aware ageing of GreedyDual-Size-Frequency (Cherkasova, HP Labs 1998).
    """
    idle = max(0.0, now - replica.idle_since)
    use = 1.0 + math.log2(1 + deployment.uses)
    return use * max(0.1, replica.load_seconds) / ((1.0 + idle) * max(1, replica.predicted_bytes))


class Memory:
    """``lock`` is held from reading what is free until the room is booked, and never while waiting for others."""

    def __init__(
        self,
        settings: Settings,
        deployments: Mapping[str, Deployment],
        stop: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._deployments = deployments
        self._stop = stop
        self.lock = asyncio.Lock()
        self._freed = asyncio.Event()

    def _replicas(self) -> list[tuple[Deployment, Replica]]:
        return [(d, r) for d in self._deployments.values() for r in d.replicas]

    def available(self) -> int:
        """Bytes that a new worker may take now; what starting workers are about to take is counted as taken."""
        replicas = [replica for _, replica in self._replicas()]
        starting = sum(r.predicted_bytes for r in replicas if r.state is ReplicaState.STARTING)
        free = read_machine(None).ram_available - starting
        if self._settings.memory_limit is not None:
            free = min(free, self._settings.memory_limit - sum(r.predicted_bytes for r in replicas))
        return max(0, free)

    def potential(self, deployment: Deployment) -> int:
        """Bytes that ``deployment`` could have if everything not pinned made way for it."""
        movable = sum(r.predicted_bytes for d, r in self._replicas() if not d.pinned or d is deployment)
        return self.available() + movable

    def note_freed(self) -> None:
        """Memory was given back, or a busy model became idle: whoever waits looks again."""
        self._freed.set()
        self._freed = asyncio.Event()

    def next_freed(self) -> asyncio.Event:
        """The event of the next ``note_freed``; take it before looking, so that none is missed."""
        return self._freed

    async def make_room(self, plan: LoadPlan, deployment: Deployment) -> bool:
        """Unload idle models, least worth first, until ``plan`` fits; False if busy ones must be waited for.

        Call with ``lock`` held. Raises MemoryBusy when waiting would not help either: what is in the way is
        pinned, or the deployment's own.
        """
        need = plan.estimate.ram_total
        while need > self.available():
            victim = self._victim(deployment)
            if victim is None:
                if need > self.available() + self._on_its_way(deployment):
                    raise self.busy(plan, deployment)
                return False
            log.info(
                "unloading a model to make room",
                model=victim.spec.model,
                frees=victim.predicted_bytes,
                wanted_by=deployment.name,
            )
            await self._stop(victim)
        return True

    def _on_its_way(self, deployment: Deployment) -> int:
        """Bytes that will be free once others' requests are done and replicas that are stopping have gone."""
        return sum(
            r.predicted_bytes
            for d, r in self._replicas()
            if r.state is ReplicaState.DRAINING or (d is not deployment and not d.pinned)
        )

    def busy(self, plan: LoadPlan, deployment: Deployment) -> MemoryBusy:
        need = plan.estimate.ram_total
        return MemoryBusy(
            f"'{deployment.name}' needs {need / GIB:.2f} GiB, but {self.available() / GIB:.2f} GiB are "
            f"free and the loaded models are in use. Try again later, or stop one with `mooring stop`.",
            retry_after=30,
        )

    def _victim(self, wanted_by: Deployment) -> Replica | None:
        now = time.monotonic()
        idle = [
            (worth(replica, deployment, now), replica)
            for deployment, replica in self._replicas()
            if replica.state is ReplicaState.READY
            and replica.active == 0
            and deployment is not wanted_by
            and len(deployment.ready) > deployment.wish.replicas_min
        ]
        return min(idle, key=lambda pair: pair[0])[1] if idle else None
