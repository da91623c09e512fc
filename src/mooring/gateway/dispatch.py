"""Dispatch: every request gets a slot on a replica, or a place in its model's fair queue, or a clear no."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mooring.cluster.controller import Controller
from mooring.cluster.deployment import Deployment
from mooring.cluster.replica import Replica
from mooring.config import Settings
from mooring.errors import MooringError, TooManyRequests, Unavailable
from mooring.gateway.queue import FairQueue, QueueIsFull
from mooring.telemetry.metrics import Metrics


@dataclass(eq=False)
class Ticket:
    """One waiting request. ``context``: tokens that its replica must have at least."""

    tenant: str
    context: int
    granted: asyncio.Future[Replica]


@dataclass(eq=False)
class Lease:
    """The right to one slot of one replica, until ``release``. Times are seconds."""

    deployment: Deployment
    replica: Replica
    position: int
    waited: float
    _lane: Lane
    _began: float = field(default_factory=time.monotonic)
    _released: bool = False

    def release(self, *, answered: bool = False) -> None:
        """Give the slot back; further calls do nothing. ``answered``: the worker answered to the end."""
        if not self._released:
            self._released = True
            self._lane.release(self.replica, time.monotonic() - self._began, answered=answered)


class Lane:
    """The queue of one deployment."""

    def __init__(
        self, deployment: Deployment, controller: Controller, settings: Settings, metrics: Metrics
    ) -> None:
        self.deployment = deployment
        self._controller = controller
        self._settings = settings
        self._metrics = metrics
        self._queue: FairQueue[Ticket] = FairQueue(settings.queue_size)
        self._service_seconds = 1.0
        deployment.listeners.append(self.pump)
        deployment.failure_listeners.append(self._no_worker)

    def __len__(self) -> int:
        return len(self._queue)

    async def acquire(self, tenant: str, context: int) -> Lease:
        """A slot; waits for it in turn. Raises TooManyRequests, Unavailable, or why no worker can be had."""
        if not len(self._queue) and (replica := self.deployment.room_for(context)) is not None:
            self._controller.begin(replica)
            return Lease(self.deployment, replica, 0, 0.0, self)
        ticket = Ticket(tenant, context, asyncio.get_running_loop().create_future())
        self._enqueue(ticket)
        position, began = self._queue.position(ticket), time.monotonic()
        self.pump()
        taken = False
        try:
            async with asyncio.timeout(self._settings.queue_timeout):
                replica = await ticket.granted
                taken = True
        except TimeoutError:
            raise Unavailable(
                f"Waited {self._settings.queue_timeout:g} s for a slot of '{self.deployment.name}'. Try again "
                f"later, or give it more slots or replicas.",
                code="queue_timeout",
                retry_after=self._retry_after(),
            ) from None
        finally:
            if not taken:
                self._leave(ticket)
        waited = time.monotonic() - began
        self._metrics.queue_wait.labels(self.deployment.name).observe(waited)
        return Lease(self.deployment, replica, position, waited, self)

    def _enqueue(self, ticket: Ticket) -> None:
        try:
            displaced = self._queue.push(ticket)
        except QueueIsFull:
            raise self._full() from None
        if displaced is not None and not displaced.granted.done():
            displaced.granted.set_exception(self._full())

    def _full(self) -> TooManyRequests:
        return TooManyRequests(
            f"The queue of '{self.deployment.name}' is full ({self._queue.limit} requests wait). "
            f"Try again in {self._retry_after():.0f} s.",
            retry_after=self._retry_after(),
        )

    def _leave(self, ticket: Ticket) -> None:
        """Its owner has stopped waiting; a slot that was granted at the same moment goes to the next."""
        self._queue.remove(ticket)
        granted = ticket.granted
        if not granted.done():
            granted.cancel()
        elif not granted.cancelled() and granted.exception() is None:
            self._controller.end(self.deployment, granted.result(), answered=False)

    def _retry_after(self) -> float:
        slots = sum(replica.spec.slots for replica in self.deployment.ready) or 1
        return min(60.0, max(1.0, len(self._queue) * self._service_seconds / slots))

    def release(self, replica: Replica, seconds: float, *, answered: bool) -> None:
        self._service_seconds += 0.1 * (seconds - self._service_seconds)
        self._controller.end(self.deployment, replica, answered=answered)

    def pump(self) -> None:
        """Hand free slots to those who wait, and ask for workers where they are missing."""
        for replica in self.deployment.ready:
            while replica.has_room and len(self._queue):
                room = replica.context
                ticket = self._queue.pop(lambda waiting, room=room: waiting.context <= room)  # type: ignore[misc]
                if ticket is None:
                    break
                if not ticket.granted.done():
                    self._controller.begin(replica)
                    ticket.granted.set_result(replica)
        if len(self._queue) and self.deployment.starting is None:
            self._ask_for_worker()

    def _ask_for_worker(self) -> None:
        wanted = max(ticket.context for ticket in self._queue)
        deployment = self.deployment
        if self._controller.ensure(deployment, wanted) is not None:
            return
        if len(deployment.alive) < deployment.wish.replicas_max and time.monotonic() >= deployment.grow_after:
            self._controller.start_replica(deployment, wanted)

    def _no_worker(self, error: BaseException, context: int) -> None:
        """Those who asked for as much context as could not be had hear why, unless a replica can serve them."""
        best = max((replica.context for replica in self.deployment.ready), default=-1)
        answer = _as_answer(error, self.deployment.name)
        self._refuse(lambda ticket: ticket.context > best and ticket.context >= context, answer)

    def refuse_all(self, answer: MooringError) -> None:
        """End the waiting of everybody."""
        self._refuse(lambda _: True, answer)

    def _refuse(self, chosen: Callable[[Ticket], bool], answer: MooringError) -> None:
        for ticket in [ticket for ticket in self._queue if chosen(ticket)]:
            self._queue.remove(ticket)
            if not ticket.granted.done():
                ticket.granted.set_exception(answer)


def _draining() -> Unavailable:
    return Unavailable("The server is shutting down.", code="draining", retry_after=5)


def _as_answer(error: BaseException, model: str) -> MooringError:
    if isinstance(error, MooringError):
        return error
    return Unavailable(f"'{model}' could not be loaded: {error!r}. `mooring logs {model}` may say more.")


class Dispatcher:
    """The lanes of all deployments."""

    def __init__(self, controller: Controller, settings: Settings, metrics: Metrics) -> None:
        self._controller = controller
        self._settings = settings
        self._metrics = metrics
        self._lanes: dict[str, Lane] = {}
        self.draining = False

    async def acquire(
        self, deployment: Deployment, *, tenant: str, context: int = 0, keep_alive: float | None = None
    ) -> Lease:
        """``context``: the least context wished for, in tokens; ``keep_alive``: seconds, None to leave it."""
        if self.draining:
            raise _draining()
        if keep_alive is not None:
            deployment.request_keep_alive = keep_alive
        return await self.lane(deployment).acquire(tenant, context)

    def lane(self, deployment: Deployment) -> Lane:
        lane = self._lanes.get(deployment.name)
        if lane is None:
            lane = self._lanes[deployment.name] = Lane(
                deployment, self._controller, self._settings, self._metrics
            )
        return lane

    def refuse_waiting(self) -> None:
        """The server ends: nobody waits any longer."""
        for lane in self._lanes.values():
            lane.refuse_all(_draining())

    def queued(self, deployment: Deployment) -> int:
        lane = self._lanes.get(deployment.name)
        return len(lane) if lane is not None else 0
