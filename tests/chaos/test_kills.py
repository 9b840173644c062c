"""Copies that are killed or frozen at random moments lose and double nothing."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.harness import Load, MetricsMonitor, Truth, assert_converges, ring_events
from tests.support.service_processes import Fleet, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

PARTITIONS = 6


def test_totals_are_the_truth_and_never_go_back_while_copies_are_killed(
    new_fleet: Callable[[int], Fleet], chaos: Chaos
) -> None:
    random = chaos.random
    fleet = new_fleet(PARTITIONS)
    events = list(ring_events(random, chaos.scaled(200_000, 2_000_000)))
    truth = Truth.of(events)
    with MetricsMonitor([fleet.start("ring-metrics") for _ in range(chaos.scaled(2, 3))]) as monitor:
        load = Load.of_events(fleet, events, per_second=10_000).start()
        kills = 0
        while not load.is_over:
            until = time.monotonic() + random.uniform(2, 6)
            eventually(lambda until=until: time.monotonic() >= until or load.is_over, bool, 10)
            victim = monitor.copies.pop(random.randrange(len(monitor.copies)))
            victim.kill()
            kills += 1
            monitor.copies.append(fleet.start("ring-metrics"))
        assert_converges(monitor, truth)
    assert kills >= 3


def test_a_frozen_copy_counts_nothing_twice_and_shows_nothing_old_when_it_thaws(
    new_fleet: Callable[[int], Fleet], chaos: Chaos
) -> None:
    fleet = new_fleet(PARTITIONS)
    events = list(ring_events(chaos.random, chaos.scaled(60_000, 600_000)))
    truth = Truth.of(events)
    copies = [fleet.start("ring-metrics").wait_ready() for _ in range(2)]
    eventually(lambda: [copy.partitions() for copy in copies], all)
    with MetricsMonitor(copies) as monitor:
        load = Load.of_events(fleet, events, per_second=3_000).start()
        freezes = 0
        while not load.is_over:
            frozen, other = copies[freezes % 2], copies[1 - freezes % 2]
            eventually(lambda: monitor.events_counted_by(frozen), bool, 60)
            os.kill(frozen.pid, signal.SIGSTOP)
            try:
                # Its session runs out, the other copy takes over and goes on from there.
                eventually(other.partitions, lambda partitions: partitions == PARTITIONS, 60)
                before = monitor.events_counted_by(other)
                eventually(lambda: monitor.events_counted_by(other) > before or load.is_over, bool, 60)
            finally:
                os.kill(frozen.pid, signal.SIGCONT)
            freezes += 1
            # What it shows from its first moment on, the monitor holds against what the other one has shown.
            eventually(lambda: frozen.partitions() > 0 or load.is_over, bool, 60)
        assert_converges(monitor, truth)
    assert freezes >= 1
