"""The runtime record of one model on this server: its wish, its replicas, its failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mooring.cluster.replica import Replica, ReplicaState
from mooring.config import DeploymentSettings
from mooring.modelstore.store import Model

_BACKOFF_CAP = 30.0
_CRASH_LOOP = 3
_GROWTH_PAUSE = 30.0


@dataclass(eq=False)
class Deployment:
    """Owned by the controller. ``name`` is the model's short name; ``listeners`` hear of any change in room,
    ``failure_listeners`` before them why a worker with at least so many tokens of context did not start.

    ``entry`` is the model's entry in the store, as last read. ``request_keep_alive`` is what the last request asked for; it outranks the wish until the model unloads.
    """

    name: str
    wish: DeploymentSettings = field(default_factory=DeploymentSettings)
    declared: bool = False
    entry: Model | None = None
    replicas: list[Replica] = field(default_factory=list)
    listeners: list[Callable[[], None]] = field(default_factory=list)
    failure_listeners: list[Callable[[BaseException, int], None]] = field(default_factory=list)
    starting: asyncio.Task[Replica] | None = None
    keeper: asyncio.Task[None] | None = None
    request_keep_alive: float | None = None
    uses: int = 0
    crashes: int = 0
    not_before: float = 0.0
    grow_after: float = 0.0
    last_error: str = ""

    @property
    def ready(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.state is ReplicaState.READY]

    @property
    def alive(self) -> list[Replica]:
        return [r for r in self.replicas if r.state in (ReplicaState.READY, ReplicaState.STARTING)]

    @property
    def active(self) -> int:
        return sum(replica.active for replica in self.replicas)

    @property
    def pinned(self) -> bool:
        """Whether it is to be kept loaded, come what may."""
        return self.wish.replicas_min > 0

    @property
    def state(self) -> str:
        """For ``/v1/models``: loaded, loading, or cold."""
        if self.ready:
            return "loaded"
        return "loading" if self.starting is not None else "cold"

    def room_for(self, context: int) -> Replica | None:
        """The ready replica with a free slot and the least work; None if there is none."""
        best: Replica | None = None
        for replica in self.replicas:
            if (
                replica.has_room
                and replica.context >= context
                and (best is None or replica.active < best.active)
            ):
                best = replica
        return best

    def failed(self, error: BaseException, context: int) -> None:
        """No worker came. Another replica beside a working one is not tried again at once."""
        self.last_error = str(error)
        self.grow_after = time.monotonic() + _GROWTH_PAUSE
        for listener in self.failure_listeners:
            listener(error, context)

    def changed(self) -> None:
        for listener in self.listeners:
            listener()

    def note_crash(self) -> None:
        """Exponential back-off: 0.5 s, 1 s, 2 s … 30 s."""
        self.crashes += 1
        self.not_before = time.monotonic() + min(0.25 * 2**self.crashes, _BACKOFF_CAP)

    def note_success(self) -> None:
        self.crashes = 0
        self.not_before = 0.0

    @property
    def crash_looping(self) -> bool:
        return self.crashes >= _CRASH_LOOP and time.monotonic() < self.not_before
