"""The controller keeps its promises: one load for all who wait, room by eviction, restarts, unloads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.cluster.replica import ReplicaState
from mooring.errors import MemoryBusy, ModelNotFound, ModelTooLarge, WorkerFailed
from support.cluster import cluster, load, until
from support.server import fake_deployment


async def predicted(home: Path) -> int:
    """What one of these models is predicted to take."""
    async with cluster(home, "probe") as (controller, _):
        return (await load(controller, "probe")).predicted_bytes


async def test_all_who_wait_for_a_model_share_one_load(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        replicas = await asyncio.gather(*(load(controller, "a") for _ in range(5)))
        assert len(set(map(id, replicas))) == 1
        assert launcher.models() == ["a:latest"]


async def test_an_unknown_model_names_the_nearest(tmp_path: Path) -> None:
    async with cluster(tmp_path, "smollm2") as (controller, _):
        with pytest.raises(ModelNotFound, match="smollm2"):
            controller.resolve("smolm2")


async def test_the_model_worth_least_makes_room(tmp_path: Path) -> None:
    size = await predicted(tmp_path / "probe")
    async with cluster(tmp_path, "a", "b", "c", memory_limit=int(2.5 * size)) as (controller, _):
        often, seldom = await load(controller, "a"), await load(controller, "b")
        deployment, _ = controller.resolve("a")
        for _ in range(20):
            controller.begin(often)
            controller.end(deployment, often, answered=True)
        seldom.idle_since = often.idle_since
        await load(controller, "c")
        states = {name: d.state for name, d in controller.deployments.items()}
        assert states == {"a:latest": "loaded", "b:latest": "cold", "c:latest": "loaded"}


async def test_a_busy_model_is_waited_for_and_never_evicted(tmp_path: Path) -> None:
    size = await predicted(tmp_path / "probe")
    async with cluster(tmp_path, "a", "b", memory_limit=int(1.5 * size)) as (controller, _):
        busy = await load(controller, "a")
        first, _ = controller.resolve("a")
        controller.begin(busy)
        waiting = asyncio.create_task(load(controller, "b"))
        assert not (await asyncio.wait([waiting], timeout=0.1))[0]
        assert first.state == "loaded"
        controller.end(first, busy, answered=True)
        await asyncio.wait_for(waiting, 5)
        assert first.state == "cold"


async def test_when_the_busy_never_end_the_refusal_names_the_numbers(tmp_path: Path) -> None:
    size = await predicted(tmp_path / "probe")
    settings = {"memory_limit": int(1.5 * size), "queue_timeout": 0.05}
    async with cluster(tmp_path, "a", "b", **settings) as (controller, _):
        controller.begin(await load(controller, "a"))
        with pytest.raises(MemoryBusy, match="GiB"):
            await load(controller, "b")


async def test_a_model_that_never_fits_is_refused_with_the_numbers(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", memory_limit=1024) as (controller, launcher):
        with pytest.raises(ModelTooLarge):
            await load(controller, "a")
        assert launcher.started == []


async def test_a_pinned_model_is_neither_unloaded_nor_evicted(tmp_path: Path) -> None:
    size = await predicted(tmp_path / "probe")
    settings = {"memory_limit": int(1.5 * size), "queue_timeout": 0.05, "keep_alive": 0.0}
    async with cluster(tmp_path, "a", "b", **settings) as (controller, _):
        pinned = controller.declare("a:latest", fake_deployment(replicas_min=1))
        await until(lambda: pinned.ready)
        with pytest.raises((MemoryBusy, ModelTooLarge)):
            await load(controller, "b")
        assert pinned.ready


async def test_a_pinned_model_comes_back_after_a_crash(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        pinned = controller.declare("a:latest", fake_deployment(replicas_min=2, replicas_max=2))
        await until(lambda: len(pinned.ready) == 2)
        launcher.started[0].die(-9)
        await until(lambda: len(launcher.started) == 3 and len(pinned.ready) == 2)


async def test_a_crash_is_explained_and_starts_a_back_off(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        replica = await load(controller, "a")
        deployment, _ = controller.resolve("a")
        launcher.started[0].die(-9)
        await until(lambda: not deployment.replicas)
        assert "signal 9" in replica.last_error
        assert "memory ran out" in deployment.last_error
        assert deployment.crashes == 1
        await load(controller, "a")
        controller.begin(deployment.ready[0])
        controller.end(deployment, deployment.ready[0], answered=True)
        assert deployment.crashes == 0


async def test_a_model_that_keeps_failing_is_refused_for_a_while(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.failures = 10
        deployment, _ = controller.resolve("a")
        for _ in range(3):
            deployment.not_before = 0
            with pytest.raises(WorkerFailed):
                await load(controller, "a")
        with pytest.raises(WorkerFailed, match="3 times in a row") as refused:
            await load(controller, "a")
        assert refused.value.retry_after
        assert launcher.failures == 7


async def test_an_idle_model_goes_after_its_time_and_not_before(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", keep_alive=0.05) as (controller, _):
        replica = await load(controller, "a")
        deployment, _ = controller.resolve("a")
        controller.begin(replica)
        assert not (await asyncio.wait([asyncio.create_task(replica.idle.wait())], timeout=0.15))[0]
        assert deployment.ready
        controller.end(deployment, replica, answered=True)
        await until(lambda: not deployment.replicas)


async def test_unloading_waits_for_running_requests(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, _):
        replica = await load(controller, "a")
        deployment, _ = controller.resolve("a")
        controller.begin(replica)
        unloading = asyncio.create_task(controller.unload(deployment))
        assert not (await asyncio.wait([unloading], timeout=0.05))[0]
        assert not replica.has_room
        controller.end(deployment, replica, answered=True)
        await asyncio.wait_for(unloading, 5)
        assert deployment.state == "cold"


async def test_unloading_a_model_that_loads_stops_the_load(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.gate.clear()
        deployment, _ = controller.resolve("a")
        task = controller.ensure(deployment)
        assert task is not None
        await until(lambda: deployment.replicas)
        await asyncio.wait_for(controller.unload(deployment), 5)
        assert task.cancelled()
        assert not deployment.replicas


async def test_a_changed_wish_replaces_the_running_replica(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        await load(controller, "a")
        deployment = controller.declare("a:latest", fake_deployment(context=128))
        await until(lambda: not deployment.replicas)
        assert (await load(controller, "a")).context == 128
        assert len(launcher.started) == 2


async def test_files_of_a_loaded_model_survive_its_removal(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, _):
        stored = controller.store.blobs.add_file(tmp_path / "tiny.gguf", "application/vnd.ollama.image.model")
        info = controller.store.get("a").info
        controller.store.publish("copied", [stored], source="test", info=info)
        controller.declare("copied:latest", fake_deployment())
        replica = await load(controller, "copied")
        deployment, _ = controller.resolve("copied")
        controller.store.remove("copied")
        assert replica.spec.weights.exists()
        await controller.unload(deployment)
        await until(lambda: not replica.spec.weights.exists())


async def test_cancelling_a_load_that_evicts_leaves_no_half_stopped_model(tmp_path: Path) -> None:
    size = await predicted(tmp_path / "probe")
    async with cluster(tmp_path, "a", "b", memory_limit=int(1.5 * size)) as (controller, launcher):
        await load(controller, "a")
        slow = asyncio.Event()
        first = launcher.started[0]
        end = first.stop

        async def stop_slowly() -> None:
            await slow.wait()
            await end()

        first.stop = stop_slowly  # type: ignore[method-assign]
        loading = asyncio.create_task(load(controller, "b"))
        a, _ = controller.resolve("a")
        await until(lambda: a.replicas[0].state is ReplicaState.STOPPED)
        b, _ = controller.resolve("b")
        await controller.unload(b)
        await asyncio.wait([loading])
        slow.set()
        await until(lambda: not a.replicas)
        assert (await load(controller, "b")).state is ReplicaState.READY


async def test_a_further_replica_that_cannot_fit_is_given_up_at_once(tmp_path: Path) -> None:
    size = await predicted(tmp_path / "probe")
    async with cluster(tmp_path, "a", memory_limit=int(1.5 * size)) as (controller, launcher):
        await load(controller, "a")
        deployment, _ = controller.resolve("a")
        with pytest.raises((MemoryBusy, ModelTooLarge)):
            await asyncio.wait_for(controller.start_replica(deployment), 2)
        assert len(launcher.started) == 1
        assert deployment.ready


async def test_a_pinned_model_survives_an_unload_while_it_loads(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        launcher.gate.clear()
        pinned = controller.declare("a:latest", fake_deployment(replicas_min=1))
        await until(lambda: pinned.starting is not None and pinned.replicas)
        await controller.unload(pinned)
        launcher.gate.set()
        await until(lambda: pinned.ready)


async def test_a_first_wish_replaces_what_was_loaded_without_one(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, _):
        deployment, _ = controller.resolve("a")
        deployment.wish = fake_deployment(context=512)
        old = await load(controller, "a")
        controller.declare("a:latest", fake_deployment(context=128))
        await until(lambda: not deployment.replicas)
        assert old.context == 512
        assert (await load(controller, "a")).context == 128


async def test_a_new_keep_alive_alone_ends_no_worker(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as (controller, launcher):
        replica = await load(controller, "a")
        controller.declare("a:latest", fake_deployment(keep_alive=-1))
        assert replica.expires_at is None
        assert (await load(controller, "a")) is replica
        assert len(launcher.started) == 1
