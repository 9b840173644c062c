"""A service with state whose transaction is aborted, or whose commit gets no answer."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from hypervisor_consumers.runtime.kafka.hanging_transactions import WRITER
from hypervisor_consumers.runtime.partitions.offset_accounting import AGED_OUT
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import OutputUnavailable
from tests.support.word_count_service import (
    DEAD_LETTERS,
    HERE,
    SOURCE,
    STATE,
    THERE,
    Copy,
    Shelf,
    World,
    assign,
    outcomes,
    results,
    said,
    started,
)

FOR_GOOD = KafkaError(KafkaError.INVALID_TXN_STATE, "Broker: not now, not ever")


@pytest.fixture
def world() -> World:
    return World()


class TestAnAbortedTransaction:
    @pytest.mark.parametrize(
        "operation", ["flush", "send_offsets_to_transaction", "deliver and send_offsets_to_transaction"]
    )
    def test_is_rolled_back_and_read_again(self, world: World, operation: str) -> None:
        copy = started(world, 0, 1)
        [event] = world.say(0, "a")
        world.say(1, "c")
        copy.read()
        copy.commit()
        world.publish(0, said("b"), event)
        world.say(0, "b")
        copy.read()
        for one in operation.split(" and "):
            world.kafka.fail_next(one, before=True)

        assert copy.commit() == {HERE: 1, THERE: 1}

        assert copy.shown() == {0: {"a": 1}, 1: {"c": 1}}
        assert world.committed() == {0: 1, 1: 1}
        copy.read()
        assert copy.commit() == {}
        assert copy.shown() == {0: {"a": 1, "b": 2}, 1: {"c": 1}}
        assert results(copy) == {"applied": 3, "duplicate": 1}
        assert outcomes(copy) == {"committed": 2, "aborted": 1, "unknown": 0}

    def test_whose_abort_takes_long_is_waited_for(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        world.kafka.fail_next("abort_transaction", before=True)
        world.kafka.fail_next("abort_transaction", before=False)
        for _ in range(2):
            with pytest.raises(OutputUnavailable, match="was aborted: Local: Timed out"):
                copy.commit()
        assert copy.commit() == {HERE: 0}
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"a": 1}}

    def test_keeps_what_was_aged_out_in_the_account(self, world: World) -> None:
        first = started(world, 0)
        world.say(0, "a")
        first.read()
        first.commit()
        first.consumer.close()
        world.say(0, "b", "c")
        world.kafka.expire(SOURCE, 0, 2)
        copy = started(world, 0, name="b")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        assert copy.commit() == {HERE: 2}
        copy.read()
        copy.commit()
        assert results(copy) == {"applied": 2, AGED_OUT: 1}


class TestACommitWithoutAnAnswer:
    @pytest.mark.parametrize("before", [True, False])
    def test_is_asked_for_again_and_counts_once(self, world: World, before: bool) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("commit_transaction", before=before)
        with pytest.raises(OutputUnavailable, match="has no outcome yet"):
            copy.commit()
        assert copy.shown() == {}
        assert copy.commit() == {}
        assert copy.shown() == {0: {"a": 1}}
        world.say(0, "a")
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"a": 2}}

    def test_that_comes_when_the_partition_went_shows_nothing(self, world: World) -> None:
        first, second = Copy(world, "a"), Copy(world, "b")
        assign(world, {first: [0, 1], second: []})
        first.restore()
        first.commit()
        world.say(0, "a")
        world.say(1, "b")
        first.read()
        world.kafka.fail_next("commit_transaction", before=True)
        with pytest.raises(OutputUnavailable):
            first.commit()
        first.lose(HERE)

        assert first.commit() == {}

        assert first.shown() == {1: {"b": 1}}
        assert world.committed() == {0: 1, 1: 1}

    @pytest.mark.parametrize("before", [True, False])
    def test_for_good_is_found_out_in_the_changelog(self, world: World, before: bool) -> None:
        copy = started(world, 0, 1)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.say(0, "b")
        copy.read()
        world.kafka.fail_next("commit_transaction", FOR_GOOD, before=before)

        assert copy.commit() == {HERE: None, THERE: None}

        assert copy.shown() == {}
        assert not copy.processor.is_serving
        assert outcomes(copy)["unknown"] == 1
        assert results(copy) == {}
        copy.commit()  # the new producer ends what the old one left open
        copy.restore()
        assert copy.positions == {HERE: 1 if before else 2, THERE: 0}
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"a": 1, "b": 1}, 1: {}}
        assert results(copy) == {"applied": 2}

    def test_for_good_leaves_nothing_for_the_next_transaction(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        world.kafka.append(SOURCE, 0, b"\xff")
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("commit_transaction", FOR_GOOD, before=False)
        copy.commit()
        copy.commit()
        copy.restore()
        copy.read()
        copy.commit()
        assert len(world.records(DEAD_LETTERS)) == 1
        assert shelf.delivered == ["a"]


def test_a_hanging_transaction_that_cannot_be_ended_now_is_ended_with_a_later_commit(world: World) -> None:
    """Kafka doesn't tell how many partitions the dead letters have; that must not end the process."""
    dead = world.kafka.producer({"transactional.id": "dead", "transaction.timeout.ms": 1_000_000})
    dead.init_transactions()
    dead.begin_transaction()
    dead.produce(STATE, b"{}", key=b'[9,"x"]', partition=1, headers=[(WRITER, b"dead")])
    dead.flush()
    copy = started(world, 0)
    committer = copy.processor.committer
    assert committer._hanging.find_writer(TopicPartition(STATE, 1), 0, 1.0)
    copy.processor._counts.forget(DEAD_LETTERS)
    world.kafka.fail_next("list_topics", before=True)
    assert copy.commit() == {}
    assert world.kinds(STATE, 1) == ["open"]
    copy.commit()
    assert world.kinds(STATE, 1)[0] == "aborted"


def test_a_writer_whose_name_is_no_text_is_unknown(world: World) -> None:
    """A stranger wrote the header; it must not end the thread that restores."""
    stranger = world.kafka.producer({"transactional.id": "stranger", "transaction.timeout.ms": 1_000_000})
    stranger.init_transactions()
    stranger.begin_transaction()
    stranger.produce(STATE, b"{}", key=b'[9,"x"]', partition=1, headers=[(WRITER, b"\xff")])
    stranger.flush()
    hanging = started(world, 0).processor.committer._hanging
    assert not hanging.find_writer(TopicPartition(STATE, 1), 0, 1.0)
    assert not hanging.has_found()
