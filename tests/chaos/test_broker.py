"""The broker is killed in mid-load, and comes back with its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypervisor_telemetry.local.broker import LocalKafka
from tests.chaos.harness import Load, MetricsMonitor, Truth, assert_converges, ring_events
from tests.support.service_processes import eventually, fleet

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

PARTITIONS = 6


def test_totals_are_the_truth_and_copies_stay_alive_while_the_broker_is_killed(
    own_kafka: LocalKafka, chaos: Chaos, topic_prefix: str, tmp_path: Path
) -> None:
    events = list(ring_events(chaos.random, chaos.scaled(60_000, 400_000)))
    truth = Truth.of(events)
    with fleet(own_kafka.bootstrap_servers, topic_prefix, tmp_path) as it:
        it.make_topics(PARTITIONS)
        copies = [it.start("ring-metrics") for _ in range(2)]
        for copy in copies:
            copy.wait_ready()
        with MetricsMonitor(copies) as monitor:
            load = Load.of_events(it, events, per_second=3_000).start()
            for _ in range(chaos.scaled(1, 6)):
                eventually(lambda: monitor.shown, all, 60)
                seen = sum(map(monitor.events_counted_by, copies))
                eventually(
                    lambda seen=seen: sum(map(monitor.events_counted_by, copies)) > seen + 1000 or load.is_over,
                    bool,
                )
                own_kafka.kill()
                for copy in copies:
                    eventually(copy.ready, lambda ready: ready[1].startswith("degraded\nKafka at "), 20)
                    assert copy.ready()[0] == 200
                    assert copy.is_alive()
                own_kafka.start()
                for copy in copies:
                    eventually(copy.ready, lambda ready: ready == (200, "ok\n"), 90)
                    assert copy.is_alive()
            eventually(lambda: load.is_over, bool, 300)
            assert_converges(monitor, truth)
