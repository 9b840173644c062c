"""Every metric of ring-metrics, declared once. Names, types and labels of the first four are the seed's.

`docs/metrics.md` is made from here.
"""

from __future__ import annotations

from hypervisor_consumers.runtime.ops.cardinality import SERIES, SERIES_KEPT, SERIES_LIMIT, SERIES_OVERFLOW
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef

__all__ = [
    "CURRENT_RING",
    "ELEVATIONS_ACTIVE",
    "ELEVATION_BUCKETS_SECONDS",
    "ELEVATION_DURATION",
    "ELEVATION_SECONDS",
    "RING_BREACHES",
    "RING_METRICS",
    "RING_TRANSITIONS",
]


RING_TRANSITIONS = MetricDef(
    "agent_hypervisor_ring_transitions_total",
    "counter",
    ("event_type", "agent_did", "session_id"),
    "Ring assignments, elevations, demotions and expired elevations.",
)
RING_BREACHES = MetricDef(
    "agent_hypervisor_ring_breaches_total",
    "counter",
    ("agent_did", "session_id"),
    "Attempts to act beyond the capabilities of a ring.",
)
CURRENT_RING = MetricDef(
    "agent_hypervisor_ring_current",
    "gauge",
    ("agent_did",),
    "The ring an agent is in now, 0 (root) to 3 (sandbox).",
)
ELEVATION_DURATION = MetricDef(
    "agent_hypervisor_ring_elevation_duration_seconds",
    "gauge",
    ("agent_did",),
    "Time spent at elevated privilege: the running elevation so far, else the last one that ended.",
)
ELEVATIONS_ACTIVE = MetricDef(
    "agent_hypervisor_ring_elevations_active",
    "gauge",
    ("agent_did",),
    "Sessions in which an agent is elevated now.",
)
ELEVATION_SECONDS = MetricDef(
    "agent_hypervisor_ring_elevation_seconds",
    "histogram",
    ("partition",),
    "How long elevations lasted that have ended.",
)

RING_METRICS = (
    RING_TRANSITIONS,
    RING_BREACHES,
    CURRENT_RING,
    ELEVATION_DURATION,
    ELEVATIONS_ACTIVE,
    ELEVATION_SECONDS,
    SERIES_KEPT,
    SERIES_OVERFLOW,
    SERIES,
    SERIES_LIMIT,
)

ELEVATION_BUCKETS_SECONDS: tuple[int, ...] = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600)
"""Upper bounds (inclusive) of the buckets of `ELEVATION_SECONDS`; one of them is the seed's alert, 5 minutes."""
