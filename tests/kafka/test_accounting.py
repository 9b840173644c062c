"""It adds up: what Kafka says of the logs, against what each service says became of every offset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition

from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of
from hypervisor_schemas.wire.codec import encode_event
from tests.support.service_processes import Fleet, RunningService, eventually, run_command, sessions_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

pytestmark = pytest.mark.kafka

PARTITIONS = 2
OWN = "hypervisor_telemetry_"
TRANSITIONS = "agent_hypervisor_ring_transitions_total"
[HERE] = sessions_in(0, PARTITIONS)


def assigned(session: str, **payload: object) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=EventType.RING_ASSIGNED, agent_did="a", session_id=session, payload={"ring": 1, **payload}
    )


def start_both(fleet: Fleet, folder: Path) -> tuple[RunningService, RunningService]:
    database = f"sqlite:///{folder / 'events.db'}"
    return fleet.start("ring-metrics"), fleet.start("event-index", "--database", database)


def ends(fleet: Fleet) -> list[int]:
    consumer = Consumer({"bootstrap.servers": fleet.bootstrap_servers, "group.id": "unused", "log_level": 0})
    topic_partitions = [TopicPartition(fleet.topic("ring"), partition) for partition in range(PARTITIONS)]
    found = [consumer.get_watermark_offsets(topic_partition, timeout=30)[1] for topic_partition in topic_partitions]
    consumer.close()
    return found


def own(service: RunningService, name: str, fleet: Fleet) -> list[float | None]:
    """One of its own metrics for every partition of the ring events."""
    topic_partitions = [{"topic": fleet.topic("ring"), "partition": partition} for partition in range(PARTITIONS)]
    return [service.value(OWN + name, **topic_partition) for topic_partition in topic_partitions]


def is_all_accounted_for(fleet: Fleet, services: Iterable[RunningService], begins: list[int]) -> None:
    """Waits: each service asks Kafka every 2 s where its group stands."""
    distances = [end - begin for end, begin in zip(ends(fleet), begins, strict=True)]
    for service in services:
        eventually(lambda service=service: own(service, "log_distance_offsets", fleet), lambda it: it == distances)
        accounted = [
            sum(service.results(fleet.topic("ring"), partition).values()) for partition in range(PARTITIONS)
        ]
        assert accounted == distances
        assert own(service, "accounting_difference", fleet) == [0, 0]
        assert own(service, "position", fleet) == ends(fleet)
        assert own(service, "lag_records", fleet) == [0, 0]
        assert own(service, "lag_seconds", fleet) == [0, 0]


def test_every_offset_is_accounted_for_also_the_markers_of_a_replays_transaction(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet = new_fleet(PARTITIONS)
    ring_metrics, event_index = services = start_both(fleet, tmp_path)
    topic = fleet.topic("ring")
    events = [assigned(f"c{n}") for n in range(40)]
    other = HypervisorEvent(event_type=event_type_of("ring.polished"), session_id=HERE)
    fleet.publish([*events, *events[:10], other])
    fleet.produce("ring", [b"rubbish", encode_event(assigned(HERE, ring=9))], partition=0)

    def results(service: RunningService) -> dict[str, int]:
        for each in ("lag_records", "lag_seconds"):
            assert all(value >= 0 for value in service.metrics(OWN + each).values())
        return service.results(topic)

    wanted = {"applied": 40, "duplicate": 10, "ignored": 1, "undecodable": 1, "invalid_payload": 1}
    eventually(lambda: results(ring_metrics), lambda counts: counts == wanted)
    # A row is there once; the index needs no account of repeats.
    indexed = {"applied": 52, "undecodable": 1}
    eventually(lambda: results(event_index), lambda counts: counts == indexed)

    replayed = run_command("dead-letters", "replay", "--service", "ring-metrics", **fleet.environ)
    assert replayed.stdout.splitlines()[-1] == "replayed 2", replayed.stderr
    wanted |= {"undecodable": 2, "invalid_payload": 2, "without_record": 1}
    eventually(lambda: results(ring_metrics), lambda counts: counts == wanted)
    indexed |= {"ignored": 2, "without_record": 1}
    eventually(lambda: results(event_index), lambda counts: counts == indexed)
    is_all_accounted_for(fleet, services, [0, 0])

    for service, restored in ((ring_metrics, 2), (event_index, 20)):
        assert service.value(f"{OWN}restore_seconds_count") == restored
        assert service.value(f"{OWN}restore_seconds_sum") > 0
        assert service.value(f"{OWN}latency_seconds_count") == 55  # all but the marker
        assert service.value(f"{OWN}latency_seconds_sum") > 0
        assert service.value(f"{OWN}transactions_total", outcome="committed") > 0
    assert ring_metrics.value(f"{OWN}changelog_records_total") > 40


def test_where_a_committed_offset_has_aged_out_it_goes_on_from_the_earliest_and_counts_the_gap(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet = new_fleet(PARTITIONS)
    topic = fleet.topic("ring")
    fleet.publish(assigned(HERE) for _ in range(30))
    both = start_both(fleet, tmp_path)
    for service in both:
        eventually(lambda service=service: service.results(topic), lambda counts: counts == {"applied": 30})
        assert service.terminate()[0] == 0

    fleet.publish(assigned(HERE) for _ in range(20))
    gone = TopicPartition(topic, 0, 40)
    fleet.admin.delete_records([gone])[gone].result(30)
    fleet.publish(assigned(HERE) for _ in range(5))
    ring_metrics, event_index = both = start_both(fleet, tmp_path)

    eventually(lambda: ring_metrics.results(topic), lambda counts: counts == {"applied": 45, "aged_out": 10})
    eventually(lambda: event_index.results(topic), lambda counts: counts == {"applied": 15, "aged_out": 10})
    labels = {"agent_did": "a", "event_type": "ring.assigned", "session_id": HERE}
    assert ring_metrics.value(TRANSITIONS, **labels) == 45
    assert event_index.get("/v1/stats").json()["event_count"] == 45
    is_all_accounted_for(fleet, [ring_metrics], [0, 0])
    is_all_accounted_for(fleet, [event_index], [30, 0])
