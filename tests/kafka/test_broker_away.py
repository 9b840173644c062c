"""Services while Kafka is away: they wait, say so, and continue exactly where they were."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_telemetry.local.broker import LocalKafka
from tests.support.service_processes import RunningService, eventually, fleet

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.kafka

DEGRADED = "hypervisor_telemetry_degraded"
TRANSITIONS = "agent_hypervisor_ring_transitions_total"


def assignments(count: int) -> list[HypervisorEvent]:
    kind = EventType.RING_ASSIGNED
    return [HypervisorEvent(event_type=kind, session_id=f"s{n % 20}", payload={"ring": 1}) for n in range(count)]


def total(*services: RunningService) -> float:
    return sum(sum(service.metrics(TRANSITIONS).values()) for service in services)


def test_a_service_waits_for_kafka_and_topics_and_outlives_a_crash_of_the_broker(
    own_kafka: LocalKafka, topic_prefix: str, tmp_path: Path
):
    with fleet(own_kafka.bootstrap_servers, topic_prefix, tmp_path) as it:
        # No topics yet.
        early = it.start("ring-metrics")
        status, text = eventually(early.ready, lambda ready: "exist" in ready[1])
        assert status == 503
        assert text == (f"degraded\n{it.topic('ring')} doesn't exist; run `hypervisor-telemetry topics apply`.\n")
        assert early.is_alive()
        it.make_topics(3)
        it.publish(assignments(100))
        early.wait_ready()
        eventually(lambda: total(early), lambda count: count == 100)
        eventually(early.ready, lambda ready: ready == (200, "ok\n"))
        assert early.metrics(DEGRADED) == {DEGRADED: 0}

        # No broker, for one that runs and for one that starts.
        own_kafka.kill()
        late = it.start("ring-metrics")
        away = f"degraded\nKafka at {own_kafka.bootstrap_servers} can't be reached: "
        for service, status in ((early, 200), (late, 503)):
            ready = eventually(service.ready, lambda ready: "reached" in ready[1], 15)
            assert ready[0] == status
            assert ready[1].startswith(away)
            assert service.is_alive()
            assert service.metrics(DEGRADED) == {DEGRADED: 1}
        # For all that this copy knows, another one has its partitions by now, and shows more.
        eventually(lambda: (total(early), early.results(it.topic("ring"))), lambda shown: shown == (0, {}), 15)

        # Back again: seen without any record flowing.
        own_kafka.start()
        for service in (early, late):
            eventually(service.ready, lambda ready: ready == (200, "ok\n"))
        eventually(lambda: total(early, late), lambda count: count == 100)
        it.publish(assignments(300))
        eventually(lambda: total(early, late), lambda count: count == 400)

        # Away once more, at the end.
        own_kafka.kill()
        eventually(early.ready, lambda ready: ready[1].startswith(away), 15)
        began = time.monotonic()
        for service in (early, late):
            os.kill(service.pid, signal.SIGTERM)
        assert [service.wait() for service in (early, late)] == [0, 0]
        assert time.monotonic() - began < 10


@pytest.mark.full
def test_on_a_kafka_without_the_new_group_protocol_the_classic_one_works_and_idle_connections_are_no_trouble(
    topic_prefix: str, tmp_path: Path
):
    overrides = {"group.coordinator.rebalance.protocols": "classic", "connections.max.idle.ms": "1500"}
    with (
        LocalKafka(overrides=overrides) as broker,
        fleet(broker.bootstrap_servers, topic_prefix, tmp_path) as it,
    ):
        it.make_topics(3)
        it.publish(assignments(90))

        refused = it.start("ring-metrics")
        # What the second says when it leaves can get lost with a connection that is just being closed.
        classic = {"KAFKA_GROUP_PROTOCOL": "classic", "KAFKA_SESSION_TIMEOUT_MS": "6000"}
        first = it.start("ring-metrics", **classic, TELEMETRY_LOG_LEVEL="debug")
        second = it.start("ring-metrics", **classic, KAFKA_HEARTBEAT_INTERVAL_MS="500")
        for copy in (first, second):
            copy.wait_ready()
        eventually(lambda: total(first, second), lambda count: count == 90)

        assert refused.wait() == 1
        assert refused.log.splitlines()[-1] == (
            "error: This Kafka doesn't know the group protocol of KIP-848; set KAFKA_GROUP_PROTOCOL=classic."
        )
        assert "Traceback" not in refused.log

        status, seconds = second.terminate()
        assert status == 0
        assert seconds < 10
        eventually(lambda: total(first), lambda count: count == 90)

        # Between two heartbeats, 3 s apart, the broker closes the connection: that is no trouble.
        def closed() -> int:
            assert first.metrics(DEGRADED) == {DEGRADED: 0}, first.ready()[1]
            return first.log.count("Disconnected")

        eventually(closed, lambda times: times >= 2)
