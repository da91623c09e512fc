"""The controller: turns wishes into workers and keeps them healthy.

It loads on first use, unloads when idle, evicts what is worth least when memory is short, restarts what
crashed, and restores what was declared. It knows nothing of requests: the gateway tells it when one
begins and ends on a replica, and hears through ``Deployment.listeners`` when there is room.
All of it runs on one event loop; awaits are the only places where another task can come between.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping

from mooring.cluster.deployment import Deployment
from mooring.cluster.eviction import Memory
from mooring.cluster.launch_local import explain_exit
from mooring.cluster.planning import plan_worker
from mooring.cluster.replica import Launcher, Replica, ReplicaState
from mooring.config import DeploymentSettings, Settings
from mooring.errors import MooringError, Unavailable, WorkerFailed
from mooring.modelstore.store import Model, ModelStore
from mooring.telemetry.logging import get_logger
from mooring.telemetry.metrics import Metrics

_RESOLVED_SECONDS = 2.0
_PINNED_RETRY = 30.0
_CLOSE_SECONDS = 5.0
log = get_logger(__name__)


class Controller:
    def __init__(self, settings: Settings, store: ModelStore, launcher: Launcher, metrics: Metrics) -> None:
        self.settings = settings
        self.store = store
        self.deployments: dict[str, Deployment] = {}
        self._launcher = launcher
        self._metrics = metrics
        self._memory = Memory(settings, self.deployments, self.stop_replica)
        self._resolved: dict[str, tuple[float, Deployment]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    # -- wishes ---------------------------------------------------------------------------------

    def restore(self, wishes: Mapping[str, DeploymentSettings]) -> None:
        """Take up what was declared before; pinned deployments start to load now."""
        for name, wish in wishes.items():
            self.declare(name, wish)

    def declare(self, name: str, wish: DeploymentSettings) -> Deployment:
        """Set the wish of a model. Replicas that were started for another finish their requests and end."""
        deployment = self._deployment(name)
        deployment.wish, deployment.declared = wish, True
        for replica in deployment.ready:
            if not _serves(replica, wish):
                self._spawn(self.stop_replica(replica))
        self.rearm(deployment)
        if deployment.pinned and deployment.keeper is None:
            deployment.keeper = asyncio.create_task(self._keep(deployment))
        return deployment

    async def withdraw(self, name: str) -> None:
        """Forget the wish and unload the model."""
        deployment = self._deployment(name)
        deployment.wish, deployment.declared = DeploymentSettings(), False
        await self.unload(deployment)

    def _deployment(self, name: str) -> Deployment:
        return self.deployments.setdefault(name, Deployment(name))

    def resolve(self, name: str) -> tuple[Deployment, Model]:
        """The deployment and the store's entry of a model, by any of its names. Raises ModelNotFound."""
        known = self._resolved.get(name)
        if known is not None and time.monotonic() < known[0] and known[1].entry is not None:
            return known[1], known[1].entry
        entry = self.store.get(name)
        deployment = self._deployment(entry.name.short)
        deployment.entry = entry
        self._resolved[name] = (time.monotonic() + _RESOLVED_SECONDS, deployment)
        if len(self._resolved) > 10_000:
            self._resolved.clear()
        return deployment, entry

    # -- loading --------------------------------------------------------------------------------

    def ensure(self, deployment: Deployment, context: int = 0) -> asyncio.Task[Replica] | None:
        """See to it that a replica with at least ``context`` tokens exists; None if one is ready.

        Otherwise the task that starts it, shared by everyone who waits. It raises ModelTooLarge,
        MemoryBusy, WorkerFailed or a StoreError.
        """
        if any(replica.context >= context for replica in deployment.ready):
            return None
        return self.start_replica(deployment, context)

    def start_replica(self, deployment: Deployment, context: int = 0) -> asyncio.Task[Replica]:
        """Start one more replica, unless one is starting already."""
        if deployment.starting is None:
            deployment.starting = asyncio.create_task(self._start(deployment, context))
            deployment.starting.add_done_callback(lambda task: self._started(deployment, task, context))
        return deployment.starting

    def _started(self, deployment: Deployment, task: asyncio.Task[Replica], context: int) -> None:
        deployment.starting = None
        if task.cancelled():
            why = f"'{deployment.name}' was unloaded while it was loading. Send the request again."
            deployment.failed(Unavailable(why, code="unloaded", retry_after=1), 0)
        elif (error := task.exception()) is not None:
            log.warning("model did not load", model=deployment.name, error=str(error))
            deployment.failed(error, context)
        deployment.changed()

    async def _start(self, deployment: Deployment, context: int) -> Replica:
        if self._closing:
            raise Unavailable("The server is shutting down.", code="draining", retry_after=5)
        await self._wait_out_crashes(deployment)
        model = await asyncio.to_thread(self.store.get, deployment.name)
        await asyncio.to_thread(self.store.check, model)
        replica = await self._reserve(deployment, model, context)
        started = time.monotonic()
        try:
            await asyncio.to_thread(replica.held.enter_context, self.store.use(model))
            process = await self._launcher.start(
                replica.spec, lambda share: setattr(replica, "progress", share)
            )
        except BaseException as error:
            self._forget(deployment, replica, str(error))
            if isinstance(error, WorkerFailed):
                deployment.note_crash()
            raise
        replica.process = process
        replica.load_seconds = time.monotonic() - started
        replica.loaded_at = time.time()
        replica.state = ReplicaState.READY
        replica.idle.set()
        deployment.last_error = ""
        self._metrics.worker_starts.labels(deployment.name).inc()
        log.info(
            "model loaded",
            model=deployment.name,
            worker=replica.id,
            seconds=round(replica.load_seconds, 2),
            context=replica.context,
            slots=replica.spec.slots,
        )
        self._spawn(self._watch(deployment, replica))
        if _serves(replica, deployment.wish):
            self._arm(deployment, replica)
        else:  # the wish has changed meanwhile
            self._spawn(self.stop_replica(replica))
        return replica

    async def _wait_out_crashes(self, deployment: Deployment) -> None:
        wait = deployment.not_before - time.monotonic()
        if deployment.crash_looping and not deployment.pinned:
            raise WorkerFailed(
                f"'{deployment.name}' failed {deployment.crashes} times in a row; the next try is in "
                f"{wait:.0f} s. Last error: {deployment.last_error}",
                retry_after=max(1.0, wait),
            )
        if wait > 0:
            await asyncio.sleep(wait)

    async def _reserve(self, deployment: Deployment, model: Model, context: int) -> Replica:
        """Choose a plan, find the memory for it and book it, so that two loads never count the same bytes.

        Replicas with less context than asked for make way; a further one gets the context of those there are.
        """
        deadline = time.monotonic() + self.settings.queue_timeout
        wish = deployment.wish
        while True:
            freed = self._memory.next_freed()
            async with self._memory.lock:
                kept = [r.context for r in deployment.ready if r.context >= context and _serves(r, wish)]
                planned = await asyncio.to_thread(
                    plan_worker, model, wish, max([context, *kept]), self._memory.potential(deployment)
                )
                for replica in deployment.ready:
                    if context and replica.context < planned.spec.context:
                        self._spawn(self.stop_replica(replica))
                if await self._memory.make_room(planned.plan, deployment):
                    replica = Replica(planned.spec, planned.target, planned.plan, wish)
                    deployment.replicas.append(replica)
                    return replica
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await freed.wait()
            except TimeoutError:
                raise self._memory.busy(planned.plan, deployment) from None

    async def _watch(self, deployment: Deployment, replica: Replica) -> None:
        """Wait for the process to end; if nobody asked it to, that is a crash."""
        assert replica.process is not None
        code = await replica.process.wait()
        if replica.state is not ReplicaState.READY and replica.state is not ReplicaState.DRAINING:
            return
        replica.log_tail = replica.process.log_tail(20)
        self._forget(deployment, replica, f"worker ended: {explain_exit(code)}")
        self._metrics.worker_crashes.labels(deployment.name).inc()
        deployment.note_crash()
        deployment.last_error = replica.last_error
        log.error(
            "worker crashed",
            model=deployment.name,
            worker=replica.id,
            reason=replica.last_error,
            log_tail=list(replica.log_tail[-5:]),
        )
        deployment.changed()

    async def _keep(self, deployment: Deployment) -> None:
        """Hold a pinned deployment at its minimum, whatever happens to its workers."""
        wake, failures = asyncio.Event(), 0
        deployment.listeners.append(wake.set)
        try:
            while deployment.pinned and not self._closing:
                wake.clear()
                if len(deployment.alive) >= deployment.wish.replicas_min:
                    await wake.wait()
                    continue
                task = self.start_replica(deployment)
                await asyncio.wait([task])
                if not task.cancelled() and task.exception() is None:
                    failures = 0
                else:
                    failures += 1
                    await asyncio.sleep(min(_PINNED_RETRY, 2.0**failures))
        finally:
            deployment.listeners.remove(wake.set)
            deployment.keeper = None

    # -- use ------------------------------------------------------------------------------------

    def begin(self, replica: Replica) -> None:
        """A request starts on this replica."""
        replica.active += 1
        replica.idle.clear()
        replica.expires_at = None
        if replica.idle_timer is not None:
            replica.idle_timer.cancel()
            replica.idle_timer = None

    def end(self, deployment: Deployment, replica: Replica, *, answered: bool) -> None:
        """A request has left this replica; ``answered`` if the worker answered it to the end."""
        replica.active -= 1
        replica.served += 1
        deployment.uses += 1
        if answered:
            deployment.note_success()
        if replica.active == 0:
            replica.idle.set()
            self._arm(deployment, replica)
            self._memory.note_freed()
        deployment.changed()

    def keep_alive(self, deployment: Deployment) -> float:
        """Seconds of idleness before unload; negative: never."""
        if deployment.request_keep_alive is not None:
            return deployment.request_keep_alive
        wished = deployment.wish.keep_alive
        return self.settings.keep_alive if wished is None else wished

    def _arm(self, deployment: Deployment, replica: Replica) -> None:
        """Start the clock of an idle replica."""
        if replica.state is not ReplicaState.READY or replica.active:
            return
        replica.idle_since = time.monotonic()
        seconds = self.keep_alive(deployment)
        if seconds < 0 or len(deployment.ready) <= deployment.wish.replicas_min:
            return
        replica.expires_at = time.time() + seconds
        loop = asyncio.get_running_loop()
        replica.idle_timer = loop.call_later(seconds, self._expire, deployment, replica)

    def rearm(self, deployment: Deployment) -> None:
        """Apply a changed keep-alive to what is idle now."""
        for replica in deployment.ready:
            if replica.idle_timer is not None:
                replica.idle_timer.cancel()
                replica.idle_timer = None
                replica.expires_at = None
            self._arm(deployment, replica)

    def _expire(self, deployment: Deployment, replica: Replica) -> None:
        idle = replica.active == 0 and replica.state is ReplicaState.READY
        if idle and len(deployment.ready) > deployment.wish.replicas_min:
            log.info("unloading an idle model", model=deployment.name, worker=replica.id)
            self._spawn(self.stop_replica(replica))

    # -- stopping -------------------------------------------------------------------------------

    async def stop_replica(self, replica: Replica) -> None:
        """Take no more requests, let the running ones finish, then end the process and free its memory.

        That goes on to its end even if the caller is cancelled.
        """
        if replica.stopping is None:
            if replica.state is not ReplicaState.READY:
                return
            replica.state = ReplicaState.DRAINING
            replica.stopping = asyncio.create_task(self._stop(replica))
        await asyncio.shield(replica.stopping)

    async def _stop(self, replica: Replica) -> None:
        deployment = self.deployments[replica.spec.model]
        await replica.idle.wait()
        if replica not in deployment.replicas:
            return  # it crashed while it drained
        replica.state = ReplicaState.STOPPED
        assert replica.process is not None
        await replica.process.stop()
        self._forget(deployment, replica, "")
        deployment.changed()

    def _forget(self, deployment: Deployment, replica: Replica, error: str) -> None:
        replica.state = ReplicaState.FAILED if error else ReplicaState.STOPPED
        replica.last_error = error
        if replica.idle_timer is not None:
            replica.idle_timer.cancel()
        replica.idle.set()
        if replica in deployment.replicas:
            deployment.replicas.remove(replica)
        if not deployment.replicas:
            deployment.request_keep_alive = None
        self._memory.note_freed()
        self._spawn(asyncio.to_thread(replica.held.close))

    async def unload(self, deployment: Deployment) -> None:
        """Stop every replica of a model once its requests are done."""
        if deployment.keeper is not None and not deployment.pinned:
            deployment.keeper.cancel()
        if deployment.starting is not None:
            deployment.starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, MooringError):
                await deployment.starting
        await asyncio.gather(*(self.stop_replica(replica) for replica in list(deployment.replicas)))

    async def close(self) -> None:
        """End every worker now; the gateway has drained the requests before."""
        self._closing = True
        for deployment in self.deployments.values():
            for task in (deployment.keeper, deployment.starting):
                if task is not None:
                    task.cancel()
        replicas = [replica for d in self.deployments.values() for replica in list(d.replicas)]
        for replica in replicas:
            replica.last_error = "the server is shutting down"
            replica.idle.set()  # nobody is waited for any more
        await asyncio.gather(*(self.stop_replica(replica) for replica in replicas))
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _serves(replica: Replica, wish: DeploymentSettings) -> bool:
    """Whether a replica is what ``wish`` would start; how many and how long they live is another matter."""
    ignored = {"replicas_min", "replicas_max", "keep_alive"}
    return replica.wish.model_dump(exclude=ignored) == wish.model_dump(exclude=ignored)
