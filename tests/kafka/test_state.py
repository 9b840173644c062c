"""The state of a service, and what can happen to it: a source that grew, a state or an offset changed by hand."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic

from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import TOPICS, partition_of
from tests.support.service_processes import Fleet, RunningService, eventually

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
    """Count each series, none of them on two copies."""
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
    eventually(lambda: shown(third), lambda counts: counts == truth)  # with the first commit
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


def test_a_service_whose_state_somebody_removed_stops_with_what_to_do_and_never_counts_from_zero(
    new_fleet: Callable[[int], Fleet],
):
    fleet = new_fleet(1)
    rings, prefix = fleet.topic("ring"), fleet.prefix
    fleet.publish(assignments())
    first = fleet.start("ring-metrics")
    eventually(lambda: first.results(rings), {"applied": 40}.__eq__)
    assert first.terminate()[0] == 0

    make_anew(fleet, "state.ring-metrics")
    second = fleet.start("ring-metrics")

    assert second.wait() == 1
    assert second.log.splitlines()[-1] == (
        f"error: The group {prefix}ring-metrics stands at offset 40 of {rings} partition 0, but "
        f"{prefix}state.ring-metrics holds no state for it. To count anew from what the log still holds: stop all "
        f"copies, delete the group {prefix}ring-metrics and the topic {prefix}state.ring-metrics, then run "
        "`hypervisor-telemetry topics apply`."
    )
    assert "Traceback" not in second.log

    # What the sentence says works.
    group = f"{prefix}ring-metrics"
    fleet.admin.delete_consumer_groups([group])[group].result(30)
    third = fleet.start("ring-metrics")
    eventually(lambda: shown(third), lambda counts: counts == Counter(map(series, SESSIONS)))


@pytest.mark.parametrize("offset", [0, 60])
def test_an_offset_that_somebody_set_neither_skips_nor_repeats_an_event(
    new_fleet: Callable[[int], Fleet], offset: int
):
    fleet = new_fleet(1)
    rings = fleet.topic("ring")
    fleet.publish(assignments())
    first = fleet.start("ring-metrics")
    eventually(lambda: first.results(rings), {"applied": 40}.__eq__)
    assert first.terminate()[0] == 0
    fleet.publish(assignments())

    set_offset(fleet, "ring-metrics", rings, offset)

    second = fleet.start("ring-metrics").wait_ready()
    eventually(lambda: second.results(rings), {"applied": 80}.__eq__)
    assert shown(second) == Counter(2 * [*map(series, SESSIONS)])
    stands = f"The group {fleet.prefix}ring-metrics stands at offset {offset} of {rings} partition 0, what is kept "
    assert f"{stands}in {fleet.prefix}state.ring-metrics includes all up to 40. Reading goes on there" in second.log
