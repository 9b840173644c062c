"""The sinks of saga-spans as they run: a real Kafka behind one, behind another a receiver that is in trouble."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import NewTopic
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hypervisor_consumers.saga_spans.sinks.kafka import kafka_sink
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import partition_of
from tests.support.saga_records import span, spans
from tests.support.service_processes import Fleet, eventually
from tests.support.span_receivers import PROTOBUF, Reply, http_receiver, partial_success, span_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.kafka


def events(sagas: int) -> Iterator[HypervisorEvent]:
    """Of each saga a step and the end: two spans."""
    for number in range(sagas):
        for kind, payload in (
            (EventType.SAGA_CREATED, {}),
            (EventType.SAGA_STEP_STARTED, {"step_id": "1", "action": "book"}),
            (EventType.SAGA_STEP_COMMITTED, {"step_id": "1", "action": "book"}),
            (EventType.SAGA_COMPLETED, {}),
        ):
            yield HypervisorEvent(
                event_type=kind, session_id=f"s{number}", payload={"saga_id": f"g{number}", **payload}
            )


def make_topic(fleet: Fleet, name: str, partitions: int = 3, **config: str) -> str:
    topic = f"{fleet.prefix}{name}"
    fleet.admin.create_topics([NewTopic(topic, partitions, 1, config=config)])[topic].result(30)
    # The controller knows it; the broker learns of it a moment later.
    eventually(lambda: fleet.admin.list_topics(timeout=10).topics, lambda topics: topic in topics)
    return topic


def test_the_kafka_and_the_file_get_the_same_spans(new_fleet: Callable[[int], Fleet], tmp_path: Path):
    fleet, path = new_fleet(2), tmp_path / "spans.jsonl"
    topic = make_topic(fleet, "otlp_spans")
    fleet.publish(events(200))

    service = fleet.start("saga-spans", "--sink", f"kafka:{topic}", "--sink", f"jsonl:{path}").wait_ready()
    eventually(lambda: path.read_bytes().count(b"\n"), lambda count: count >= 400)
    assert service.terminate()[0] == 0

    in_file = {
        (one["trace_id"], one["span_id"]): one["name"] for one in map(json.loads, path.read_text().splitlines())
    }
    in_kafka = {}
    for record in fleet.records(topic):
        request = ExportTraceServiceRequest.FromString(record.value())
        (of,) = request.resource_spans
        assert {each.key: each.value.string_value for each in of.resource.attributes}["service.name"] == (
            "agent-hypervisor"
        )
        for one in of.scope_spans[0].spans:
            in_kafka[one.trace_id.hex(), one.span_id.hex()] = one.name
            assert record.key().decode() == one.trace_id.hex()
            assert record.partition() == partition_of(record.key(), 3)
    assert len(in_kafka) == 400
    assert in_kafka == in_file


def test_a_real_topic_that_takes_small_records_only_gets_all_that_fit(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    topic = make_topic(fleet, "small", 1, **{"max.message.bytes": "4000"})
    sink = kafka_sink({"KAFKA_COMPRESSION_TYPE": "none"}, fleet.bootstrap_servers, topic)
    sent = [
        *spans(30),
        span("huge", trace_id="1" * 32, attributes={"agent.saga.result": "x" * 5000}),
        span("small", trace_id="2" * 32),
    ]

    refused = list(sink.deliver(sent))
    again = list(sink.deliver(spans(3)))

    assert [each.at for each in refused] == [30]
    assert "takes no record so large: " in refused[0].reason
    assert again == []
    names = [name for record in fleet.records(topic) for name in span_names(record.value())]
    assert sorted(names) == sorted(
        [*(one.name for one in sent if one.name != "huge"), "span-0", "span-1", "span-2"]
    )
    sink.close()


def test_without_its_topic_spans_wait_and_go_on_when_it_is_made(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    topic = f"{fleet.prefix}later"
    sink = kafka_sink({}, fleet.bootstrap_servers, topic)
    with pytest.raises(OutputUnavailable, match="for spans, doesn't exist; make it with"):
        sink.deliver(spans(2))
    make_topic(fleet, "later")

    def delivered() -> bool:
        try:
            return list(sink.deliver(spans(2))) == []
        except OutputUnavailable:  # the broker may not tell of it at once
            return False

    eventually(delivered, bool)
    assert [name for record in fleet.records(topic) for name in span_names(record.value())] == ["span-0", "span-1"]
    sink.close()


def test_spans_wait_for_an_otlp_receiver_in_trouble_and_then_all_arrive(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet, path = new_fleet(2), tmp_path / "spans.jsonl"
    with http_receiver() as receiver:
        service = fleet.start(
            "saga-spans",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
            TELEMETRY_SPAN_SINKS=f"otlp,jsonl:{path}",
            no_proxy="*",
        ).wait_ready()
        receiver.answer = lambda _: Reply(503, b"restarting", {"Content-Type": "text/plain"})
        fleet.publish(events(50))

        status, text = eventually(service.ready, lambda ready: "restarting" in ready[1])
        assert status == 200
        assert f"otlp: The OTLP receiver at {receiver.url}/v1/traces answers 503 Service Unavailable" in text
        assert len(receiver.requests) > 0

        receiver.requests.clear()
        receiver.answer = lambda _: Reply(200, partial_success(0), {"Content-Type": PROTOBUF})
        taken = eventually(
            lambda: {name for names in receiver.taken for name in names}, lambda names: len(names) == 51
        )
        assert taken == {"saga.step.book", *(f"saga.completed.g{number}" for number in range(50))}
        assert eventually(service.ready, lambda ready: ready[1] == "ok\n")[0] == 200
        assert service.terminate()[0] == 0
        sent = sum(len(names) for names in receiver.taken)
    assert (sent, path.read_bytes().count(b"\n")) == (100, 100)
