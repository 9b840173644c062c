"""Commits come at an interval; after one that fails, tries grow rare until what was rolled back is covered."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.commit.schedule import CommitSchedule
from hypervisor_consumers.runtime.records import TopicPartition

HERE, THERE = TopicPartition("t", 0), TopicPartition("t", 1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def schedule(clock: Clock) -> CommitSchedule:
    return CommitSchedule(10, clock, lambda: 1.0)


def test_a_commit_is_due_at_once_and_then_after_the_interval(schedule: CommitSchedule, clock: Clock) -> None:
    assert schedule.is_due
    schedule.begin()
    clock.now += 9.9
    assert not schedule.is_due
    clock.now += 0.1
    assert schedule.is_due


def test_a_commit_that_is_put_off_is_well_when_it_goes_through(schedule: CommitSchedule, clock: Clock) -> None:
    assert schedule.hold(0)
    assert not schedule.hold(0)
    assert (schedule.is_held, schedule.is_failing, schedule.is_waiting) == (True, True, True)
    clock.now += 0.4
    assert not schedule.is_waiting
    assert schedule.committed({})
    assert (schedule.is_held, schedule.is_failing) == (False, False)


def test_the_other_side_may_ask_for_a_longer_wait(schedule: CommitSchedule, clock: Clock) -> None:
    schedule.hold(30)
    clock.now += 29
    assert schedule.is_waiting
    clock.now += 1
    assert not schedule.is_waiting


def test_what_was_rolled_back_has_to_be_covered(schedule: CommitSchedule, clock: Clock) -> None:
    schedule.rolled_back({HERE: 7, THERE: 3})
    schedule.hold(0)
    clock.now += 0.2
    assert not schedule.committed({HERE: 5, THERE: 3})
    assert (schedule.is_held, schedule.is_failing) == (False, True)
    schedule.rolled_back({HERE: 6})
    assert schedule.hold(0), "reading had gone on"
    clock.now += 0.3
    assert schedule.is_waiting, "the wait is twice as long as the first"
    clock.now += 0.1
    assert not schedule.committed({HERE: 6, THERE: 3}), "once it was read up to 7"
    assert schedule.committed({HERE: 7, THERE: 3})


def test_a_partition_that_went_is_no_concern_any_more(schedule: CommitSchedule) -> None:
    schedule.rolled_back({HERE: 7})
    schedule.hold(0)
    assert schedule.committed({THERE: 0})
