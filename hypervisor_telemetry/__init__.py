"""hypervisor-telemetry: telemetry for fleets of AI agents, on Kafka.

What an agent needs is imported from here; it needs nothing beyond the base install. Only `OTelSpanSink` needs the
extra `opentelemetry`: it is imported when somebody asks for it, and `import *` doesn't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypervisor_consumers.ring_metrics.collector import PrometheusExporterProtocol, RingMetricsCollector
from hypervisor_consumers.ring_metrics.exporters import OpenTelemetryExporter, PrometheusClientExporter
from hypervisor_consumers.saga_spans.exporter import SagaSpanExporter
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanSink
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.exporters import PublisherCollector, observe_publisher
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
from hypervisor_producers.governance.labels import GovernanceLabels
from hypervisor_producers.metrics import PublisherStats
from hypervisor_producers.publisher import EventPublisher, FlushResult
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.errors import SettingError, TelemetryError
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent
from hypervisor_telemetry.index_client.remote_event_bus import RemoteEventBus

if TYPE_CHECKING:
    from hypervisor_consumers.saga_spans.otel_sink import OTelSpanSink as OTelSpanSink

__version__ = "0.1.0"

__all__ = [
    "CausalTraceId",
    "EventPublisher",
    "EventType",
    "FlushResult",
    "GovernanceEventType",
    "GovernanceLabels",
    "GovernanceMetrics",
    "HypervisorEvent",
    "HypervisorEventBus",
    "OpenTelemetryExporter",
    "PrometheusClientExporter",
    "PrometheusExporterProtocol",
    "PublisherCollector",
    "PublisherStats",
    "RemoteEventBus",
    "RingMetricsCollector",
    "SagaSpanExporter",
    "SagaSpanRecord",
    "SettingError",
    "SpanSink",
    "TelemetryError",
    "observe_publisher",
]


def __getattr__(name: str) -> Any:
    if name != "OTelSpanSink":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from hypervisor_consumers.saga_spans.otel_sink import OTelSpanSink  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ImportError(
            "OTelSpanSink needs the OpenTelemetry SDK; install it with: "
            "pip install 'hypervisor-telemetry[opentelemetry]'"
        ) from error
    return OTelSpanSink
