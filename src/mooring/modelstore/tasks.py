"""Waiting for locks, for each other and for threads without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from mooring.modelstore.locks import FileLock
from mooring.types import Progress, ProgressFn

T = TypeVar("T")

_POLL_SECONDS = 0.2


@asynccontextmanager
async def held(lock: FileLock, waiting: Callable[[], None]) -> AsyncIterator[None]:
    """``lock``, without blocking the event loop; ``waiting`` is called again and again while another has it."""
    while not lock.acquire(blocking=False):
        waiting()
        await asyncio.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


async def together(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all; when one fails, the others are cancelled, waited for, and its error raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def on_this_loop(progress: ProgressFn) -> ProgressFn:
    """``progress``, called on the running event loop's thread also where threads report."""
    loop = asyncio.get_running_loop()

    def report(step: Progress) -> None:
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            progress(step)
        else:
            loop.call_soon_threadsafe(progress, step)

    return report


__all__ = ["held", "on_this_loop", "together"]
