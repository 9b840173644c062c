"""The indexer of event-index, on a real database and a Kafka in memory."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError
from sqlalchemy import delete, update

from hypervisor_consumers.event_index.backends.store import EventStore, StoreUnavailable, open_store
from hypervisor_consumers.event_index.indexer import IndexedPartition, Indexer
from hypervisor_consumers.event_index.tables import IndexRow, events, offsets, type_counts
from hypervisor_consumers.runtime.commit.dead_letters import DeadLetterWriter
from hypervisor_consumers.runtime.kafka.client_config import consumer_settings
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.records import Record, Result, TopicPartition
from hypervisor_schemas.errors import OutputUnavailable, UndecodableRecord
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_telemetry.testing.memory.consumer import MemoryConsumer
from tests.support.faulty_kafka import FaultyKafka
from tests.support.word_count_service import Clock

if TYPE_CHECKING:
    from pathlib import Path

TOPIC, DEAD_LETTERS = "t.events.session", "t.dead-letters"
HERE, THERE = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
SETTINGS = consumer_settings({"bootstrap.servers": "memory"}, "t.event-index")
BAD = UndecodableRecord("It is no record.")


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.kafka = FaultyKafka(self.clock)
        self.kafka.create_topic(TOPIC, 2)
        self.kafka.create_topic(DEAD_LETTERS, 1)

    def fill(self, records: int, topic_partition: TopicPartition = HERE) -> None:
        for _ in range(records):
            self.kafka.append(*topic_partition, b"?")


@pytest.fixture
def world() -> World:
    world = World()
    for topic_partition in (HERE, THERE):
        world.fill(10, topic_partition)
    return world


class Copy:
    """An indexer with the steps that the loop does for it."""

    def __init__(self, world: World, store: EventStore) -> None:
        self.world = world
        self.assignment: Assignment[IndexedPartition] = Assignment()
        self.runtime_metrics = RuntimeMetrics(self.assignment)
        self.indexer = Indexer(
            store,
            assignment=self.assignment,
            offset_queries=OffsetQueries(world.kafka, SETTINGS),
            dead_letters=DeadLetterWriter(world.kafka, {}, service="event-index", topic=DEAD_LETTERS),
            runtime_metrics=self.runtime_metrics,
            now=world.clock,
            clock=world.clock,
        )
        self.consumer: MemoryConsumer = world.kafka.consumer(SETTINGS)
        self.indexer.start(self.consumer)

    def get(self, *topic_partitions: TopicPartition) -> dict[TopicPartition, int]:
        self.assign(*topic_partitions)
        return dict(self.indexer.ready())

    def assign(self, *topic_partitions: TopicPartition) -> None:
        self.assignment.assign(topic_partitions)
        self.indexer.assigned(topic_partitions)

    def lose(self, *topic_partitions: TopicPartition) -> None:
        self.assignment.revoke(topic_partitions)
        self.indexer.revoked(topic_partitions)

    def take(self, topic_partition: TopicPartition, offset: int, event: HypervisorEvent | None = None) -> None:
        assert (
            self.indexer.apply(self.record(topic_partition, offset), event or HypervisorEvent()) is Result.APPLIED
        )

    def record(self, topic_partition: TopicPartition, offset: int) -> Record:
        return Record(topic_partition, offset, b"key", b"?", None, int(self.world.clock.now * 1000))

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        families = self.runtime_metrics.families(now=self.world.clock.now, dead_letter_rate=False, degraded=False)
        samples = [one for family in families for one in family.samples if one.name.endswith(f"telemetry_{name}")]
        values = {tuple(text for label, text in one.labels.items() if label != "topic"): one for one in samples}
        # All results are there from the start, most of them 0.
        return {labels: one.value for labels, one in values.items() if one.value or "result" not in one.labels}

    def committed_in_kafka(self) -> dict[int, int]:
        group = self.world.kafka._broker.cluster.group("t.event-index")
        return {partition: one.offset for (_, partition), one in group.committed.items()}


@pytest.fixture
def copy(world: World, store: EventStore) -> Copy:
    return Copy(world, store)


def test_it_goes_on_where_the_database_says_and_not_where_the_group_stands(
    world: World, copy: Copy, store: EventStore
):
    world.kafka.expire(TOPIC, 0, 2)
    assert copy.get(HERE) == {HERE: 2}
    for offset in range(2, 5):
        copy.take(HERE, offset)
    assert copy.indexer.commit() == {}
    assert store.next_offset(*HERE) == 5
    world.kafka._broker.cluster.group("t.event-index").committed.clear()

    successor = Copy(world, store)
    assert successor.get(HERE, THERE) == {HERE: 5, THERE: 0}
    successor.take(HERE, 5)
    successor.indexer.commit()
    assert store.next_offset(*HERE) == 6
    assert store.event_count() == 4


def test_each_partition_is_named_once_and_what_waits_is_told(copy: Copy):
    copy.assign(HERE)
    assert not copy.indexer.is_serving
    assert copy.indexer.ready() == {HERE: 0}
    assert copy.indexer.is_serving
    assert copy.indexer.ready() == {}


@pytest.mark.parametrize("code", [KafkaError._TIMED_OUT, KafkaError.NOT_LEADER_FOR_PARTITION])
def test_a_kafka_that_does_not_say_where_a_log_begins_is_asked_again(world: World, copy: Copy, code: int):
    error = KafkaError(code)
    world.kafka.fail_next("get_watermark_offsets", error, before=True)
    assert copy.get(HERE) == {}
    assert copy.indexer.trouble == f"Kafka can't be asked where a partition begins: {error.str()}."
    assert not copy.indexer.is_serving
    world.clock.now += 3

    assert copy.indexer.ready() == {HERE: 0}
    assert copy.indexer.trouble == ""
    assert copy.values("restore_seconds_sum") == {(): 3}


def test_a_partition_that_went_before_it_was_read_is_not_read(copy: Copy):
    copy.assign(HERE, THERE)
    copy.lose(HERE)
    assert copy.indexer.ready() == {THERE: 0}


def test_what_retention_deleted_unread_is_counted(world: World, copy: Copy, store: EventStore):
    copy.get(HERE)
    copy.take(HERE, 0)
    copy.indexer.commit()
    world.kafka.expire(TOPIC, 0, 6)

    successor = Copy(world, store)
    assert successor.get(HERE) == {HERE: 6}
    assert successor.indexer.commit() == {}
    assert store.next_offset(*HERE) == 6
    assert successor.values("records_total") == {("0", "aged_out"): 5}


def test_offsets_without_events_are_stored_and_counted_too(copy: Copy, store: EventStore):
    copy.get(HERE)
    copy.indexer.advanced(HERE, 3)
    copy.take(HERE, 5)
    copy.indexer.ignore(copy.record(HERE, 6))
    copy.indexer.commit()

    assert store.next_offset(*HERE) == 7
    assert copy.values("records_total") == {
        ("0", "applied"): 1,
        ("0", "ignored"): 1,
        ("0", "without_record"): 5,
    }


def test_kafka_is_told_how_far_it_is(world: World, copy: Copy):
    copy.get(HERE)
    copy.take(HERE, 0)
    copy.indexer.commit()
    assert copy.committed_in_kafka() == {0: 1}
    copy.take(HERE, 1)
    world.kafka.fail_next("commit", before=True)
    copy.indexer.commit(is_last=True)
    assert copy.committed_in_kafka() == {0: 1}
    copy.take(HERE, 2)
    copy.indexer.commit(is_last=True)
    assert copy.committed_in_kafka() == {0: 3}


def test_nothing_new_is_no_transaction(copy: Copy):
    copy.get(HERE)
    copy.indexer.commit()
    copy.indexer.commit()
    assert copy.values("transactions_total")["committed",] == 1


def test_records_are_timed_from_their_publishing_to_their_commit_once(world: World, copy: Copy):
    copy.get(HERE)
    for offset in (0, 1):
        copy.take(HERE, offset)
    world.clock.now += 2
    copy.indexer.commit()
    copy.indexer.advanced(HERE, 3)
    copy.indexer.commit()
    assert copy.values("latency_seconds_count") == {(): 2}
    assert copy.values("latency_seconds_sum") == {(): 4}


def test_a_partition_that_went_is_not_written_any_more(copy: Copy, store: EventStore):
    copy.get(HERE, THERE)
    for topic_partition in (HERE, THERE):
        copy.take(topic_partition, 0)

    copy.lose(HERE)
    copy.indexer.commit()

    assert store.event_count() == 1
    assert store.next_offset(*HERE) is None
    assert store.next_offset(*THERE) == 1


def test_a_process_that_lost_its_partition_writes_nothing_until_it_is_told_so(
    world: World, database_url: str, copy: Copy
):
    copy.get(HERE, THERE)
    copy.take(HERE, 0)
    copy.take(THERE, 0)

    other = open_store(database_url)
    successor = Copy(world, other)
    successor.get(HERE)
    successor.take(HERE, 0)
    successor.take(HERE, 1)
    successor.indexer.commit()

    for _ in range(2):
        with pytest.raises(OutputUnavailable, match="another process writes it"):
            copy.indexer.commit()
    assert other.event_count() == 2
    copy.lose(HERE)
    copy.indexer.commit()
    assert other.event_count() == 3
    other.close()


def test_a_write_whose_answer_was_lost_is_found_to_be_there(copy: Copy, store: EventStore):
    event = HypervisorEvent()
    copy.get(HERE, THERE)
    copy.take(HERE, 0, event)
    copy.take(THERE, 0)
    store.write([IndexRow(*HERE, 0, event)], {HERE: (None, 1)})

    with pytest.raises(OutputUnavailable):
        copy.indexer.commit()
    assert copy.indexer.commit() == {}

    assert store.event_count() == 2
    assert (store.next_offset(*HERE), store.next_offset(*THERE)) == (1, 1)
    copy.indexer.advanced(HERE, 2)
    copy.indexer.commit()
    assert store.next_offset(*HERE) == 2


def test_a_database_that_is_locked_is_waited_for_and_nothing_is_lost(world: World, tmp_path: Path):
    path = tmp_path / "events.db"
    store = open_store(f"sqlite:///{path}", busy_seconds=0.01)
    copy = Copy(world, store)
    copy.get(HERE)
    copy.take(HERE, 0)

    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutputUnavailable, match="locked"):
        copy.indexer.commit()
    locker.rollback()
    locker.close()

    copy.indexer.commit()
    assert store.event_count() == 1
    assert store.next_offset(*HERE) == 1
    store.close()


def set_back(store: EventStore, offset: int | None) -> None:
    """Set the database back, as by a restored backup, or by a standby that had not received everything."""
    with store._database.writer.begin() as connection:
        connection.execute(delete(events).where(events.c.offset >= (offset or 0)))
        connection.execute(delete(type_counts))
        if offset is None:
            connection.execute(delete(offsets))
        else:
            connection.execute(update(offsets).where(offsets.c.partition == 0).values(next_offset=offset))


@pytest.mark.parametrize("offset", [None, 1])
def test_a_database_that_has_lost_the_end_is_read_to_the_end_again(
    copy: Copy, store: EventStore, offset: int | None
) -> None:
    written = [HypervisorEvent() for _ in range(4)]
    copy.get(HERE)
    for at in range(3):
        copy.take(HERE, at, written[at])
    copy.indexer.commit()
    set_back(store, offset)
    copy.take(HERE, 3, written[3])

    assert copy.indexer.commit() == {HERE: None}
    assert not copy.indexer.is_serving
    assert copy.indexer.ready() == {HERE: offset or 0}
    for at in range(offset or 0, 4):
        copy.take(HERE, at, written[at])
    assert copy.indexer.commit() == {}

    assert {event.event_id for event in store.query()} == {event.event_id for event in written}
    assert store.next_offset(*HERE) == 4
    assert copy.values("accounting_difference") == {}


def test_a_database_that_does_not_say_where_to_begin_is_asked_again_after_a_while(
    world: World, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, answers = Copy(world, store), iter([StoreUnavailable("It is away."), StoreUnavailable("It is away."), 4])
    asked = []

    def next_offset(*topic_partition: object) -> int:
        asked.append(topic_partition)
        answer = next(answers)
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    monkeypatch.setattr(store, "next_offset", next_offset)
    assert copy.get(HERE) == {}
    assert copy.indexer.trouble == "It is away."
    for _ in range(5):
        assert copy.indexer.ready() == {}
    assert len(asked) == 1
    world.clock.now += 0.3
    assert copy.indexer.ready() == {}
    assert len(asked) == 2
    world.clock.now += 0.5
    assert copy.indexer.ready() == {HERE: 4}
    assert copy.indexer.trouble == ""


class TestADeadLetter:
    def headers(self, world: World) -> list[dict[str, Any]]:
        return [dict(one.headers or ()) for one in world.kafka.log(DEAD_LETTERS, 0)]

    def test_is_in_kafka_before_the_database_moves_over_it(
        self, world: World, copy: Copy, store: EventStore
    ) -> None:
        copy.get(HERE)
        copy.indexer.reject(copy.record(HERE, 0), BAD)
        copy.take(HERE, 1)
        world.kafka.fail_next("deliver", before=True)
        with pytest.raises(OutputUnavailable, match="Dead letters were not taken by Kafka"):
            copy.indexer.commit()
        assert store.next_offset(*HERE) is None
        assert store.event_count() == 0

        copy.indexer.commit()

        assert store.next_offset(*HERE) == 2
        [headers] = self.headers(world)
        assert headers["hypervisor-dead-letter-service"] == b"event-index"
        assert headers["hypervisor-dead-letter-offset"] == b"0"
        assert copy.values("records_total") == {("0", "applied"): 1, ("0", "undecodable"): 1}

    def test_is_not_written_again_when_only_the_database_failed(
        self, world: World, database_url: str, copy: Copy
    ) -> None:
        copy.get(HERE, THERE)
        copy.indexer.reject(copy.record(HERE, 0), BAD)
        copy.take(THERE, 0)
        other = open_store(database_url)
        other.write([], {THERE: (None, 5)})
        other.close()
        with pytest.raises(OutputUnavailable):
            copy.indexer.commit()
        copy.lose(THERE)
        copy.indexer.commit()
        assert len(self.headers(world)) == 1
