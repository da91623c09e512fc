"""``/metrics``: the server's own, and each worker's relabelled with its model."""

from __future__ import annotations

import asyncio
import re

import aiohttp
from starlette.types import Send

from mooring.api import asgi
from mooring.api.services import Services
from mooring.cluster.replica import Replica

_TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_ABOUT = re.compile(r"^# (?:HELP|TYPE) (\S+)")


async def metrics_page(services: Services, send: Send) -> None:
    """Prometheus text. A worker that does not answer within a second is left out of this reading."""
    metrics = services.metrics
    metrics.worker_memory.clear()
    replicas: list[Replica] = []
    for deployment in services.controller.deployments.values():
        metrics.queued.labels(deployment.name).set(services.dispatcher.queued(deployment))
        metrics.active.labels(deployment.name).set(deployment.active)
        for replica in deployment.ready:
            assert replica.process is not None
            memory = replica.process.memory_bytes()
            metrics.worker_memory.labels(deployment.name, replica.id).set(memory)
            replicas.append(replica)
    pages = await asyncio.gather(*(_worker_page(services, replica) for replica in replicas))
    await asgi.send_bytes(send, 200, metrics.exposition() + merge(pages), [_TEXT])


async def _worker_page(services: Services, replica: Replica) -> tuple[Replica, str]:
    try:
        async with asyncio.timeout(1):
            return replica, (await services.proxy.get(replica, "/metrics")).decode()
    except (aiohttp.ClientError, TimeoutError):
        return replica, ""


def merge(pages: list[tuple[Replica, str]]) -> bytes:
    """One family per metric, its samples labelled with ``model`` and ``worker``."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, page in pages:
        own = f'model="{replica.spec.model}",worker="{replica.id}"'
        for line in page.splitlines():
            if (about := _ABOUT.match(line)) is not None:
                head = heads.setdefault(about[1], [])
                if line not in head:
                    head.append(line)
            elif (match := _SAMPLE.match(line)) is not None:
                labels = f"{match['labels']},{own}" if match["labels"] else own
                family = next((n for n in heads if match["name"].startswith(n)), match["name"])
                samples.setdefault(family, []).append(f"{match['name']}{{{labels}}} {match['value']}")
    lines = [line for name, found in samples.items() for line in [*heads.get(name, []), *found]]
    return "".join(f"{line}\n" for line in lines).encode()
