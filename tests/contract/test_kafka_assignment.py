"""Assigning partitions by hand, as the runtime relies on it: where reading begins, seeking and pausing."""

from __future__ import annotations

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, OFFSET_INVALID, OFFSET_STORED, KafkaError

from tests.contract.kafka_backends import World, refusal


def test_reading_begins_where_the_assignment_says(world: World) -> None:
    world.append(b"0", b"1", b"2")
    reader = world.consumer()
    reader.commit(offsets=[world.topic_partition(0, 2)], asynchronous=False)
    begins = {0: 0, 1: 1, OFFSET_BEGINNING: 0, OFFSET_END: 3, OFFSET_INVALID: 2, OFFSET_STORED: 2, 99: 0}
    for offset, first in begins.items():
        reader.incremental_assign([world.topic_partition(0, offset)])
        expected = [(number, b"%d" % number) for number in range(first, 3)]
        assert world.read_to_end(reader) == [*expected, ("end", 3)], offset
        assert reader.position([world.topic_partition()])[0].offset == (3 if expected else OFFSET_INVALID)
        reader.incremental_unassign([world.topic_partition()])


def test_without_a_committed_offset_the_reset_policy_decides(world: World) -> None:
    world.append(b"0")
    assert world.read_to_end(world.reader(OFFSET_INVALID)) == [(0, b"0"), ("end", 1)]
    assert world.read_to_end(world.reader(OFFSET_INVALID, auto_offset_reset="latest")) == [("end", 1)]
    strict = world.reader(OFFSET_INVALID, auto_offset_reset="error")
    assert world.read(strict, bool)[0][0] == "_AUTO_OFFSET_RESET"


def test_partitions_come_and_go_one_by_one(world: World) -> None:
    world.append(b"0")
    world.append(b"1", partition=1)
    reader = world.reader(0)
    assert world.read_to_end(reader) == [(0, b"0"), ("end", 1)]
    assert refusal(lambda: reader.incremental_assign([world.topic_partition(0, 0)])).code() == KafkaError._CONFLICT
    assert (
        refusal(lambda: reader.incremental_unassign([world.topic_partition(1)])).code() == KafkaError._INVALID_ARG
    )
    assert refusal(lambda: reader.seek(world.topic_partition(1, 0))).code() == KafkaError._STATE
    reader.incremental_unassign([world.topic_partition(0)])
    reader.incremental_assign([world.topic_partition(1, 0)])
    world.append(b"nobody reads it")
    assert world.read_to_end(reader) == [(0, b"1"), ("end", 1)]
    assert [topic_partition.partition for topic_partition in reader.assignment()] == [1]
    reader.unassign()
    assert reader.assignment() == []
    reader.assign([world.topic_partition(0, 1)])
    assert world.read_to_end(reader) == [(1, b"nobody reads it"), ("end", 2)]


def test_seek_goes_back_and_the_end_is_told_again(world: World) -> None:
    world.append(b"0", b"1")
    reader = world.reader(0)
    world.read_to_end(reader)
    for _ in range(2):
        reader.seek(world.topic_partition(0, 1))
        assert world.read_to_end(reader) == [(1, b"1"), ("end", 2)]


def test_a_paused_partition_gives_nothing_until_it_is_resumed(world: World) -> None:
    reader = world.reader(0)
    world.read_to_end(reader)
    reader.pause([world.topic_partition()])
    world.append(b"0")
    assert reader.consume(10, 0.1) == []
    reader.resume([world.topic_partition()])
    assert world.read_to_end(reader) == [(0, b"0"), ("end", 1)]
    reader.pause([world.topic_partition()])
    reader.resume([world.topic_partition()])
    assert world.read_to_end(reader) == [("end", 1)]


def test_a_pause_outlives_the_assignment(world: World) -> None:
    world.append(b"0")
    reader = world.reader(0)
    world.read_to_end(reader)
    reader.pause([world.topic_partition()])
    reader.incremental_unassign([world.topic_partition()])
    reader.incremental_assign([world.topic_partition(0, 0)])
    assert reader.consume(10, 0.1) == []
    reader.resume([world.topic_partition()])
    assert world.read_to_end(reader) == [(0, b"0"), ("end", 1)]


def test_a_partition_that_came_paused_is_read_from_where_it_is_sought_to(world: World) -> None:
    # From an absolute offset: a late answer to where OFFSET_END is would undo the seek.
    world.append(b"0", b"1", b"2")
    reader = world.consumer()
    for turns in (0, 3):
        reader.incremental_assign([world.topic_partition(0, 0)])
        reader.pause([world.topic_partition()])
        assert [message for _ in range(turns) for message in reader.consume(10, 0.05)] == []
        reader.seek(world.topic_partition(0, 1))
        assert [message for _ in range(turns) for message in reader.consume(10, 0.05)] == []
        reader.resume([world.topic_partition()])
        assert world.read_to_end(reader) == [(1, b"1"), (2, b"2"), ("end", 3)]
        reader.incremental_unassign([world.topic_partition()])


def test_a_closed_consumer_can_do_nothing(world: World) -> None:
    reader = world.reader()
    reader.close()
    reader.close()
    for call in (reader.consume, reader.assignment, reader.consumer_group_metadata):
        with pytest.raises(RuntimeError, match="Consumer closed"):
            call()
