"""Copies that are added and taken away under load: partitions move, numbers don't."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.harness import (
    BREACHES,
    TRANSITIONS,
    Load,
    MetricsMonitor,
    Truth,
    assert_converges,
    one_event_per_series,
    ring_events,
)
from tests.support.service_processes import Fleet, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypervisor_schemas.events import HypervisorEvent
    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

PARTITIONS = 6


@pytest.mark.parametrize("labels", ["event_type,agent_did,session_id", "event_type,agent_did"])
def test_the_increase_over_moves_is_the_truth_with_and_without_the_session(
    new_fleet: Callable[[int], Fleet], chaos: Chaos, labels: str
) -> None:
    random = chaos.random
    fleet = new_fleet(PARTITIONS)
    before = list(one_event_per_series(random))
    during: list[HypervisorEvent] = []

    def start_copy() -> None:
        monitor.copies.append(fleet.start("ring-metrics", TELEMETRY_RING_LABELS=labels))

    with MetricsMonitor() as monitor:
        start_copy()
        Load.of_events(fleet, before, per_second=20_000).start()
        assert_converges(monitor, Truth.of(before, labels))
        monitor.reset_increases()
        start_copy()
        for _ in range(chaos.scaled(3, 30)):
            events = list(ring_events(random, 10_000))
            during += events
            load = Load.of_events(fleet, events, per_second=2_500).start()
            # Two copies share; then one more comes, or one goes.
            eventually(lambda: all(copy.partitions() for copy in monitor.copies), bool, 60)
            eventually(monitor.duplicated_series, lambda twice: not twice, 60)
            if len(monitor.copies) > 2 or (len(monitor.copies) == 2 and random.random() < 0.5):
                status, seconds = monitor.copies.pop(random.randrange(len(monitor.copies))).terminate()
                assert status == 0
                assert seconds < 10
            else:
                start_copy()
            eventually(lambda load=load: load.is_over, bool, 300)
        assert_converges(monitor, Truth.of(before + during, labels))
    increase = Truth.of(during, labels).sums(TRANSITIONS, BREACHES)
    assert monitor.increase_sums(TRANSITIONS, BREACHES) == increase
