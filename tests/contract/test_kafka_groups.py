"""A Kafka's groups, as the runtime relies on them: offsets in transactions, who may send them, and rebalances."""

from __future__ import annotations

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, TopicPartition

from tests.contract.kafka_backends import UNCOMMITTED, Moved, World, refusal, settle

# Group offsets in transactions


def test_sending_offsets_does_not_flush(world: World) -> None:
    producer = world.producer("lazy", linger_ms=10_000)
    producer.begin_transaction()
    producer.produce(world.topic, b"late", partition=0)
    producer.send_offsets_to_transaction(
        [world.topic_partition(0, 5)], world.consumer().consumer_group_metadata(), 10
    )
    assert len(producer) == 1
    assert world.end(UNCOMMITTED) == 0
    producer.commit_transaction(10)
    assert world.end(UNCOMMITTED) > 0


def test_offsets_of_an_open_transaction_are_unstable_and_hold_once_it_commits(world: World) -> None:
    nobody = world.consumer().consumer_group_metadata()
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.topic_partition(0, 5)], nobody, 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0), [5])
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.topic_partition(0, 7)], nobody, 10)
        assert world.group_offsets(0, 1) == ["UNSTABLE_OFFSET_COMMIT", OFFSET_INVALID]
        assert world.group_offsets(0, 1, require_stable=False) == [5, OFFSET_INVALID]
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0, 1), [7, OFFSET_INVALID])


def test_offsets_of_an_aborted_transaction_are_dropped(world: World) -> None:
    with world.transaction() as producer:
        producer.send_offsets_to_transaction(
            [world.topic_partition(0, 5)], world.consumer().consumer_group_metadata(), 10
        )
    world.wait(lambda: world.group_offsets(0), [OFFSET_INVALID])


def test_a_consumer_waits_for_an_open_transactions_offsets_if_it_reads_committed(world: World) -> None:
    world.append(*(b"0", b"1", b"2"))
    strict, lax = world.reader(OFFSET_INVALID), world.consumer(isolation_level="read_uncommitted")
    world.read_to_end(strict)
    assert strict.commit(offsets=[world.topic_partition(0, 1)], asynchronous=False)[0].offset == 1
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.topic_partition(0, 2)], strict.consumer_group_metadata(), 10)
        assert (
            refusal(lambda: strict.committed([world.topic_partition()], timeout=0.2)).code()
            == KafkaError._TIMED_OUT
        )
        assert [one.offset for one in lax.committed([world.topic_partition()], timeout=10)] == [1]
        waiting = world.reader(OFFSET_INVALID)
        assert waiting.consume(10, 0.1) == []
        producer.commit_transaction(10)
    assert world.read_to_end(waiting) == [(2, b"2"), ("end", 3)]


def test_offsets_keep_their_metadata(world: World) -> None:
    consumer = world.consumer()
    with world.transaction() as producer:
        producer.send_offsets_to_transaction(
            [TopicPartition(world.topic, 0, 5, "note")], consumer.consumer_group_metadata(), 10
        )
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0), [5])
    assert consumer.committed([world.topic_partition()], timeout=10)[0].metadata == "note"


# Who may send offsets


def test_a_member_that_left_is_refused_and_only_abort_helps(world: World) -> None:
    member = world.member()
    settle(world, member, counts=(3,))
    metadata = member.metadata
    member.consumer.close()
    with world.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([world.topic_partition(0, 1)], metadata, 10))
        assert (error.code(), error.txn_requires_abort()) == (KafkaError.UNKNOWN_MEMBER_ID, True)
        assert (error.fatal(), error.retriable()) == (False, False)
        assert refusal(lambda: producer.commit_transaction(10)).code() == KafkaError.UNKNOWN_MEMBER_ID
        assert refusal(lambda: producer.produce(world.topic, b"x", partition=0)).code() == KafkaError._STATE
        producer.abort_transaction(10)
        producer.begin_transaction()
    world.wait(lambda: world.group_offsets(0), [OFFSET_INVALID])


def test_an_earlier_epoch_is_refused_except_for_what_is_owned_since_then(moved: Moved) -> None:
    world, stale = moved.world, moved.stale
    kept, lost = min(moved.first.owned), min(moved.second.owned)
    with world.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([world.topic_partition(lost, 1)], stale, 10))
        assert (error.code(), error.txn_requires_abort()) == (KafkaError.ILLEGAL_GENERATION, True)
    with world.transaction() as producer:
        both = [world.topic_partition(kept, 1), world.topic_partition(lost, 1)]
        error = refusal(lambda: producer.send_offsets_to_transaction(both, stale, 10))
        assert error.code() == KafkaError.ILLEGAL_GENERATION
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.topic_partition(kept, 1)], stale, 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(kept), [1])


def test_a_live_members_offsets_are_taken_for_partitions_that_it_does_not_own(moved: Moved) -> None:
    world = moved.world
    theirs = min(moved.first.owned)
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.topic_partition(theirs, 4)], moved.second.metadata, 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(theirs), [4])


def test_who_never_was_a_member_may_send_offsets_but_not_commit_them(world: World) -> None:
    member = world.member()
    settle(world, member, counts=(3,))
    stranger = world.consumer()
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.topic_partition(0, 4)], stranger.consumer_group_metadata(), 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0), [4])
    error = refusal(lambda: stranger.commit(offsets=[world.topic_partition(0, 5)], asynchronous=False))
    assert error.code() == KafkaError.UNKNOWN_MEMBER_ID
    assert member.consumer.commit(offsets=[world.topic_partition(0, 6)], asynchronous=False)[0].error is None
    assert world.group_offsets(0) == [6]


# Rebalances


def test_partitions_are_given_back_before_others_get_them(moved: Moved) -> None:
    first, second = moved.first, moved.second
    given_back = first.callbacks[1][1]
    assert first.callbacks == [("assign", [0, 1, 2]), ("revoke", given_back), ("assign", [])]
    assert second.callbacks == [("assign", given_back)]
    chronicle = moved.world.chronicle
    assert chronicle.index((first, "revoke")) < chronicle.index((second, "assign"))
    assert sorted([*first.owned, *second.owned]) == [0, 1, 2]


def test_a_member_that_leaves_gives_back_first(world: World) -> None:
    first, second = world.member(), world.member()
    settle(world, first, second, counts=(1, 2))
    had = second.owned
    second.consumer.close()
    assert second.callbacks[-1] == ("revoke", sorted(had))
    settle(world, first, counts=(3,))
    assert first.callbacks[-1] == ("assign", sorted(had))


def test_what_a_callback_does_not_do_is_done_for_it(world: World) -> None:
    consumer = world.consumer(group_protocol="consumer")
    consumer.subscribe([world.topic], on_assign=lambda *_: None, on_revoke=lambda *_: None)
    world.backend.rebalance({consumer: [(world.topic, number) for number in range(3)]})
    world.append(b"0")
    seen = world.read(consumer, lambda seen: (0, b"0") in seen)
    assert seen
    assert len(consumer.assignment()) == 3


def test_an_exception_in_a_callback_comes_out_of_consume(world: World) -> None:
    def fail(*_: object) -> None:
        raise LookupError("in a callback")

    consumer = world.consumer(group_protocol="consumer")
    consumer.subscribe([world.topic], on_assign=fail)
    world.backend.rebalance({consumer: [(world.topic, number) for number in range(3)]})
    with pytest.raises(LookupError, match="in a callback"):
        world.read(consumer, lambda _: False)
    assert len(consumer.assignment()) == 3
