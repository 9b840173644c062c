"""Reading from a Kafka, and asking for the ends of its logs, as the runtime relies on them."""

from __future__ import annotations

from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, KafkaError, TopicPartition
from confluent_kafka.admin import OffsetSpec

from tests.contract.kafka_backends import COMMITTED, UNCOMMITTED, World, refusal

# What readers see


def test_an_open_transaction_is_read_only_uncommitted(world: World) -> None:
    with world.transaction() as producer:
        world.write(producer, b"a")
        assert world.read_to_end(world.reader()) == [("end", 0)]
        assert world.read_to_end(world.reader(isolation_level="read_uncommitted")) == [(0, b"a"), ("end", 1)]


def test_a_committed_transaction_is_read_and_its_marker_has_an_offset(world: World) -> None:
    reader = world.reader()
    with world.transaction() as producer:
        world.write(producer, b"a", b"b")
        producer.commit_transaction(10)
    assert world.read(reader, lambda seen: ("end", 3) in seen)[-3:] == [(0, b"a"), (1, b"b"), ("end", 3)]
    assert reader.position([world.topic_partition()])[0].offset == 3


def test_an_aborted_transaction_is_read_only_uncommitted_and_its_marker_has_an_offset(world: World) -> None:
    with world.transaction() as producer:
        world.write(producer, b"a")
    world.append(b"plain")
    world.wait(world.end, 3)
    assert world.read_to_end(world.reader()) == [(2, b"plain"), ("end", 3)]
    uncommitted = world.reader(isolation_level="read_uncommitted")
    assert world.read_to_end(uncommitted) == [(0, b"a"), (2, b"plain"), ("end", 3)]


def test_what_comes_after_an_open_transaction_waits_for_its_end(world: World) -> None:
    reader = world.reader()
    with world.transaction() as producer:
        world.write(producer, b"open")
        world.append(b"plain")
        assert world.read_to_end(reader) == [("end", 0)]
    assert world.read_to_end(reader) == [(1, b"plain"), ("end", 3)]


def test_the_end_is_told_each_time_it_is_reached(world: World) -> None:
    reader = world.reader()
    assert world.read_to_end(reader) == [("end", 0)]
    for number in range(2):
        world.append(b"more")
        assert world.read_to_end(reader) == [(number, b"more"), ("end", number + 1)]


def test_the_end_moves_past_transactions_that_leave_nothing_to_read(world: World) -> None:
    reader = world.reader()
    world.append(b"a")
    world.read(reader, lambda seen: ("end", 1) in seen)
    with world.transaction() as producer:
        world.write(producer, b"never seen")
    assert world.read(reader, lambda seen: ("end", 3) in seen)[-1] == ("end", 3)
    assert reader.position([world.topic_partition()])[0].offset == 3


def test_a_message_tells_what_was_produced(world: World) -> None:
    headers = [("reason", b"why"), ("reason", b""), ("none", None)]
    world.backend.plain.produce(world.topic, b"v", b"k", 0, headers=headers, timestamp=1_000)
    world.backend.plain.produce(world.topic, None, partition=0)
    world.backend.plain.produce(world.topic, "text", "key", partition=0, headers={"a": "b"})
    assert world.backend.plain.flush(10) == 0
    reader = world.reader()
    messages: list[Any] = []
    world.wait(lambda: messages.extend(reader.consume(10, 0.05)) or len(messages), 4)
    full, empty, texts, end = messages
    assert (full.topic(), full.partition(), full.offset(), full.error()) == (world.topic, 0, 0, None)
    assert (full.key(), full.value(), full.headers(), full.timestamp()) == (b"k", b"v", headers, (1, 1_000))
    assert (empty.key(), empty.value(), empty.headers()) == (None, None, None)
    assert (texts.key(), texts.value(), texts.headers()) == (b"key", b"text", [("a", b"b")])
    assert (end.topic(), end.partition(), end.key(), end.timestamp()) == (world.topic, 0, None, (0, -1))


def test_retention_moves_the_beginning(world: World) -> None:
    world.append(b"0", b"1", b"2")
    world.backend.expire(world.topic, 2)
    assert world.offset(OffsetSpec.earliest()) == 2
    assert world.end() == 3
    assert world.read_to_end(world.reader(0)) == [(2, b"2"), ("end", 3)]
    assert world.read_to_end(world.reader(0, auto_offset_reset="latest")) == [("end", 3)]
    strict = world.reader(0, auto_offset_reset="error")
    assert world.read(strict, bool) == [("_AUTO_OFFSET_RESET", 0)]


# Ends and offsets, asked for


def test_the_uncommitted_end_is_beyond_the_last_stable_one(world: World) -> None:
    with world.transaction() as producer:
        world.append(b"plain")
        world.write(producer, b"a")
        assert (world.end(UNCOMMITTED), world.end(COMMITTED)) == (2, 1)
        producer.commit_transaction(10)
    world.wait(lambda: (world.end(UNCOMMITTED), world.end(COMMITTED)), (3, 3))


def test_watermarks_cached_are_the_logs_and_asked_for_the_last_stable_ones(world: World) -> None:
    with world.transaction() as producer:
        world.write(producer, b"a")
        reader = world.reader()
        assert reader.get_watermark_offsets(world.topic_partition(1), cached=True) == (
            OFFSET_INVALID,
            OFFSET_INVALID,
        )
        world.read_to_end(reader)
        assert reader.get_watermark_offsets(world.topic_partition(), cached=True) == (0, 1)
        assert reader.get_watermark_offsets(world.topic_partition(), timeout=10) == (0, 0)


def test_begins_and_ends_of_many_are_asked_for_at_once(world: World) -> None:
    world.append(b"0", b"1", b"2")
    world.backend.expire(world.topic, 2)
    with world.transaction() as producer:
        world.write(producer, b"a")
        topic_partitions = [
            *(world.topic_partition(number) for number in (0, 1)),
            TopicPartition("no-such-topic", 0),
        ]

        def edges(isolation: str, at: int) -> list[int]:
            asked = [
                TopicPartition(topic_partition.topic, topic_partition.partition, at)
                for topic_partition in topic_partitions
            ]
            answer = world.consumer(isolation_level=isolation).offsets_for_times(asked, timeout=10)
            return [one.offset for one in answer]

        assert edges("read_uncommitted", OFFSET_BEGINNING) == [2, 0, OFFSET_BEGINNING]
        assert edges("read_uncommitted", OFFSET_END) == [4, 0, OFFSET_END]
        assert edges("read_committed", OFFSET_END) == [3, 0, OFFSET_END]


def test_a_partition_that_is_not_there_has_no_offsets(world: World) -> None:
    assert refusal(lambda: world.end(partition=7)).code() == KafkaError._NOENT


def test_topics_are_listed_with_their_partitions(world: World) -> None:
    found = world.backend.admin.list_topics(world.topic, timeout=10).topics[world.topic]
    assert (sorted(found.partitions), found.error) == ([0, 1, 2], None)
    unknown = world.consumer().list_topics("no-such-topic", timeout=10).topics["no-such-topic"]
    assert (unknown.partitions, unknown.error.code()) == ({}, KafkaError.UNKNOWN_TOPIC_OR_PART)


def test_the_cluster_describes_itself(world: World) -> None:
    assert len(world.backend.admin.describe_cluster(request_timeout=10).result(10).nodes) == 1
