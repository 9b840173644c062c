"""The Kafka sink on a Kafka in memory: records of one trace each, acknowledged, cut, refused."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from hypervisor_consumers.saga_spans.sinks.kafka import KafkaSink
from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.topics import partition_of
from tests.support.faulty_kafka import FaultyKafka
from tests.support.saga_records import span, spans
from tests.support.span_receivers import span_names

TOPIC = "otlp_spans"
OTHER = "b" * 32


@pytest.fixture
def kafka() -> FaultyKafka:
    kafka = FaultyKafka()
    kafka.create_topic(TOPIC, 2)
    return kafka


@pytest.fixture
def sink(kafka: FaultyKafka) -> KafkaSink:
    return KafkaSink(kafka, {}, TOPIC, resource_of({}))


def written(kafka: FaultyKafka) -> list[tuple[bytes | None, list[str]]]:
    return [(one.key, span_names(one.value or b"")) for number in (0, 1) for one in kafka.log(TOPIC, number)]


def test_a_record_holds_the_spans_of_one_trace_under_its_id(kafka: FaultyKafka, sink: KafkaSink):
    first, second, third = spans(3)
    other = span("other", trace_id=OTHER)

    assert list(sink.deliver([first, other, second, third])) == []

    assert sorted(written(kafka)) == sorted(
        [(first.trace_id.encode(), ["span-0", "span-1", "span-2"]), (OTHER.encode(), ["other"])]
    )
    for one in (first, other):
        (record,) = [
            record
            for record in kafka.log(TOPIC, partition_of(one.trace_id.encode(), 2))
            if record.key == one.trace_id.encode()
        ]
        assert one.name in span_names(record.value or b"")
    assert list(sink.deliver([])) == []


def test_records_are_cut_at_half_a_mebibyte(kafka: FaultyKafka, sink: KafkaSink):
    sent = spans(8, attributes={"agent.saga.result": "x" * 200_000})
    assert list(sink.deliver(sent)) == []
    assert [names for _, names in written(kafka)] == [[f"span-{n}", f"span-{n + 1}"] for n in range(0, 8, 2)]


def test_a_span_that_the_topic_is_too_small_for_is_refused_and_what_travels_with_it_is_written(
    kafka: FaultyKafka, sink: KafkaSink
):
    too_large = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    # The record, the same once more alone, its first half, the first span; all others are taken.
    kafka.fail_next("deliver", too_large, before=True)
    kafka.fail_next("deliver", too_large, before=True)
    kafka.fail_next("deliver", too_large, before=True)
    kafka.fail_next("deliver", too_large, before=True)

    refused = list(sink.deliver(spans(4)))

    assert [each.at for each in refused] == [0]
    assert refused[0].reason.startswith("The topic otlp_spans takes no record so large: ")
    assert [names for _, names in written(kafka)] == [["span-1"], ["span-2", "span-3"]]


def test_a_span_that_is_too_large_for_any_topic_is_refused_by_this_side(kafka: FaultyKafka, sink: KafkaSink):
    huge = span("huge", attributes={"agent.saga.result": "x" * 65 * 1024 * 1024})
    (refused,) = sink.deliver([*spans(2), huge])
    assert refused.at == 2
    assert [names for _, names in written(kafka)] == [["span-0", "span-1"]]


@pytest.mark.parametrize("operation", ["list_topics", "flush", "deliver"])
def test_what_kafka_does_not_take_comes_again_whole_and_nothing_is_left_of_the_first_try(
    kafka: FaultyKafka, sink: KafkaSink, operation: str
):
    kafka.fail_next(operation, before=True)
    with pytest.raises(OutputUnavailable, match="otlp_spans"):
        sink.deliver(spans(2))
    assert written(kafka) == []
    assert list(sink.deliver(spans(2))) == []
    assert [names for _, names in written(kafka)] == [["span-0", "span-1"]]
    sink.close()


def test_without_its_topic_they_wait_with_a_sentence(kafka: FaultyKafka):
    sink = KafkaSink(kafka, {}, "later", resource_of({}))
    with pytest.raises(OutputUnavailable) as caught:
        sink.deliver(spans(1))
    assert str(caught.value) == (
        "The topic later, for spans, doesn't exist; make it with kafka-topics.sh --create --topic later, "
        "and it goes on by itself."
    )
    kafka.create_topic("later", 1)
    assert list(sink.deliver(spans(1))) == []
    assert len(kafka.log("later", 0)) == 1


def test_an_outage_of_kafka_is_said(kafka: FaultyKafka, sink: KafkaSink):
    kafka.away()
    with pytest.raises(OutputUnavailable, match=r"^Spans can't be written to the topic otlp_spans: .*Timed out\.$"):
        sink.deliver(spans(1))
    kafka.back()
    assert list(sink.deliver(spans(1))) == []
