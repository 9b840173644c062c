"""Garbage is collected between batches: the young every second, all of it and freed memory every minute."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from hypervisor_consumers.runtime.ops.gc_scheduling import BetweenBatches, give_back_memory


class Cycle:
    """Found by a collection alone."""

    left = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Cycle.left -= 1


@pytest.fixture
def clock() -> Iterator[list[float]]:
    """The time; Python's own collection is on again afterwards."""
    yield [1000.0]
    gc.unfreeze()
    gc.enable()


def make_cycle() -> None:
    Cycle()
    Cycle.left += 1


def test_freed_memory_is_given_back_once_a_minute_and_no_sooner(clock: list[float]) -> None:
    given_back: list[float] = []
    between = BetweenBatches(lambda: clock[0], lambda: given_back.append(clock[0]))
    for second in (0, 1, 30, 59, 60, 61, 119, 120):
        clock[0] = 1000.0 + second
        between.look()
    assert given_back == [1060.0, 1120.0]


def test_cycles_go_at_the_look_after_a_second_and_not_before(clock: list[float]) -> None:
    between = BetweenBatches(lambda: clock[0], lambda: None)
    between.look()
    assert not gc.isenabled()
    make_cycle()
    between.look()
    assert Cycle.left == 1
    clock[0] += 1
    between.look()
    assert Cycle.left == 0
    between.end()
    assert gc.isenabled()


def test_to_give_back_memory_can_be_asked_for_at_any_time() -> None:
    give_back_memory()
    give_back_memory()
