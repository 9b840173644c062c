"""Partitions that come, go and come again while they are restored."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from hypervisor_consumers.runtime.partitions.partition import Partition
from tests.support.restoring import P, Workshop, counted, told
from tests.support.service_processes import eventually
from tests.support.word_count_service import HERE, THERE, Copy, Words, World, assign

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def world() -> World:
    return World()


def hold_at_offset(world: World) -> None:
    world.kafka.fail_next("committed", before=True)


def hold_at_end(world: World) -> None:
    world.kafka.fail_next("get_watermark_offsets", before=True)


def hold_at_kept(world: World) -> None:
    world.kafka.fail_next("consume", before=True)


def hold_at_nothing(world: World) -> None:
    pass


class TestCancelling:
    @pytest.mark.parametrize("steps", range(6))
    @pytest.mark.parametrize("hold", [hold_at_offset, hold_at_end, hold_at_kept, hold_at_nothing])
    def test_at_any_time_forgets_the_partition_and_it_can_come_again(
        self, world: World, hold: Callable[[World], None], steps: int
    ) -> None:
        told(world, "a")
        workshop = Workshop(world)
        workshop.begin(HERE)
        hold(world)
        for _ in range(steps):
            workshop.restorer.step()  # what is finished is not asked for

        workshop.cancel(HERE)

        workshop.step(5)
        assert workshop.done == {}
        assert not workshop.restorer.step()
        assert counted(workshop.restored()) == {"a": 1}

    @pytest.mark.parametrize("steps", range(3))
    def test_one_leaves_the_others(self, world: World, steps: int) -> None:
        told(world, "a")
        workshop = Workshop(world)
        workshop.begin(HERE, THERE)
        for _ in range(steps):
            workshop.restorer.step()
        workshop.cancel(THERE)
        workshop.step(10)
        assert set(workshop.done) == {HERE}
        assert counted(workshop.partition()) == {"a": 1}

    @pytest.mark.parametrize("steps", range(4))
    def test_and_beginning_again_before_the_next_step_restores_into_the_new_one(
        self, world: World, steps: int
    ) -> None:
        told(world, "a")
        workshop = Workshop(world)
        old: P = Partition(0, Words(), 1000)
        workshop.begin_into(HERE, old)
        for _ in range(steps):
            workshop.restorer.step()
        workshop.cancel(HERE)
        assert counted(workshop.restored()) == {"a": 1}
        assert workshop.partition() is not old
        assert workshop.restorer.finished() == []


def test_a_thread_restores_what_comes_and_ends_when_it_is_told(world: World):
    told(world, "a")
    workshop = Workshop(world)
    stop = threading.Event()
    thread = threading.Thread(target=workshop.restorer.run, args=(stop.is_set,))
    thread.start()
    try:
        for _ in range(2):
            workshop.begin(HERE)
            found = eventually(workshop.restorer.finished, len, 10)
            assert [job.topic_partition for job in found] == [HERE]
    finally:
        stop.set()
        workshop.restorer.wake()
        thread.join(10)
    assert not thread.is_alive()


def test_partitions_move_between_copies_with_all_that_was_counted(world: World):
    first, second = Copy(world, "a"), Copy(world, "b")
    for number, (here, there) in enumerate([(first, second), (second, first), (first, second)], 1):
        assign(world, {here: [0], there: [1]})
        world.say(0, "a")
        world.say(1, "b")
        for copy in (here, there):
            copy.restore()
            copy.read()
            copy.commit()
        assert here.shown() == {0: {"a": number}}
        assert there.shown() == {1: {"b": number}}
