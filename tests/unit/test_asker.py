"""Questions to Kafka that no record answers."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaException, TopicPartition

from hypervisor_consumers.runtime.asker import Asker
from hypervisor_consumers.runtime.processor import Place
from tests.words import DEAD_LETTERS, GROUP, SETTINGS, SOURCE, STATE, TABLE, World

PLACES = [Place(SOURCE, partition) for partition in range(3)]


@pytest.fixture
def world() -> World:
    return World(partitions=3)


@pytest.fixture
def asker(world: World) -> Asker:
    return Asker(world.kafka, SETTINGS)


def hold_open(world: World, offset: int, *places: Place) -> None:
    """A transaction that has sent these offsets and doesn't end."""
    producer = world.kafka.producer({"transactional.id": "open", "transaction.timeout.ms": 10_000})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(SOURCE, b"open", partition=0)
    producer.flush()
    positions = [TopicPartition(*place, offset) for place in places]
    producer.send_offsets_to_transaction(positions, world.consumer().consumer_group_metadata())


def test_it_knows_all_topics_and_their_partitions(asker: Asker):
    assert asker.partition_counts() == {SOURCE: 3, STATE: 3, DEAD_LETTERS: 1, TABLE: 2}


def test_a_log_ends_behind_records_that_are_not_committed(world: World, asker: Asker):
    world.say(0, "a", "b")
    hold_open(world, 2, PLACES[0])
    world.kafka.expire(SOURCE, 0, 1)
    assert asker.log_range(PLACES[0]) == (1, 3)
    assert asker.log_range(PLACES[1]) == (0, 0)


def test_where_many_logs_begin_and_end_is_asked_at_once(world: World, asker: Asker):
    world.say(0, "a", "b")
    hold_open(world, 2, PLACES[0])
    world.kafka.expire(SOURCE, 0, 1)
    found = asker.log_ranges([*PLACES[:2], Place("t.nowhere", 0)])
    assert found == {PLACES[0]: (1, 3), PLACES[1]: (0, 0)}


def test_a_group_stands_where_it_last_committed_and_nowhere_before(world: World, asker: Asker):
    world.consumer().commit(offsets=[TopicPartition(*PLACES[0], 7)], asynchronous=False)
    hold_open(world, 9, PLACES[0])
    assert asker.offsets(PLACES[:2]) == {PLACES[0]: 7, PLACES[1]: None}


def test_a_stable_end_is_where_an_open_transaction_begins(world: World, asker: Asker):
    world.say(0, "a")
    assert asker.stable_end(PLACES[0]) == 1
    producer = world.kafka.producer({"transactional.id": "t"})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(PLACES[0].topic, b"x", partition=PLACES[0].partition)
    producer.flush()
    world.say(0, "b")
    assert (asker.stable_end(PLACES[0]), asker.log_range(PLACES[0])) == (1, (0, 3))


def test_no_question_is_answered_while_kafka_is_away(world: World, asker: Asker):
    world.kafka.away()
    for ask in (
        asker.partition_counts,
        lambda: asker.log_range(PLACES[0]),
        lambda: asker.log_ranges(PLACES),
        lambda: asker.offsets(PLACES),
        lambda: asker.stable_end(PLACES[0]),
    ):
        with pytest.raises(KafkaException):
            ask()


def test_it_never_joins_the_group_and_asks_again_after_it_was_closed(world: World, asker: Asker):
    for _ in range(2):
        asker.partition_counts()
        asker.stable_end(PLACES[0])
        assert world.kafka._broker.cluster.group(GROUP).members == {}
        asker.close()
