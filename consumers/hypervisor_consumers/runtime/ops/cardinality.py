"""The ceiling of series: labels that stand for others, and the metrics of the ceiling itself. Pure."""

from __future__ import annotations

from hypervisor_consumers.runtime.ops.metric_defs import MetricDef

__all__ = ["OVERFLOW_LABEL", "SERIES", "SERIES_KEPT", "SERIES_LIMIT", "SERIES_OVERFLOW", "UNKNOWN"]

UNKNOWN = "unknown"
"""Stands for an absent (or empty) agent, session or tool, as in the package."""

OVERFLOW_LABEL = "__overflow__"
"""Stands for all series beyond the ceiling."""

SERIES_OVERFLOW = MetricDef(
    "hypervisor_telemetry_series_overflow_total",
    "counter",
    ("partition",),
    "Events of series beyond TELEMETRY_MAX_SERIES: counted in an overflow series, or what is current of their "
    "agent is not kept.",
)
SERIES_KEPT = MetricDef(
    "hypervisor_telemetry_series_kept",
    "gauge",
    ("partition",),
    "Series in the state of a partition, of the kind that has most: what TELEMETRY_MAX_SERIES is the ceiling of.",
)
SERIES_LIMIT = MetricDef(
    "hypervisor_telemetry_series_limit", "gauge", (), "TELEMETRY_MAX_SERIES as this process has it.", of="process"
)
SERIES = MetricDef(
    "hypervisor_telemetry_series",
    "gauge",
    (),
    "Series of the service's own metrics that this copy shows.",
    of="process",
)
