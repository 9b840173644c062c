"""Code as users write it. Type checkers find nothing wrong with it, and see the types that it asserts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from opentelemetry.metrics import get_meter
from prometheus_client import CollectorRegistry

import hypervisor_telemetry
from hypervisor_telemetry import (
    CausalTraceId,
    EventPublisher,
    EventType,
    FlushResult,
    GovernanceEventType,
    GovernanceLabels,
    GovernanceMetrics,
    HypervisorEvent,
    HypervisorEventBus,
    IndexRefused,
    IndexUnavailable,
    OpenTelemetryExporter,
    OTelSpanSink,
    PrometheusClientExporter,
    PrometheusExporterProtocol,
    PublisherCollector,
    PublisherStats,
    RemoteEventBus,
    RingMetricsCollector,
    SagaSpanExporter,
    SagaSpanRecord,
    SettingError,
    SpanSink,
    TelemetryError,
    UnknownEventType,
    observe_publisher,
)


def events() -> None:
    root = CausalTraceId()
    assert_type(root.full_id, str)
    assert_type(root.child().sibling(), CausalTraceId)
    assert_type(root.parent_span_id, str | None)
    assert_type(root.depth, int)
    assert_type(root.is_ancestor_of(root.child()), bool)
    assert_type(CausalTraceId.from_string("a/b"), CausalTraceId)
    assert_type(root.to_w3c().traceparent, str)

    event = HypervisorEvent(
        event_type=EventType.RING_ASSIGNED,
        session_id="s1",
        agent_did="did:mesh:analyst",
        causal_trace_id=root.full_id,
        payload={"ring": 3},
    )
    assert_type(event.event_id, str)
    assert_type(event.timestamp, datetime)
    assert_type(event.session_id, str | None)
    assert_type(event.payload, dict[str, Any])
    assert_type(event.event_type, EventType | GovernanceEventType | UnknownEventType)
    value: str = event.event_type.value
    print(value)  # noqa: T201
    assert_type(event.to_dict(), dict[str, Any])
    assert_type(HypervisorEvent.from_dict(event.to_dict()), HypervisorEvent)


def bus() -> HypervisorEventBus:
    the_bus = HypervisorEventBus(max_events=None)

    def on_breach(event: HypervisorEvent) -> None:
        print(event.agent_did, event.payload)  # noqa: T201

    the_bus.subscribe(event_type=EventType.RING_BREACH_DETECTED, handler=on_breach)
    the_bus.subscribe(event_type=None, handler=lambda event: event.event_type.value)
    the_bus.subscribe("my.type", on_breach)
    the_bus.emit(HypervisorEvent(event_type=GovernanceEventType.AUDIT_EVENT))
    assert_type(the_bus.query_by_type(EventType.RING_ASSIGNED), list[HypervisorEvent])
    assert_type(the_bus.query_by_time_range(datetime.now(UTC) - timedelta(hours=1)), list[HypervisorEvent])
    assert_type(the_bus.query(session_id="s1", limit=10), list[HypervisorEvent])
    assert_type(the_bus.all_events, list[HypervisorEvent])
    assert_type(the_bus.event_count, int)
    assert_type(the_bus.type_counts(), dict[str, int])
    return the_bus


def publishing(the_bus: HypervisorEventBus) -> None:
    try:
        with EventPublisher("127.0.0.1:9092", topic_prefix="hypervisor.", environ={}) as publisher:
            publisher.attach(the_bus)
            assert_type(publisher.publish(HypervisorEvent()), bool)
            result = publisher.flush(timeout=5)
            assert_type(result, FlushResult)
            assert_type(result.pending, int)
            assert_type(result.offsets, Mapping[tuple[str, int], int])
            assert_type(result.token, str)
            stats = publisher.stats()
            assert_type(stats, PublisherStats)
            assert_type(stats.queued, int)
            assert_type(stats.dropped, Mapping[str, int])
            CollectorRegistry().register(PublisherCollector(publisher))
            observe_publisher(publisher, get_meter("agent"))
    except SettingError as error:
        assert_type(error.setting, str)


class OwnExporter:
    """Matches `PrometheusExporterProtocol` without naming it."""

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None, help_text: str = "") -> None:
        """Take one value."""

    def inc_counter(
        self, name: str, value: float = 1.0, labels: dict[str, str] | None = None, help_text: str = ""
    ) -> None:
        """Take one increase."""


def ring_metrics(the_bus: HypervisorEventBus) -> None:
    collector = RingMetricsCollector(the_bus)
    assert_type(collector.collect(), dict[str, Any])
    exporters: list[PrometheusExporterProtocol] = [
        OwnExporter(),
        PrometheusClientExporter(CollectorRegistry()),
        OpenTelemetryExporter(get_meter("agent")),
    ]
    for exporter in exporters:
        collector.export_to_prometheus(exporter)
    collector.reset()


class OwnSink:
    """Matches `SpanSink` without naming it."""

    def record_span(
        self, name: str, start_time: float, end_time: float, attributes: dict[str, Any], status: str
    ) -> None:
        """Take one span."""


def saga_spans(the_bus: HypervisorEventBus) -> None:
    exporter = SagaSpanExporter(the_bus, sink=OwnSink(), max_spans=100)
    sink: SpanSink = OTelSpanSink()
    exporter.attach_sink(sink)
    exporter.detach_sink()
    assert_type(exporter.completed_spans, list[SagaSpanRecord])
    for span in exporter.completed_spans:
        assert_type(span.duration_seconds, float)
        assert_type(span.parent_span_id, str | None)


def governance(publisher: EventPublisher) -> None:
    metrics = GovernanceMetrics(
        publisher,
        meter=get_meter(GovernanceMetrics.METER_NAME),
        prometheus=CollectorRegistry(),
        labels=GovernanceLabels(agent_id=lambda did: did.split(":")[1], tool_name=True),
    )
    metrics.record_decision(True, "agent", "tool", 0.3, rate_limited=False)
    metrics.record_audit_event("deleted", details={"rows": 3})
    metrics.register_trust_score_gauge(lambda: {"agent": 900.0})
    metrics.register_trust_score_gauge(lambda: [(900.0, {"agent_id": "agent"})])
    metrics.register_active_agents_gauge(lambda: 3)
    with metrics.evaluate("agent", "tool", denied_by=PermissionError) as evaluation:
        evaluation.allow()

    def agent_of(agent: str, _tool: str) -> str:
        return agent

    @metrics.evaluate(agent_of, "tool")
    def is_allowed(agent: str, tool: str) -> bool:
        return agent < tool

    assert_type(is_allowed("agent", "tool"), bool)
    assert_type(metrics.troubles, Mapping[str, int])


def the_fleet(publisher: EventPublisher) -> None:
    remote = RemoteEventBus("http://127.0.0.1:8002", token="token", timeout=3)  # noqa: S106 - nobody's
    try:
        remote.wait_for(publisher.flush().token)
        assert_type(remote.query(event_type=EventType.RING_ASSIGNED), list[HypervisorEvent])
        assert_type(remote.event_count, int)
    except (IndexUnavailable, IndexRefused) as error:
        base: TelemetryError = error
        print(base)  # noqa: T201


assert_type(hypervisor_telemetry.__version__, str)
assert_type(hypervisor_telemetry.CausalTraceId(), CausalTraceId)
