"""The Zipkin sink: the JSON of every field, and what becomes of each answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version

import pytest
from opentelemetry.sdk.resources import Resource

from hypervisor_consumers.saga_spans.otel import readable_span
from hypervisor_consumers.saga_spans.sinks.zipkin import ZipkinSink, zipkin_sink, zipkin_span
from hypervisor_consumers.saga_spans.spans import SpanEvent
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from tests.support.saga_records import PARENT, START, TRACE, span, spans
from tests.support.span_receivers import HttpReceiver, Reply, http_receiver

RESOURCE = Resource({"service.name": "fleet", "host.name": "h"})


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    monkeypatch.setenv("no_proxy", "*")
    with http_receiver() as one:
        one.answer = lambda _: Reply(202)
        yield one


@pytest.fixture
def sink_to() -> Iterator[Callable[[str], ZipkinSink]]:
    made: list[ZipkinSink] = []

    def make(url: str) -> ZipkinSink:
        made.append(zipkin_sink({"OTEL_SERVICE_NAME": "fleet"}, url))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def test_a_step_that_failed_in_zipkins_json_is_exactly_this():
    causal = CausalTraceId("t1", "s1")
    record = span(
        status="error",
        trace_id=TRACE,
        attributes={"agent.did": "did:a", "agent.saga.error": "no seats"},
        causal_trace_id="t1/s1",
        events=(SpanEvent("saga.checkpoint", START + 1, {"id": "c1"}), SpanEvent("plain", START + 2)),
    )

    assert zipkin_span(readable_span(record, RESOURCE)) == {
        "traceId": TRACE,
        "id": "b" * 16,
        "parentId": PARENT,
        "name": "saga.step.build",
        "timestamp": 1736937000000000,
        "duration": 2250000,
        "localEndpoint": {"serviceName": "fleet"},
        "tags": {
            "host.name": "h",
            "agent.did": "did:a",
            "gen_ai.agent.id": "did:a",
            "agent.saga.error": "no seats",
            "agent.causal_trace_id": "t1/s1",
            "error.type": "_OTHER",
            "error": "no seats",
            "otel.status_code": "ERROR",
            "otel.scope.name": "hypervisor_telemetry.saga_spans",
            "otel.scope.version": version("hypervisor-telemetry"),
            "hypervisor_telemetry.mapping_version": "1",
            "otel.links": json.dumps(
                [{"trace_id": causal.to_w3c().trace_id, "span_id": causal.to_w3c().span_id}],
                separators=(",", ":"),
            ),
        },
        "annotations": [
            {"timestamp": 1736937001000000, "value": '"saga.checkpoint": {"id": "c1"}'},
            {"timestamp": 1736937002000000, "value": "plain"},
        ],
    }


def test_what_a_saga_that_went_well_has_not_is_left_out():
    made = zipkin_span(readable_span(span(parent_span_id=None), RESOURCE))
    assert not {"parentId", "annotations"} & made.keys()
    assert not {"error", "otel.links"} & made["tags"].keys()
    assert made["tags"]["otel.status_code"] == "OK"
    compensating = zipkin_span(readable_span(span(status="compensating"), RESOURCE))
    assert "otel.status_code" not in compensating["tags"]
    failed = zipkin_span(readable_span(span(status="error", attributes={}), RESOURCE))
    assert failed["tags"]["error"] == ""


def test_no_duration_is_zero_and_no_time_is_before_1970():
    made = zipkin_span(readable_span(span(end_time=START), RESOURCE))
    assert (made["timestamp"], made["duration"]) == (1736937000000000, 1)
    early = zipkin_span(readable_span(span(start_time=-5.0, end_time=-4.0), RESOURCE))
    assert (early["timestamp"], early["duration"]) == (1, 1)


def test_spans_come_in_requests_of_at_most_512(receiver: HttpReceiver, sink_to: Callable[[str], ZipkinSink]):
    sent = spans(600)
    assert list(sink_to(f"{receiver.url}/api/v2/spans").deliver(sent)) == []
    got = [json.loads(request.body) for request in receiver.requests]
    assert [len(part) for part in got] == [512, 88]
    assert [one["name"] for part in got for one in part] == [one.name for one in sent]
    assert {one["localEndpoint"]["serviceName"] for part in got for one in part} == {"fleet"}
    assert {(request.path, request.headers["content-type"]) for request in receiver.requests} == {
        ("/api/v2/spans", "application/json")
    }


def test_requests_hold_two_mebibytes_at_most(receiver: HttpReceiver, sink_to: Callable[[str], ZipkinSink]):
    large = spans(4, attributes={"agent.saga.result": "x" * 900_000})
    assert list(sink_to(receiver.url).deliver(large)) == []
    assert [len(json.loads(request.body)) for request in receiver.requests] == [2, 2]


def test_only_the_culprits_of_a_request_that_is_refused_are_refused(
    receiver: HttpReceiver, sink_to: Callable[[str], ZipkinSink]
):
    receiver.answer = lambda request: Reply(400, b"bad id\n") if b'"span-3"' in request.body else Reply(202)
    (refused,) = sink_to(receiver.url).deliver(spans(10))
    assert refused.at == 3
    assert refused.reason == f"Zipkin at {receiver.url} answers 400 Bad Request: bad id."

    receiver.answer = lambda _: Reply(400, b"what is that?")
    with pytest.raises(OutputUnavailable, match="A request without spans is refused, too: Zipkin at"):
        sink_to(receiver.url).deliver(spans(10))
    assert receiver.requests[-1].body == b"[]"


def test_trouble_makes_them_wait_and_names_the_setting(
    receiver: HttpReceiver, sink_to: Callable[[str], ZipkinSink]
):
    receiver.answer = lambda _: Reply(404)
    with pytest.raises(OutputUnavailable, match="check OTEL_EXPORTER_ZIPKIN_ENDPOINT"):
        sink_to(receiver.url).deliver(spans(1))
    receiver.answer = lambda _: Reply(503, b"", {"Retry-After": "3"})
    with pytest.raises(OutputUnavailable) as caught:
        sink_to(receiver.url).deliver(spans(1))
    assert caught.value.retry_after == 3


def test_the_address_may_stand_in_the_environment_and_hold_a_password(receiver: HttpReceiver):
    environ = {"OTEL_EXPORTER_ZIPKIN_ENDPOINT": receiver.url.replace("://", "://me:pw@") + "/x"}
    sink = zipkin_sink(environ)
    sink.deliver(spans(1))
    (request,) = receiver.requests
    assert (request.path, request.headers["authorization"]) == ("/x", "Basic bWU6cHc=")
    receiver.answer = lambda _: Reply(500)
    with pytest.raises(OutputUnavailable) as caught:
        sink.deliver(spans(1))
    assert str(caught.value) == f"Zipkin at {receiver.url}/x answers 500 Internal Server Error."
    sink.close()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"ENDPOINT": "secret"}, "OTEL_EXPORTER_ZIPKIN_ENDPOINT must be http://host"),
        ({"TIMEOUT": "soon"}, "OTEL_EXPORTER_ZIPKIN_TIMEOUT can't be 'soon': it must be milliseconds"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(variables: dict[str, str], sentence: str):
    with pytest.raises(SettingError) as refusal:
        zipkin_sink({f"OTEL_EXPORTER_ZIPKIN_{name}": text for name, text in variables.items()})
    assert str(refusal.value).startswith(sentence)
    assert "secret" not in str(refusal.value)
