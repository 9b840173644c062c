"""The state of a service, and what can happen to it: a source that grew, a changelog or offsets changed by hand."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import TOPICS, partition_of
from tests.services import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

pytestmark = pytest.mark.kafka

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
SESSIONS = [f"s{number}" for number in range(40)]


def assignments(sessions: Iterable[str] = SESSIONS) -> list[HypervisorEvent]:
    kind = EventType.RING_ASSIGNED
    return [
        HypervisorEvent(event_type=kind, agent_did="a", session_id=session, payload={"ring": 1})
        for session in sessions
    ]


def series(session: str, partition: int | None = None) -> str:
    where = "" if partition is None else f'partition="{partition}",'
    return f'{TRANSITIONS}{{agent_did="a",event_type="ring.assigned",{where}session_id="{session}"}}'


def shown(*copies: RunningService) -> Counter[str]:
    """How often each series was counted, none of them on two copies."""
    found: Counter[str] = Counter()
    for copy in copies:
        of_copy = {name: int(value) for name, value in copy.metrics(TRANSITIONS).items()}
        assert not found.keys() & of_copy.keys(), "two copies show one series"
        found.update(of_copy)
    return found


def test_totals_are_exact_after_the_source_grew_and_sessions_that_moved_carry_their_partition(
    new_fleet: Callable[[int], Fleet],
):
    fleet = new_fleet(2)
    topic = fleet.topic("ring")
    first = fleet.start("ring-metrics").wait_ready()
    fleet.publish(assignments())
    before = Counter({series(session): 1 for session in SESSIONS})
    eventually(lambda: shown(first), lambda counts: counts == before)

    second = fleet.start("ring-metrics")
    fleet.admin.create_partitions([NewPartitions(topic, 5)])[topic].result(30)
    eventually(lambda: len(fleet.admin.list_topics(timeout=30).topics[topic].partitions), lambda count: count == 5)
    for _ in range(2):
        fleet.publish(assignments())

    truth = before.copy()
    for session in SESSIONS:
        now, was = (partition_of(session.encode(), partitions) for partitions in (5, 2))
        truth[series(session, None if now == was else now)] += 2
    assert len(truth) > len(before)
    copies = [first, second]
    eventually(lambda: sum(copy.partitions() for copy in copies), lambda count: count == 5)
    eventually(lambda: shown(*copies), lambda counts: counts == truth)
    for copy in copies:
        assert copy.terminate()[0] == 0
    # What is kept of five partitions lies in the two of the state.
    third = fleet.start("ring-metrics")
    eventually(third.partitions, lambda count: count == 5)
    assert shown(third) == truth
    rings = fleet.records(f"{fleet.prefix}agent-rings")
    assert len({record.key() for record in rings}) == len(SESSIONS)


def make_anew(fleet: Fleet, name: str) -> None:
    """As somebody does who doesn't know what it is for."""
    [topic] = [topic for topic in TOPICS if topic.name == name]
    full = fleet.prefix + name
    fleet.admin.delete_topics([full])[full].result(30)
    eventually(lambda: full in fleet.admin.list_topics(timeout=30).topics, lambda is_there: not is_there)
    fleet.admin.create_topics([NewTopic(full, 1, 1, config=dict(topic.config))])[full].result(30)
    eventually(lambda: full in fleet.admin.list_topics(timeout=30).topics, bool)


def set_offset(fleet: Fleet, service: str, topic: str, offset: int) -> None:
    position = ConsumerGroupTopicPartitions(fleet.prefix + service, [TopicPartition(topic, 0, offset)])
    [answer] = fleet.admin.alter_consumer_group_offsets([position]).values()
    answer.result(30)


def test_a_service_whose_state_or_offset_somebody_changed_stops_with_what_to_do_and_never_counts_from_zero(
    new_fleet: Callable[[int], Fleet],
):
    fleet = new_fleet(1)
    rings, sagas, prefix = fleet.topic("ring"), fleet.topic("saga"), fleet.prefix
    saga = HypervisorEvent(event_type=EventType.SAGA_CREATED, session_id="s", payload={"saga_id": "x"})
    fleet.publish([*assignments(), saga])

    def start() -> tuple[RunningService, RunningService]:
        return fleet.start("ring-metrics"), fleet.start("saga-spans", "--sink", "null")

    for service, topic, count in zip(start(), (rings, sagas), (40, 1), strict=True):
        eventually(lambda service=service, topic=topic: service.results(topic), {"applied": count}.__eq__)
        assert service.terminate()[0] == 0

    make_anew(fleet, "state.ring-metrics")
    set_offset(fleet, "saga-spans", sagas, 0)
    both = start()
    statuses = [service.wait() for service in both]

    assert statuses == [1, 1]
    without_state, with_another_offset = (service.log.splitlines()[-1] for service in both)
    assert without_state == (
        f"error: The group {prefix}ring-metrics stands at offset 40 of {rings} partition 0, but "
        f"{prefix}state.ring-metrics holds no state for it. To count anew from what the log still holds: stop all "
        f"copies, delete the group {prefix}ring-metrics and the topic {prefix}state.ring-metrics, then run "
        "`hypervisor-telemetry topics apply`."
    )
    assert with_another_offset.startswith(
        f"error: The group {prefix}saga-spans stands at offset 0 of {sagas} partition 0, but the state in "
        f"{prefix}state.saga-spans at 1: offsets or records were changed by hand. Set the offset to 1 to go on. "
    )
    assert not [service for service in both if re.search("Traceback", service.log)]

    # What the sentences say works.
    group = f"{prefix}ring-metrics"
    fleet.admin.delete_consumer_groups([group])[group].result(30)
    set_offset(fleet, "saga-spans", sagas, 1)
    ring_metrics, saga_spans = start()
    eventually(lambda: shown(ring_metrics), lambda counts: counts == Counter(map(series, SESSIONS)))
    saga_spans.wait_ready()
    eventually(lambda: saga_spans.results(sagas), lambda counts: counts == {"applied": 1})
