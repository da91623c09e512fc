"""The queue is fair, bounded, and loses nobody."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.gateway.queue import FairQueue, QueueIsFull


@dataclass(frozen=True)
class Item:
    tenant: str
    number: int


def anyone(_: Item) -> bool:
    return True


def test_a_light_tenant_does_not_wait_behind_a_heavy_one() -> None:
    queue: FairQueue[Item] = FairQueue(100)
    for number in range(10):
        queue.push(Item("heavy", number))
    light = Item("light", 0)
    queue.push(light)
    assert queue.position(light) == 2
    assert [queue.pop(anyone), queue.pop(anyone)] == [Item("heavy", 0), light]


def test_a_full_queue_takes_the_place_from_the_heaviest_tenant() -> None:
    queue: FairQueue[Item] = FairQueue(3)
    for number in range(3):
        queue.push(Item("heavy", number))
    assert queue.push(Item("light", 0)) == Item("heavy", 2)
    with pytest.raises(QueueIsFull):
        queue.push(Item("heavy", 3))


def test_a_request_that_needs_more_context_does_not_block_the_others() -> None:
    queue: FairQueue[Item] = FairQueue(10)
    queue.push(Item("a", 99))
    queue.push(Item("a", 1))
    assert queue.pop(lambda item: item.number < 10) == Item("a", 1)
    assert len(queue) == 1


def test_positions_are_the_order_of_service() -> None:
    queue: FairQueue[Item] = FairQueue(100)
    items = [Item(tenant, number) for number, tenant in enumerate("aababcca")]
    for item in items:
        queue.push(item)
    expected = {queue.position(item): item for item in items}
    assert [queue.pop(anyone) for _ in items] == [expected[place] for place in range(1, len(items) + 1)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["push", "pop", "remove"])), max_size=200))
def test_every_request_leaves_exactly_once(steps: list[tuple[str, str]]) -> None:
    queue: FairQueue[Item] = FairQueue(5)
    inside: set[Item] = set()
    for number, (tenant, step) in enumerate(steps):
        if step == "push":
            item = Item(tenant, number)
            try:
                displaced = queue.push(item)
            except QueueIsFull:
                continue
            inside.add(item)
            if displaced is not None:
                inside.remove(displaced)
        elif step == "pop":
            popped = queue.pop(anyone)
            assert (popped is None) == (not inside)
            inside.discard(popped) if popped else None
        elif inside:
            gone = min(inside, key=lambda waiting: waiting.number)
            assert queue.remove(gone)
            assert not queue.remove(gone)
            inside.remove(gone)
        assert len(queue) == len(inside) == len(list(queue)) <= 5
    assert set(queue.drain()) == inside
    assert len(queue) == 0
