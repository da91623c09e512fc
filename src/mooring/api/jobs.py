"""Long operations that report as newline-delimited JSON and end when their client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson

from mooring.api.services import Services
from mooring.errors import MooringError
from mooring.gateway.answer import error_body
from mooring.gateway.dispatch import Lease
from mooring.modelstore.pull import pull
from mooring.types import Progress

_REPORT_SECONDS = 0.1
_SUCCESS = b'{"status":"success"}\n'


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


async def load_lines(
    services: Services, name: str, keep_alive: float | None, context: int
) -> AsyncIterator[bytes]:
    """``{"status": "loading", "completed": 40, "total": 100}`` … then ``success`` or an error object."""
    deployment, _ = services.controller.resolve(name)
    task = asyncio.create_task(
        services.dispatcher.acquire(deployment, tenant="local", context=context, keep_alive=keep_alive)
    )
    task.add_done_callback(_give_back)  # also when the client has left in the meantime
    last = -1
    try:
        while not (await asyncio.wait([task], timeout=_REPORT_SECONDS))[0]:
            share = max((round(100 * replica.progress) for replica in deployment.alive), default=0)
            if share != last:
                yield _line({"status": "loading", "completed": share, "total": 100})
            last = share
        task.result()
        services.controller.rearm(deployment)
        yield _SUCCESS
    except MooringError as error:
        yield _line(error_body(error))
    finally:
        task.cancel()


def _give_back(task: asyncio.Task[Lease]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().release()


async def pull_lines(services: Services, reference: str, name: str | None) -> AsyncIterator[bytes]:
    """Ollama's pull stream: ``status``, ``digest``, ``total``, ``completed``; then ``success`` or an error."""
    latest: dict[tuple[str, str], Progress] = {}
    news = asyncio.Event()

    def report(progress: Progress) -> None:
        latest[progress.status, progress.digest] = progress
        news.set()

    task = asyncio.create_task(
        pull(services.store, services.egress, services.settings, reference, name=name, progress=report)
    )
    task.add_done_callback(lambda _: news.set())
    try:
        while not task.done():
            await news.wait()
            news.clear()
            for line in _flush(latest):
                yield line
            await asyncio.wait([task], timeout=_REPORT_SECONDS)
        for line in _flush(latest):
            yield line
        task.result()
        yield _SUCCESS
    except MooringError as error:
        yield _line(error_body(error))
    finally:
        task.cancel()


def _flush(latest: dict[tuple[str, str], Progress]) -> list[bytes]:
    """The newest report of each part since the last time."""
    lines = [
        _line({"status": p.status, **({"digest": p.digest} if p.digest else {}), **_amount(p)})
        for p in latest.values()
    ]
    latest.clear()
    return lines


def _amount(progress: Progress) -> dict[str, int]:
    return {"total": progress.total, "completed": progress.completed} if progress.total else {}
