"""The Kafka in memory alone: its log, its assignments, and the troubles that it can be made to have."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError

from tests.contract.kafka_backends import InMemory, World, refusal, settle

if TYPE_CHECKING:
    from tests.support.faulty_kafka import FaultyKafka


@pytest.fixture
def memory() -> World:
    return World(InMemory(), ExitStack())


def kafka_of(world: World) -> FaultyKafka:
    assert isinstance(world.backend, InMemory)
    return world.backend.memory


def values(world: World) -> list[tuple[str, bytes | None]]:
    return [(record.kind.value, record.value) for record in kafka_of(world).log(world.topic, 0)]


def test_the_log_shows_what_readers_do_not_see(memory: World) -> None:
    memory.append(b"plain")
    with memory.transaction() as producer:
        memory.write(producer, b"a")
    with memory.transaction() as producer:
        memory.write(producer, b"b")
        producer.commit_transaction(10)
        producer.begin_transaction()
        memory.write(producer, b"c")
        assert values(memory) == [
            ("plain", b"plain"),
            ("aborted", b"a"),
            ("abort marker", None),
            ("committed", b"b"),
            ("commit marker", None),
            ("open", b"c"),
        ]


def test_a_new_owner_waits_until_the_old_one_has_given_back(memory: World) -> None:
    first, second = memory.member(), memory.member()
    settle(memory, first, second, counts=(3, 0))
    memory.backend.rebalance({second.consumer: [(memory.topic, 0)], first.consumer: [(memory.topic, 1)]})
    epoch = first.metadata
    second.consumer.consume(10, 0)
    assert (first.owned, second.owned, first.metadata) == ({0, 1, 2}, set(), epoch)
    first.consumer.consume(10, 0)
    assert (first.owned, second.owned) == ({1}, set())
    assert first.metadata != epoch
    second.consumer.consume(10, 0)
    assert second.owned == {0}


def test_a_fenced_member_learns_of_it_late_and_comes_back(memory: World) -> None:
    first, second = memory.member(), memory.member()
    settle(memory, first, second, counts=(2, 1))
    stale = first.metadata
    kafka_of(memory).fence(first.consumer)
    memory.backend.rebalance({second.consumer: [(memory.topic, number) for number in range(3)]})
    second.consumer.consume(10, 0)
    assert second.owned == {0, 1, 2}
    assert first.owned == {0, 1}
    assert first.callbacks == [("assign", [0, 1])]
    with memory.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([memory.topic_partition(0, 1)], stale, 10))
        assert error.code() == KafkaError.UNKNOWN_MEMBER_ID
    first.consumer.consume(10, 0)
    assert first.callbacks == [("assign", [0, 1]), ("lost", [0, 1])]
    with memory.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([memory.topic_partition(0, 1)], stale, 10))
        assert error.code() == KafkaError.ILLEGAL_GENERATION
    settle(memory, first, second, counts=(2, 1))
    assert first.callbacks[-1] == ("assign", [0, 1])


def test_nothing_is_read_and_all_questions_time_out_while_the_broker_is_away(memory: World) -> None:
    memory.append(b"0")
    reader = memory.reader()
    kafka_of(memory).away()
    assert reader.consume(10, 0) == []
    with memory.transaction() as producer:
        producer.produce(memory.topic, b"late", partition=0)
        assert producer.flush(10) == 1
        error = refusal(
            lambda: producer.send_offsets_to_transaction(
                [memory.topic_partition(0, 1)], reader.consumer_group_metadata(), 10
            )
        )
        assert (error.code(), error.retriable()) == (KafkaError._TIMED_OUT, True)
        assert refusal(memory.end).code() == KafkaError._TIMED_OUT
        assert refusal(lambda: memory.group_offsets(0)).code() == KafkaError._TIMED_OUT
        assert refusal(lambda: reader.committed([memory.topic_partition()])).code() == KafkaError._TIMED_OUT
        kafka_of(memory).back()
        producer.commit_transaction(10)
    assert memory.read_to_end(reader) == [(0, b"0"), (1, b"late"), ("end", 3)]


@pytest.mark.parametrize("before", [True, False])
def test_a_commit_that_timed_out_is_resumed_and_nothing_else(memory: World, before: bool) -> None:
    with memory.transaction() as producer:
        memory.write(producer, b"a")
        kafka_of(memory).fail_next("commit_transaction", before=before)
        error = refusal(lambda: producer.commit_transaction(10))
        assert (error.code(), error.retriable()) == (KafkaError._TIMED_OUT, True)
        assert values(memory)[0][0] == ("open" if before else "committed")
        assert refusal(lambda: producer.abort_transaction(10)).code() == KafkaError._CONFLICT
        producer.commit_transaction(10)
        assert values(memory) == [("committed", b"a"), ("commit marker", None)]
        producer.begin_transaction()


def test_a_commit_can_go_through_though_its_producer_is_lost(memory: World) -> None:
    fatal = KafkaError(KafkaError._FENCED, fatal=True)
    producer = memory.producer("lost")
    producer.begin_transaction()
    memory.write(producer, b"a")
    kafka_of(memory).fail_next("commit_transaction", fatal, before=False)
    assert refusal(lambda: producer.commit_transaction(10)).fatal()
    assert values(memory)[0] == ("committed", b"a")
    assert refusal(producer.begin_transaction).code() == KafkaError._FENCED


@pytest.mark.parametrize("before", [True, False])
def test_sent_offsets_that_timed_out_may_have_arrived(memory: World, before: bool) -> None:
    nobody = memory.consumer().consumer_group_metadata()
    kafka_of(memory).fail_next("send_offsets_to_transaction", before=before)
    with memory.transaction() as producer:
        refusal(lambda: producer.send_offsets_to_transaction([memory.topic_partition(0, 5)], nobody, 10))
        assert memory.group_offsets(0) == [OFFSET_INVALID if before else "UNSTABLE_OFFSET_COMMIT"]
        producer.abort_transaction(10)
    assert memory.group_offsets(0) == [OFFSET_INVALID]


@pytest.mark.parametrize("before", [True, False])
def test_a_record_can_be_reported_lost_whether_it_arrived_or_not(memory: World, before: bool) -> None:
    kafka_of(memory).fail_next("deliver", KafkaError(KafkaError._MSG_TIMED_OUT), before=before)
    reports: list[KafkaError | None] = []
    with memory.transaction() as producer:
        for value in (b"a", b"b"):
            producer.produce(memory.topic, value, partition=0, on_delivery=lambda error, _: reports.append(error))
        assert producer.flush(10) == 0
        assert [value for _, value in values(memory)] == ([b"b"] if before else [b"a", b"b"])
        assert [error and error.code() for error in reports] == [KafkaError._MSG_TIMED_OUT, None]
        assert refusal(lambda: producer.commit_transaction(10)).code() == KafkaError._INCONSISTENT


@pytest.mark.parametrize("before", [True, False])
def test_a_flush_can_run_out_of_time(memory: World, before: bool) -> None:
    kafka_of(memory).fail_next("flush", before=before)
    with memory.transaction() as producer:
        producer.produce(memory.topic, b"a", partition=0)
        assert producer.flush(10) == 1
        assert len(values(memory)) == (0 if before else 1)
        assert producer.flush(10) == 0
        assert len(values(memory)) == 1


def test_a_consumer_can_be_told_of_trouble(memory: World) -> None:
    memory.append(b"0")
    kafka_of(memory).fail_next("consume", KafkaError(KafkaError._ALL_BROKERS_DOWN), before=True)
    assert memory.read_to_end(memory.reader()) == [("_ALL_BROKERS_DOWN", None), (0, b"0"), ("end", 1)]


def test_only_what_asks_the_broker_can_be_made_to_fail(memory: World) -> None:
    with pytest.raises(ValueError, match="commit_transaction"):
        kafka_of(memory).fail_next("seek", before=True)


def test_two_members_never_get_the_same_partition(memory: World) -> None:
    first, second = memory.member(), memory.member()
    with pytest.raises(ValueError, match="same partition"):
        memory.backend.rebalance({first.consumer: [(memory.topic, 0)], second.consumer: [(memory.topic, 0)]})


def test_the_only_member_of_a_group_gets_everything(memory: World) -> None:
    kafka = kafka_of(memory)
    with pytest.raises(ValueError, match="has 0 members"):
        kafka.assign_all(memory.group)
    member = memory.member()
    kafka.assign_all(memory.group)
    member.consumer.consume(10, 0)
    assert member.owned == {0, 1, 2}
    memory.member()
    with pytest.raises(ValueError, match="has 2 members"):
        kafka.assign_all(memory.group)


def test_a_callback_may_wait_for_another_threads_call(memory: World) -> None:
    consumer = memory.consumer()
    seen: list[int] = []

    def ask_elsewhere(*_: object) -> None:
        thread = threading.Thread(target=lambda: seen.append(memory.end()))
        thread.start()
        thread.join(10)

    consumer.subscribe([memory.topic], on_assign=ask_elsewhere)
    memory.backend.rebalance({consumer: [(memory.topic, 0)]})
    consumer.consume(10, 0)
    assert seen == [0]
