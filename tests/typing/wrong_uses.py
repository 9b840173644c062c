"""Mistakes that type checkers find. Behind each: the codes of mypy's error and of pyright's."""

from __future__ import annotations

import hypervisor_telemetry
from hypervisor_telemetry import (
    CausalTraceId,
    EventPublisher,
    EventType,
    GovernanceLabels,
    GovernanceMetrics,
    HypervisorEvent,
    HypervisorEventBus,
    RemoteEventBus,
    RingMetricsCollector,
    SagaSpanExporter,
)

hypervisor_telemetry.Nothing  # noqa: B018 # error: attr-defined reportAttributeAccessIssue,reportUnknownMemberType
EventType.RING_ASIGNED  # noqa: B018 # error: attr-defined reportAttributeAccessIssue,reportUnknownMemberType

event = HypervisorEvent(event_type=EventType.RING_ASSIGNED)
event.session_id = "s1"  # error: misc reportAttributeAccessIssue
HypervisorEvent(event_type="ring.assigned")  # error: arg-type reportArgumentType
HypervisorEvent(agent="did:mesh:analyst")  # error: call-arg reportCallIssue
HypervisorEvent(payload=["ring", 3])  # error: arg-type reportArgumentType
CausalTraceId().depth = 3  # error: misc reportAttributeAccessIssue
CausalTraceId.from_string(None)  # error: arg-type reportArgumentType

bus = HypervisorEventBus(max_events="many")  # error: arg-type reportArgumentType
bus.emit("ring.assigned")  # error: arg-type reportArgumentType
bus.subscribe(EventType.RING_ASSIGNED, handler="print")  # error: arg-type reportArgumentType
bus.query(limit="10")  # error: arg-type reportArgumentType


class NoExporter:
    """Has one method of two."""

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None, help_text: str = "") -> None:
        """Take one value."""


class NoSink:
    """Takes a span in another way."""

    def record_span(self, name: str) -> None:
        """Take a name alone."""


RingMetricsCollector(bus).export_to_prometheus(NoExporter())  # error: arg-type reportArgumentType
SagaSpanExporter(bus, NoSink())  # error: arg-type reportArgumentType

EventPublisher("127.0.0.1:9092", "prefix.")  # error: call-arg reportCallIssue
publisher = EventPublisher(9092)  # error: arg-type reportArgumentType
publisher.attach(publisher)  # error: arg-type reportArgumentType
publisher.flush(timeout="soon")  # error: arg-type reportArgumentType
GovernanceMetrics(print)  # error: arg-type reportArgumentType
GovernanceMetrics(publisher).record_decision("yes", "agent", "tool", 1)  # error: arg-type reportArgumentType
GovernanceLabels(tool_name="tool")  # error: arg-type reportArgumentType
RemoteEventBus("http://127.0.0.1:8002", timeout=None)  # error: arg-type reportArgumentType
