"""Alive, ready, degraded, on a clock of the test's own."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.ops.health import STALLED_AFTER_SECONDS, Health


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def test_it_is_alive_while_the_loop_turned_in_the_last_30_s(health: Health, clock: Clock):
    assert health.is_alive
    clock.now += STALLED_AFTER_SECONDS - 0.1
    assert health.is_alive
    clock.now += 0.1
    assert not health.is_alive
    health.turned()
    assert health.is_alive


def test_it_becomes_ready_once_and_no_trouble_takes_that_away(health: Health):
    assert not health.is_ready
    health.became_ready()
    health.trouble("kafka", "Kafka can't be reached.")
    assert health.is_ready


def test_troubles_are_told_by_subject_until_each_is_over(health: Health):
    health.trouble("kafka", "Kafka can't be reached.")
    health.trouble("output", "The disk is full.")
    health.trouble("kafka", "Kafka is in trouble.")
    assert health.troubles == ["Kafka is in trouble.", "The disk is full."]

    health.better("kafka")
    health.better("registry")
    assert health.troubles == ["The disk is full."]
    assert health.is_in_trouble("output")
    assert not health.is_in_trouble("kafka")

    health.better("output")
    assert health.troubles == []


def test_a_trouble_whose_end_nobody_tells_is_told_for_a_while_only(health: Health, clock: Clock):
    health.trouble("group", "The group is in trouble.", lasting=60)
    clock.now += 59
    assert health.troubles == ["The group is in trouble."]
    health.trouble("group", "The group is in trouble again.", lasting=60)
    clock.now += 59
    assert health.troubles == ["The group is in trouble again."]
    clock.now += 1
    assert health.troubles == []
