"""The fair queue: requests that wait for a slot of one model.

Tenants take turns, first come first served within a tenant. When the queue is full, a newcomer displaces
the newest request of the tenant that holds most places, unless that tenant is itself: one heavy user can
never lock the others out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    @property
    def tenant(self) -> str: ...


T = TypeVar("T", bound=Waiting)


class QueueIsFull(Exception):
    """The newcomer's own tenant holds most places already."""


class FairQueue(Generic[T]):
    """Round robin over tenants; ``limit`` bounds the places of all together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lanes: dict[str, deque[T]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        for lane in self._lanes.values():
            yield from lane

    def push(self, item: T) -> T | None:
        """Add ``item``; returns the request that lost its place for it, if any.

        Raises QueueIsFull when ``item`` itself cannot have a place.
        """
        displaced = self._displace_for(item.tenant) if self._size >= self.limit else None
        self._lanes.setdefault(item.tenant, deque()).append(item)
        self._size += 1
        return displaced

    def _displace_for(self, tenant: str) -> T:
        heaviest = max(self._lanes, key=lambda name: len(self._lanes[name]))
        if len(self._lanes[heaviest]) <= len(self._lanes.get(tenant, ())) + 1:
            raise QueueIsFull
        item = self._lanes[heaviest].pop()
        self._size -= 1
        return item

    def pop(self, eligible: Callable[[T], bool]) -> T | None:
        """The next request in turn that ``eligible`` accepts; its tenant goes to the end of the row."""
        for tenant, lane in list(self._lanes.items()):
            if not lane:
                continue
            item = next((waiting for waiting in lane if eligible(waiting)), None)
            if item is None:
                continue
            self._drop(tenant, item)
            if tenant in self._lanes:
                self._lanes[tenant] = self._lanes.pop(tenant)
            return item
        return None

    def remove(self, item: T) -> bool:
        """Take a request out (its client left); False if it is not waiting."""
        lane = self._lanes.get(item.tenant)
        if lane is None or item not in lane:
            return False
        self._drop(item.tenant, item)
        return True

    def _drop(self, tenant: str, item: T) -> None:
        lane = self._lanes[tenant]
        lane.remove(item)
        self._size -= 1
        if not lane:
            del self._lanes[tenant]

    def position(self, item: T) -> int:
        """1 for the request that is served next."""
        lane = self._lanes[item.tenant]
        mine = lane.index(item)
        ahead = mine
        before = True
        for tenant, other in self._lanes.items():
            if tenant == item.tenant:
                before = False
                continue
            ahead += min(len(other), mine + 1 if before else mine)
        return ahead + 1

    def drain(self) -> list[T]:
        """Everything that waits, in no order; the queue is empty afterwards."""
        items = list(self)
        self._lanes.clear()
        self._size = 0
        return items
