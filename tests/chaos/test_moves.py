"""Copies that are added and taken away under load: partitions move, numbers don't."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.harness import BREACHES, TRANSITIONS, Load, Truth, Watcher, one_of_each, ring_events, settle
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
    before = list(one_of_each(random))
    during: list[HypervisorEvent] = []

    def start_copy() -> None:
        watcher.copies.append(fleet.start("ring-metrics", TELEMETRY_RING_LABELS=labels))

    with Watcher() as watcher:
        start_copy()
        Load.of_events(fleet, before, per_second=20_000).start()
        settle(watcher, Truth.of(before, labels))
        watcher.begin_increase()
        start_copy()
        for _ in range(chaos.scaled(3, 30)):
            events = list(ring_events(random, 10_000))
            during += events
            load = Load.of_events(fleet, events, per_second=2_500).start()
            # Two copies share; then one more comes, or one goes.
            eventually(lambda: all(copy.partitions() for copy in watcher.copies), bool, 60)
            eventually(watcher.shown_twice, lambda twice: not twice, 60)
            if len(watcher.copies) > 2 or (len(watcher.copies) == 2 and random.random() < 0.5):
                status, seconds = watcher.copies.pop(random.randrange(len(watcher.copies))).terminate()
                assert status == 0
                assert seconds < 10
            else:
                start_copy()
            eventually(lambda load=load: load.is_over, bool, 300)
        settle(watcher, Truth.of(before + during, labels))
    increase = Truth.of(during, labels).sums(TRANSITIONS, BREACHES)
    assert watcher.sums_of_increase(TRANSITIONS, BREACHES) == increase
