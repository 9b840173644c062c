"""Questions to Kafka that no record answers."""

from __future__ import annotations

import confluent_kafka
import pytest
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.records import TopicPartition
from tests.support.word_count_service import DEAD_LETTERS, GROUP, SETTINGS, SOURCE, STATE, TABLE, World

TOPIC_PARTITIONS = [TopicPartition(SOURCE, partition) for partition in range(3)]


@pytest.fixture
def world() -> World:
    return World(partitions=3)


@pytest.fixture
def offset_queries(world: World) -> OffsetQueries:
    return OffsetQueries(world.kafka, SETTINGS)


def hold_open(world: World, offset: int, *topic_partitions: TopicPartition) -> None:
    """A transaction that has sent these offsets and doesn't end."""
    producer = world.kafka.producer({"transactional.id": "open", "transaction.timeout.ms": 10_000})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(SOURCE, b"open", partition=0)
    producer.flush()
    positions = [confluent_kafka.TopicPartition(*topic_partition, offset) for topic_partition in topic_partitions]
    producer.send_offsets_to_transaction(positions, world.consumer().consumer_group_metadata())


def test_it_knows_all_topics_and_their_partitions(offset_queries: OffsetQueries):
    assert offset_queries.partition_counts() == {SOURCE: 3, STATE: 3, DEAD_LETTERS: 1, TABLE: 2}


def test_a_log_ends_behind_records_that_are_not_committed(world: World, offset_queries: OffsetQueries):
    world.say(0, "a", "b")
    hold_open(world, 2, TOPIC_PARTITIONS[0])
    world.kafka.expire(SOURCE, 0, 1)
    assert offset_queries.log_range(TOPIC_PARTITIONS[0]) == (1, 3)
    assert offset_queries.log_range(TOPIC_PARTITIONS[1]) == (0, 0)


def test_where_many_logs_begin_and_end_is_asked_at_once(world: World, offset_queries: OffsetQueries):
    world.say(0, "a", "b")
    hold_open(world, 2, TOPIC_PARTITIONS[0])
    world.kafka.expire(SOURCE, 0, 1)
    found = offset_queries.log_ranges([*TOPIC_PARTITIONS[:2], TopicPartition("t.nowhere", 0)])
    assert found == {TOPIC_PARTITIONS[0]: (1, 3), TOPIC_PARTITIONS[1]: (0, 0)}


def test_a_group_stands_where_it_last_committed_and_nowhere_before(world: World, offset_queries: OffsetQueries):
    world.consumer().commit(offsets=[confluent_kafka.TopicPartition(*TOPIC_PARTITIONS[0], 7)], asynchronous=False)
    hold_open(world, 9, TOPIC_PARTITIONS[0])
    assert offset_queries.offsets(TOPIC_PARTITIONS[:2]) == {TOPIC_PARTITIONS[0]: 7, TOPIC_PARTITIONS[1]: None}


def test_a_stable_end_is_where_an_open_transaction_begins(world: World, offset_queries: OffsetQueries):
    world.say(0, "a")
    assert offset_queries.stable_end(TOPIC_PARTITIONS[0]) == 1
    producer = world.kafka.producer({"transactional.id": "t"})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(TOPIC_PARTITIONS[0].topic, b"x", partition=TOPIC_PARTITIONS[0].partition)
    producer.flush()
    world.say(0, "b")
    assert (offset_queries.stable_end(TOPIC_PARTITIONS[0]), offset_queries.log_range(TOPIC_PARTITIONS[0])) == (
        1,
        (0, 3),
    )


def test_no_question_is_answered_while_kafka_is_away(world: World, offset_queries: OffsetQueries):
    world.kafka.away()
    for ask in (
        offset_queries.partition_counts,
        lambda: offset_queries.log_range(TOPIC_PARTITIONS[0]),
        lambda: offset_queries.log_ranges(TOPIC_PARTITIONS),
        lambda: offset_queries.offsets(TOPIC_PARTITIONS),
        lambda: offset_queries.stable_end(TOPIC_PARTITIONS[0]),
    ):
        with pytest.raises(KafkaException):
            ask()


def test_it_never_joins_the_group_and_asks_again_after_it_was_closed(world: World, offset_queries: OffsetQueries):
    for _ in range(2):
        offset_queries.partition_counts()
        offset_queries.stable_end(TOPIC_PARTITIONS[0])
        assert world.kafka._broker.cluster.group(GROUP).members == {}
        offset_queries.close()
