"""Telemetry for fleets of AI agents, on Kafka: the names that an agent's code imports.

Each name is loaded when it is first used: an agent pays for what it uses. `OTelSpanSink` needs the extra
`opentelemetry`, and `import *` leaves it out where that is missing. All others need the base install alone.
"""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from typing import TYPE_CHECKING

from hypervisor_schemas.extras import importing_extra
from hypervisor_schemas.version import our_version

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
    "IndexRefused",
    "IndexUnavailable",
    "OTelSpanSink",
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
    "UnknownEventType",
    "observe_publisher",
]

if TYPE_CHECKING:
    from hypervisor_consumers.ring_metrics.collector import PrometheusExporterProtocol, RingMetricsCollector
    from hypervisor_consumers.ring_metrics.exporters import OpenTelemetryExporter, PrometheusClientExporter
    from hypervisor_consumers.saga_spans.exporter import SagaSpanExporter
    from hypervisor_consumers.saga_spans.otel_sink import OTelSpanSink
    from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanSink
    from hypervisor_producers.bus import HypervisorEventBus
    from hypervisor_producers.exporters import PublisherCollector, observe_publisher
    from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
    from hypervisor_producers.governance.labels import GovernanceLabels
    from hypervisor_producers.metrics import PublisherStats
    from hypervisor_producers.publisher import EventPublisher, FlushResult
    from hypervisor_schemas.causal_trace import CausalTraceId
    from hypervisor_schemas.errors import IndexRefused, IndexUnavailable, SettingError, TelemetryError
    from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, UnknownEventType
    from hypervisor_telemetry.index_client.remote_event_bus import RemoteEventBus

    __version__: str
else:
    # Type checkers read the imports above, the interpreter this table. A test compares the two.
    _MODULES = {
        "hypervisor_consumers.ring_metrics.collector": ("PrometheusExporterProtocol", "RingMetricsCollector"),
        "hypervisor_consumers.ring_metrics.exporters": ("OpenTelemetryExporter", "PrometheusClientExporter"),
        "hypervisor_consumers.saga_spans.exporter": ("SagaSpanExporter",),
        "hypervisor_consumers.saga_spans.otel_sink": ("OTelSpanSink",),
        "hypervisor_consumers.saga_spans.spans": ("SagaSpanRecord", "SpanSink"),
        "hypervisor_producers.bus": ("HypervisorEventBus",),
        "hypervisor_producers.exporters": ("PublisherCollector", "observe_publisher"),
        "hypervisor_producers.governance.governance_metrics": ("GovernanceMetrics",),
        "hypervisor_producers.governance.labels": ("GovernanceLabels",),
        "hypervisor_producers.metrics": ("PublisherStats",),
        "hypervisor_producers.publisher": ("EventPublisher", "FlushResult"),
        "hypervisor_schemas.causal_trace": ("CausalTraceId",),
        "hypervisor_schemas.errors": ("IndexRefused", "IndexUnavailable", "SettingError", "TelemetryError"),
        "hypervisor_schemas.events": ("EventType", "GovernanceEventType", "HypervisorEvent", "UnknownEventType"),
        "hypervisor_telemetry.index_client.remote_event_bus": ("RemoteEventBus",),
    }
    _MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
    _EXTRA_OF = {"OTelSpanSink": "opentelemetry"}

    if importlib.util.find_spec("opentelemetry") is None:
        __all__.remove("OTelSpanSink")

    def __getattr__(name):
        if name == "__version__":
            value = our_version()
        elif name in _MODULE_OF:
            value = _load(name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def _load(name):
        extra = _EXTRA_OF.get(name)
        with importing_extra(extra, name) if extra else nullcontext():
            return getattr(importlib.import_module(_MODULE_OF[name]), name)

    def __dir__():
        return sorted([*__all__, "__version__"])
