"""Our spans in real receivers: an OTLP receiver that isn't ours, by both protocols, and Zipkin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from hypervisor_consumers.saga_spans.otel import readable_span
from hypervisor_consumers.saga_spans.sinks.factory import make_span_sink
from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of
from hypervisor_consumers.saga_spans.sinks.zipkin import zipkin_span
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanEvent
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.errors import OutputUnavailable
from tests.support.real_receivers import Rotel, Zipkin, running_rotel, running_zipkin
from tests.support.saga_records import PARENT, START, TRACE, span, spans
from tests.support.service_processes import eventually

pytestmark = pytest.mark.full

CAUSAL = CausalTraceId("abcdef012345", "01234567")


def failed_step(name: str) -> SagaSpanRecord:
    return span(
        name,
        trace_id=TRACE,
        status="error",
        attributes={"agent.saga.id": "deploy", "agent.did": "did:a", "agent.saga.error": "boom"},
        causal_trace_id=CAUSAL.full_id,
        events=(SpanEvent("saga.checkpoint", START + 1, {"agent.saga.checkpoint_id": "c1"}),),
    )


@pytest.fixture(scope="module")
def rotel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotel]:
    with running_rotel(tmp_path_factory.mktemp("rotel")) as one:
        yield one


@pytest.fixture(scope="module")
def zipkin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zipkin]:
    with running_zipkin(tmp_path_factory.mktemp("zipkin")) as one:
        yield one


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def address(rotel: Rotel, protocol: str) -> str:
    return rotel.grpc if protocol == "grpc" else rotel.http


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_otlp_receiver_gets_every_field(rotel: Rotel, protocol: str, compression: str) -> None:
    name = f"saga.step.{protocol}.{compression}"
    environ = {
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
        "OTEL_SERVICE_NAME": f"fleet.{name}",
    }
    sink = make_span_sink([f"otlp:{address(rotel, protocol)}"], environ)
    assert list(sink.deliver([failed_step(name)])) == []
    sink.close()

    w3c = CAUSAL.to_w3c()
    lines = (
        f"-> service.name: Str(fleet.{name})",
        "InstrumentationScope hypervisor_telemetry.saga_spans ",
        "ScopeSpans SchemaURL: https://opentelemetry.io/schemas/1.40.0",
        f"Trace ID : {TRACE}",
        f"Parent ID : {PARENT}",
        f"ID : {'b' * 16}",
        "Kind : SPAN_KIND_INTERNAL",
        "Start time: 1736937000000000000",
        "End time: 1736937002250000000",
        "Status code : STATUS_CODE_ERROR",
        "Status message : boom",
        "-> agent.saga.id: Str(deploy)",
        "-> agent.did: Str(did:a)",
        "-> gen_ai.agent.id: Str(did:a)",
        "-> error.type: Str(boom)",
        f"-> agent.causal_trace_id: Str({CAUSAL.full_id})",
        "-> Name: saga.checkpoint",
        "-> Timestamp: 1736937001000000000",
        "-> agent.saga.checkpoint_id: Str(c1)",
        f"-> Trace ID: {w3c.trace_id}",
        f"-> ID: {w3c.span_id}",
    )

    def missing() -> list[str]:
        requests = re.split(r"(?m)^ResourceSpans #", re.sub(" +", " ", rotel.printed))
        (one,) = [text for text in requests if f"Name : {name}\n" in text] or [""]
        return [line for line in lines if line not in one]

    eventually(missing, lambda lines: not lines)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_otlp_receiver_gets_every_span_of_many_requests(rotel: Rotel, protocol: str) -> None:
    sink = make_span_sink([f"otlp:{address(rotel, protocol)}"], {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    trace_id = f"{len(protocol):032x}"
    assert list(sink.deliver(spans(1300, trace_id=trace_id))) == []
    sink.close()

    def ids() -> set[str]:
        found = re.findall(r"Trace ID +: (\w+)\n.*\n +ID +: (\w+)\n", rotel.printed)
        return {span_id for of, span_id in found if of == trace_id}

    eventually(lambda: len(ids()), lambda count: count == 1300)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_otlp_receiver_takes_a_request_without_spans(rotel: Rotel, protocol: str) -> None:
    """By that a sink tells a receiver that refuses spans from an address that is none."""
    sink: Any = make_span_sink([f"otlp:{address(rotel, protocol)}"], {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    assert sink._send(()) is None
    sink.close()


@pytest.mark.parametrize(
    ("endpoint", "protocol", "sentence"),
    [
        (
            "{http}/wrong",
            "http/protobuf",
            "answers 404 Not Found; it has no such address: check ",
        ),
        ("{grpc}", "http/protobuf", "can't be reached: "),
        ("{http}", "grpc", "answers UN"),
    ],
)
def test_the_wrong_address_makes_spans_wait(rotel: Rotel, endpoint: str, protocol: str, sentence: str) -> None:
    url = endpoint.format(http=rotel.http, grpc=rotel.grpc)
    sink = make_span_sink([f"otlp:{url}"], {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
    with pytest.raises(OutputUnavailable) as caught:
        sink.deliver(spans(3))
    sink.close()
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_zipkin_server_gives_back_what_it_was_sent(zipkin: Zipkin) -> None:
    sink = make_span_sink([f"zipkin:{zipkin.spans}"], {"OTEL_SERVICE_NAME": "fleet"})
    step = failed_step("saga.step.build")
    saga = span("saga.completed.deploy", trace_id=TRACE, span_id=PARENT, parent_span_id=None)
    assert list(sink.deliver([step, saga])) == []

    found = eventually(lambda: zipkin.trace(TRACE), lambda trace: len(trace) == 2)

    resource = resource_of({"OTEL_SERVICE_NAME": "fleet"})
    sent = [zipkin_span(readable_span(one, resource)) for one in (step, saga)]
    assert sorted(found, key=lambda one: str(one["id"])) == sent
    sink.close()


def test_a_zipkin_server_refuses_a_span_and_takes_those_beside_it(zipkin: Zipkin) -> None:
    sink = make_span_sink([f"zipkin:{zipkin.spans}"], {})
    trace_id = "1" * 32
    sent = spans(20, trace_id=trace_id)
    # An id of zeros only is none for Zipkin; the fold makes no such span.
    sent[7] = span("span-7", trace_id=trace_id, span_id="0" * 16)

    (refused,) = sink.deliver(sent)

    assert refused.at == 7
    assert "answers 400 Bad Request: " in refused.reason
    eventually(lambda: len(zipkin.trace(trace_id)), lambda count: count == 19)
    sink.close()
