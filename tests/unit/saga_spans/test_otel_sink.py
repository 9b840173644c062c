"""Saga spans into a user's own OpenTelemetry SDK: real ids, parents and times, whole sagas sampled."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from hypervisor_consumers.saga_spans.exporter import SagaSpanExporter
from hypervisor_consumers.saga_spans.otel import readable_span
from hypervisor_consumers.saga_spans.otel_sink import OTelSpanSink
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanEvent, SpanSink
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.saga_records import PARENT, START, TRACE, span, spans

T0 = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)


def provider_with(sampler: Sampler | None = None) -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, resource=Resource({"service.name": "mine"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def said(one: ReadableSpan) -> tuple[object, ...]:
    """Everything that is exported of a span, but its resource."""
    return (
        one.name,
        one.context.trace_id,
        one.context.span_id,
        one.parent and (one.parent.trace_id, one.parent.span_id),
        one.start_time,
        one.end_time,
        one.kind,
        dict(one.attributes or {}),
        [(event.name, event.timestamp, dict(event.attributes or {})) for event in one.events],
        [(link.context.trace_id, link.context.span_id, dict(link.attributes or {})) for link in one.links],
        (one.status.status_code, one.status.description),
        (one.instrumentation_scope.name, one.instrumentation_scope.version, one.instrumentation_scope.schema_url)
        if one.instrumentation_scope
        else None,
    )


@pytest.mark.parametrize(
    "record",
    [
        span(trace_id=TRACE),
        span("saga.completed.g", parent_span_id=None, trace_id=TRACE, causal_trace_id="t/s"),
        span(
            status="error",
            attributes={"agent.saga.error": "no seats", "agent.did": "did:a"},
            events=(SpanEvent("saga.checkpoint", START + 1, {"id": "c1"}),),
        ),
        span("saga.compensate.undo", status="compensating", end_time=START),
    ],
    ids=["step", "saga", "error", "compensation"],
)
def test_a_span_of_the_sdk_is_the_one_that_the_service_exports(record: SagaSpanRecord) -> None:
    provider, exporter = provider_with()
    OTelSpanSink(provider).record_saga_span(record)
    (made,) = exporter.get_finished_spans()
    assert said(made) == said(readable_span(record, Resource({})))
    assert made.resource.attributes == {"service.name": "mine"}


def test_through_an_exporter_a_saga_is_one_trace_with_the_events_own_times() -> None:
    provider, exporter = provider_with()
    bus = HypervisorEventBus()
    ours = SagaSpanExporter(bus, sink=OTelSpanSink(provider))

    def emit(kind: str, at: float, **payload: str) -> None:
        bus.emit(
            HypervisorEvent(
                event_type=EventType(f"saga.{kind}"),
                timestamp=T0 + timedelta(seconds=at),
                session_id="s1",
                payload={"saga_id": "g", **payload},
            )
        )

    with trace.get_tracer("other", tracer_provider=provider).start_as_current_span("somebody else's"):
        emit("created", 0)
        emit("step_started", 1, step_id="1", action="a")
        emit("step_failed", 3.5, step_id="1", action="a", error="boom")
        emit("completed", 9)

    step, saga, _ = exporter.get_finished_spans()
    assert (step.name, saga.name) == ("saga.step.a", "saga.completed.g")
    assert ours.sink_errors == 0
    assert step.context.trace_id == saga.context.trace_id == int(ours.completed_spans[0].trace_id, 16)
    assert step.parent is not None
    assert step.parent.span_id == saga.context.span_id == int(ours.completed_spans[1].span_id, 16)
    assert saga.parent is None
    second = 1_000_000_000
    began = int(T0.timestamp()) * second
    assert (step.start_time, step.end_time) == (began + second, began + 3 * second + second // 2)
    assert (saga.start_time, saga.end_time) == (began, began + 9 * second)
    assert (step.status.status_code, step.status.description) == (StatusCode.ERROR, "boom")


@pytest.mark.parametrize("wrapped", [False, True], ids=["the ratio itself", "by the parent"])
def test_of_a_saga_all_spans_are_sampled_or_none_as_its_trace_id_says(wrapped: bool) -> None:
    ratio = TraceIdRatioBased(0.5)
    provider, exporter = provider_with(ParentBased(ratio) if wrapped else ratio)
    sink = OTelSpanSink(provider)
    sagas = [f"{number:016x}{number * 0x0FEDCBA987654321 % 2**64:016x}" for number in range(1, 41)]
    for trace_id in sagas:
        sink.record_saga_span(span("step", trace_id=trace_id))
        sink.record_saga_span(span("saga", trace_id=trace_id, span_id=PARENT, parent_span_id=None))

    found: dict[int, list[str]] = {}
    for one in exporter.get_finished_spans():
        found.setdefault(one.context.trace_id, []).append(one.name)
    assert all(names == ["step", "saga"] for names in found.values())
    expected = {int(trace_id, 16) for trace_id in sagas if int(trace_id, 16) % 2**64 < ratio.bound}
    assert set(found) == expected
    assert 0 < len(expected) < len(sagas)


def test_a_sampler_that_wants_nothing_gets_nothing() -> None:
    for sampler in (ALWAYS_OFF, ParentBased(ALWAYS_OFF)):
        provider, exporter = provider_with(sampler)
        sink = OTelSpanSink(provider)
        sink.record_saga_span(span())
        sink.record_saga_span(span(parent_span_id=None))
        assert exporter.get_finished_spans() == ()


def test_many_threads_and_two_sinks_of_one_provider_mix_up_no_ids() -> None:
    provider, exporter = provider_with()
    sinks = [OTelSpanSink(provider), OTelSpanSink(provider)]

    def record(number: int) -> None:
        for one in spans(200, trace_id=f"{number + 1:032x}"):
            sinks[number % 2].record_saga_span(one)

    threads = [threading.Thread(target=record, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    found = {(one.name, one.context.trace_id, one.context.span_id) for one in exporter.get_finished_spans()}
    assert found == {(f"span-{n}", number + 1, n + 1) for n in range(200) for number in range(8)}


def test_a_processor_that_records_another_span_inside_changes_nothing() -> None:
    provider, exporter = provider_with()
    sink = OTelSpanSink(provider)

    class Emitting(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            if span.name == "outer":
                sink.record_saga_span(inner)

    provider.add_span_processor(Emitting())
    outer, inner = span("outer", trace_id=TRACE, span_id="1" * 16), span("inner", span_id="2" * 16)
    sink.record_saga_span(outer)
    assert [said(one) for one in exporter.get_finished_spans()] == [
        said(readable_span(record, Resource({}))) for record in (inner, outer)
    ]


def test_other_spans_of_the_same_scope_get_random_ids() -> None:
    provider, exporter = provider_with()
    OTelSpanSink(provider).record_saga_span(span())
    scope = exporter.get_finished_spans()[0].instrumentation_scope
    assert scope is not None
    tracer = provider.get_tracer(scope.name, scope.version, scope.schema_url, scope.attributes)
    tracer.start_span("theirs").end()
    tracer.start_span("theirs").end()
    ids = [(one.context.trace_id, one.context.span_id) for one in exporter.get_finished_spans()]
    assert len(set(ids)) == 3


def test_from_an_exporter_that_knows_no_records_each_span_is_a_trace_of_its_own() -> None:
    provider, exporter = provider_with()
    sink = OTelSpanSink(provider)
    assert isinstance(sink, SpanSink)
    for _ in range(2):
        sink.record_span("saga.step.a", START, START + 1, {"agent.saga.id": "g", "agent.did": "d"}, "error")
    first, second = exporter.get_finished_spans()
    assert first.context.trace_id != second.context.trace_id
    assert (first.name, first.parent, first.end_time) == ("saga.step.a", None, int((START + 1) * 1e9))
    assert dict(first.attributes or {}) == {
        "agent.saga.id": "g",
        "agent.did": "d",
        "gen_ai.agent.id": "d",
        "error.type": "_OTHER",
    }


def providers_that_are_none() -> Sequence[object]:
    return (trace.NoOpTracerProvider(), trace.ProxyTracerProvider(), object())


@pytest.mark.parametrize("provider", providers_that_are_none(), ids=lambda one: type(one).__name__)
def test_a_provider_that_is_not_the_sdks_is_refused(provider: object) -> None:
    with pytest.raises(ValueError, match=r"needs a TracerProvider .* is none\. Set one up"):
        OTelSpanSink(provider)


def test_without_one_the_global_provider_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="ProxyTracerProvider is none"):
        OTelSpanSink()
    provider, exporter = provider_with()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    OTelSpanSink().record_saga_span(span())
    assert len(exporter.get_finished_spans()) == 1


def test_an_sdk_that_is_disabled_is_refused_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with pytest.raises(ValueError, match=r"can do nothing while OTEL_SDK_DISABLED is true\.$"):
        OTelSpanSink(TracerProvider(shutdown_on_exit=False))
