"""Dead letters of a service that has no transaction to put them in."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from hypervisor_consumers.runtime.commit.dead_letters import DeadLetterWriter, dead_letter_of
from hypervisor_consumers.runtime.records import Record, TopicPartition
from hypervisor_schemas.dead_letters import DeadLetter, read_dead_letter
from hypervisor_schemas.errors import OutputUnavailable, UndecodableRecord
from tests.support.faulty_kafka import FaultyKafka

TOPIC = "t.dead-letters"
ERROR = UndecodableRecord("It is no record.")


@pytest.fixture
def kafka() -> FaultyKafka:
    kafka = FaultyKafka()
    kafka.create_topic(TOPIC, 2)
    return kafka


@pytest.fixture
def writer(kafka: FaultyKafka) -> DeadLetterWriter:
    return DeadLetterWriter(kafka, {}, service="words", topic=TOPIC)


def record(offset: int, partition: int = 0) -> Record:
    return Record(TopicPartition("t.events.vfs", partition), offset, b"key", b"\xff", [("h", None)], 17)


def letters(kafka: FaultyKafka, partition: int = 0) -> list[DeadLetter | None]:
    return [read_dead_letter(one.key, one.value, one.headers) for one in kafka.log(TOPIC, partition)]


def offsets(kafka: FaultyKafka, partition: int = 0) -> list[int]:
    return [letter.offset for letter in letters(kafka, partition) if letter is not None]


def test_a_dead_letter_is_the_untouched_record_with_its_place_and_the_reason():
    assert dead_letter_of(record(7, 3), "words", ERROR) == DeadLetter(
        b"key", b"\xff", (("h", None),), "words", "undecodable", "It is no record.", "t.events.vfs", 3, 7, 17
    )
    assert dead_letter_of(record(7)._replace(headers=None), "words", ERROR).original_headers == ()


def test_kafka_has_all_that_was_added_when_the_flush_returns(kafka: FaultyKafka, writer: DeadLetterWriter):
    writer.add(record(1), ERROR)
    writer.add(record(2), ERROR)
    assert letters(kafka) == []

    writer.flush()

    assert letters(kafka) == [dead_letter_of(record(offset), "words", ERROR) for offset in (1, 2)]


def test_each_is_written_once(kafka: FaultyKafka, writer: DeadLetterWriter):
    writer.add(record(1), ERROR)
    writer.flush()
    writer.flush()
    writer.add(record(2), ERROR)
    writer.flush()

    assert offsets(kafka) == [1, 2]


def test_they_go_to_the_partition_of_their_source_among_those_there_are(
    kafka: FaultyKafka, writer: DeadLetterWriter
):
    for partition in range(5):
        writer.add(record(partition, partition), ERROR)
    writer.flush()

    assert offsets(kafka, 0) == [0, 2, 4]
    assert offsets(kafka, 1) == [1, 3]


def test_it_connects_when_the_first_one_comes(kafka: FaultyKafka, writer: DeadLetterWriter):
    kafka.away()
    writer.flush()
    writer.add(record(1), ERROR)
    with pytest.raises(OutputUnavailable, match=r"^Dead letters can't be written: Local: Timed out\.$"):
        writer.flush()
    kafka.back()
    writer.flush()
    assert offsets(kafka) == [1]


@pytest.mark.parametrize("operation", ["list_topics", "flush", "deliver"])
def test_what_kafka_does_not_take_stays_and_comes_once_when_it_does(
    kafka: FaultyKafka, writer: DeadLetterWriter, operation: str
):
    writer.add(record(1), ERROR)
    kafka.fail_next(operation, before=True)
    with pytest.raises(OutputUnavailable):
        writer.flush()
    assert offsets(kafka) == []
    writer.add(record(2), ERROR)

    writer.flush()

    assert offsets(kafka) == [1, 2]


def test_what_was_refused_is_said(kafka: FaultyKafka, writer: DeadLetterWriter):
    writer.add(record(1), ERROR)
    kafka.fail_next("deliver", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), before=True)
    with pytest.raises(OutputUnavailable) as caught:
        writer.flush()
    assert str(caught.value) == ("Dead letters were not taken by Kafka: Broker: Message size too large.")
    kafka.fail_next("flush", before=True)
    with pytest.raises(OutputUnavailable) as caught:
        writer.flush()
    assert str(caught.value) == "Dead letters were not taken by Kafka: no answer."


def test_without_their_topic_they_wait(kafka: FaultyKafka):
    writer = DeadLetterWriter(kafka, {}, service="words", topic="t.later")
    writer.add(record(1), ERROR)
    with pytest.raises(OutputUnavailable, match="Unknown topic or partition"):
        writer.flush()
    kafka.create_topic("t.later", 1)
    writer.flush()
    assert len(kafka.log("t.later", 0)) == 1
    writer.close()
