"""A Kafka's producers, as the runtime relies on them: transactions, fencing, and the calls that they refuse."""

from __future__ import annotations

from typing import Any

from confluent_kafka import OFFSET_INVALID, KafkaError

from tests.contract.kafka_backends import COMMITTED, UNCOMMITTED, World, refusal


def test_a_producer_is_fenced_by_the_next_one_with_its_id(world: World) -> None:
    old = world.producer("same")
    old.begin_transaction()
    world.write(old, b"lost")
    old.send_offsets_to_transaction([world.topic_partition(0, 9)], world.consumer().consumer_group_metadata(), 10)
    world.producer("same")
    assert world.read_to_end(world.reader()) == [("end", 2)]
    world.wait(lambda: world.group_offsets(0), [OFFSET_INVALID])
    for call in (old.commit_transaction, old.abort_transaction, old.begin_transaction, old.init_transactions):
        error = refusal(call)
        assert (error.code(), error.fatal(), error.txn_requires_abort()) == (KafkaError._FENCED, True, False)
    error = refusal(lambda: old.produce(world.topic, b"x", partition=0))
    assert (error.code(), error.fatal()) == (KafkaError._FATAL, False)


def test_a_fenced_producers_records_do_not_reach_the_log(world: World) -> None:
    old = world.producer("same")
    old.begin_transaction()
    world.write(old, b"lost")
    world.producer("same")
    old.produce(world.topic, b"too late", partition=0)
    assert refusal(lambda: old.flush(10)).code() == KafkaError._FENCED
    assert len(old) == 0
    assert world.end(UNCOMMITTED) == 2


def test_a_fenced_producer_that_writes_nothing_does_not_learn_of_it(world: World) -> None:
    old = world.producer("same")
    world.producer("same")
    old.begin_transaction()
    old.commit_transaction(10)
    old.begin_transaction()
    old.send_offsets_to_transaction([], world.consumer().consumer_group_metadata(), 10)
    old.produce(world.topic, b"x", partition=0)
    assert refusal(lambda: old.commit_transaction(10)).code() == KafkaError._FENCED


def test_a_transaction_that_is_open_too_long_is_aborted_and_its_producer_fenced(world: World) -> None:
    producer = world.producer("slow", transaction_timeout_ms=1000, message_timeout_ms=1000)
    producer.begin_transaction()
    world.write(producer, b"lost")
    world.backend.pass_time(1.1)
    world.wait(lambda: world.end(COMMITTED), 2)
    error = refusal(lambda: producer.commit_transaction(10))
    assert (error.code(), error.fatal()) == (KafkaError._FENCED, True)


def test_calls_out_of_order_are_refused(world: World) -> None:
    producer = world.backend.kafka.producer({**world.backend.settings, "transactional.id": world.topic})
    assert refusal(producer.begin_transaction).code() == KafkaError._STATE
    nobody = world.consumer().consumer_group_metadata()
    shared = world.backend.transactions
    for call in (
        lambda: shared.commit_transaction(10),
        lambda: shared.abort_transaction(10),
        lambda: shared.init_transactions(10),
        lambda: shared.send_offsets_to_transaction([world.topic_partition(0, 1)], nobody, 10),
        lambda: shared.produce(world.topic, b"x", partition=0),
    ):
        assert refusal(call).code() == KafkaError._STATE
    with world.transaction():
        assert refusal(shared.begin_transaction).code() == KafkaError._STATE
    assert refusal(world.backend.plain.begin_transaction).code() == KafkaError._NOT_CONFIGURED


def test_a_commit_flushes_and_reports_what_was_delivered(world: World) -> None:
    reports: list[tuple[Any, int, bytes]] = []
    with world.transaction() as producer:
        producer.produce(
            world.topic,
            b"a",
            partition=1,
            on_delivery=lambda error, message: reports.append((error, message.offset(), message.value())),
        )
        producer.commit_transaction(10)
    assert reports == [(None, 0, b"a")]
    world.wait(lambda: world.end(partition=1), 2)


def test_a_transaction_with_a_record_that_was_not_delivered_can_only_be_aborted(world: World) -> None:
    reports: list[int] = []
    with world.transaction() as producer:
        producer.produce(world.topic, b"a", partition=0, on_delivery=lambda error, _: reports.append(error.code()))
        producer.purge()
        producer.poll(0)
        assert reports == [KafkaError._PURGE_QUEUE]
        error = refusal(lambda: producer.commit_transaction(10))
        assert (error.code(), error.txn_requires_abort()) == (KafkaError._INCONSISTENT, True)
        assert refusal(producer.begin_transaction).code() == KafkaError._INCONSISTENT
        producer.abort_transaction(10)


def test_an_abort_drops_what_was_buffered(world: World) -> None:
    producer = world.producer("lazy", linger_ms=10_000)
    producer.begin_transaction()
    reports: list[int] = []
    producer.produce(world.topic, b"a", partition=0, on_delivery=lambda error, _: reports.append(error.code()))
    producer.abort_transaction(10)
    assert reports == [KafkaError._PURGE_QUEUE]
    assert world.end(UNCOMMITTED) == 0


def test_a_transaction_with_nothing_in_it_leaves_nothing(world: World) -> None:
    with world.transaction() as producer:
        producer.commit_transaction(10)
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([], world.consumer().consumer_group_metadata(), 10)
        producer.commit_transaction(10)
    assert world.end(UNCOMMITTED) == 0


def test_a_record_that_is_too_large_or_for_no_partition_is_refused_at_once(world: World) -> None:
    world.append(b"so that the producer knows the topic")
    plain = world.backend.plain
    error = refusal(lambda: plain.produce(world.topic, bytes(1_100_000), partition=0))
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert refusal(lambda: plain.produce(world.topic, b"x", partition=3)).code() == KafkaError._UNKNOWN_PARTITION
