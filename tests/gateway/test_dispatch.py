"""Waiting for a slot ends well or with a reason, and a failing model costs one start, not a storm of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from mooring.cluster.controller import Controller
from mooring.errors import TooManyRequests, Unavailable, WorkerFailed
from mooring.gateway.dispatch import Dispatcher, Lease
from mooring.telemetry.metrics import Metrics
from support.cluster import cluster, until
from support.server import fake_deployment


def dispatcher(controller: Controller) -> Dispatcher:
    return Dispatcher(controller, controller.settings, Metrics())


async def ask(dispatch: Dispatcher, controller: Controller, tenant: str = "t", context: int = 0) -> Lease:
    deployment, _ = controller.resolve("a")
    return await dispatch.acquire(deployment, tenant=tenant, context=context)


async def test_a_failing_load_is_tried_once_for_all_who_wait(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.failures = 100
        waiting = [ask(dispatcher(controller), controller) for _ in range(3)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, WorkerFailed) for result in results)
        await asyncio.sleep(0)
        deployment, _ = controller.resolve("a")
        assert (launcher.failures, deployment.crashes) == (99, 1)


async def test_an_unloaded_model_is_not_loaded_again_for_those_who_were_told(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.gate.clear()
        waiting = asyncio.create_task(ask(dispatcher(controller), controller))
        deployment, _ = controller.resolve("a")
        await until(lambda: deployment.replicas)
        await controller.unload(deployment)
        with pytest.raises(Unavailable, match="unloaded"):
            await waiting
        assert deployment.starting is None
        assert launcher.started == []


async def test_a_replica_that_cannot_be_added_is_not_tried_without_end(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        deployment = controller.declare("a:latest", fake_deployment(slots=1, replicas_max=2))
        dispatch = dispatcher(controller)
        first = await ask(dispatch, controller)
        launcher.failures = 1000
        waiting = asyncio.create_task(ask(dispatch, controller))
        await until(lambda: launcher.failures < 1000 and deployment.starting is None)
        began = time.monotonic()
        while time.monotonic() - began < 0.1:
            await asyncio.sleep(0)
        assert launcher.failures == 999
        first.release(answered=True)
        (await waiting).release()


async def test_one_absurd_wish_does_not_fail_the_others(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, _):
        dispatch = dispatcher(controller)
        too_much = asyncio.create_task(ask(dispatch, controller, context=100_000))
        others = [asyncio.create_task(ask(dispatch, controller)) for _ in range(2)]
        with pytest.raises(Exception, match="100000"):
            await too_much
        for lease in await asyncio.gather(*others):
            lease.release()


async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", queue_size=1) as (controller, launcher):
        launcher.gate.clear()
        dispatch = dispatcher(controller)
        first = asyncio.create_task(ask(dispatch, controller))
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests) as refused:
            await ask(dispatch, controller)
        assert refused.value.retry_after
        launcher.gate.set()
        (await first).release()


async def test_a_cancelled_wait_leaves_no_trace(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.gate.clear()
        dispatch = dispatcher(controller)
        waiting = asyncio.create_task(ask(dispatch, controller))
        deployment, _ = controller.resolve("a")
        await until(lambda: dispatch.queued(deployment) == 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert dispatch.queued(deployment) == 0
        launcher.gate.set()
        await until(lambda: deployment.ready)
        assert deployment.active == 0


async def test_when_the_server_ends_everybody_who_waits_is_told(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.gate.clear()
        dispatch = dispatcher(controller)
        waiting = asyncio.create_task(ask(dispatch, controller))
        deployment, _ = controller.resolve("a")
        await until(lambda: dispatch.queued(deployment) == 1)
        dispatch.draining = True
        dispatch.refuse_waiting()
        with pytest.raises(Unavailable, match="shutting down"):
            await waiting
        with pytest.raises(Unavailable, match="shutting down"):
            await ask(dispatch, controller)
