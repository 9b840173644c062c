"""Every metric of saga-spans, declared once; `docs/metrics.md` is made from here."""

from __future__ import annotations

from hypervisor_consumers.runtime.ops.metric_defs import MetricDef

__all__ = [
    "COMPENSATIONS",
    "FAN_OUTS",
    "LATE_EVENTS",
    "OLDEST_OPEN",
    "SAGAS",
    "SAGAS_OPEN",
    "SAGA_DURATION",
    "SAGA_METRICS",
    "STEPS",
    "STEP_DURATION",
]


SAGAS_OPEN = MetricDef(
    "agent_hypervisor_sagas_open",
    "gauge",
    ("age",),
    "Sagas that have not ended, by the time since their first event was published: under 1m, 10m, 1h, 1d, older.",
)
OLDEST_OPEN = MetricDef(
    "agent_hypervisor_saga_oldest_open_seconds",
    "gauge",
    (),
    "Time since the first event of the oldest saga that has not ended was published; 0 where none is open.",
)
SAGAS = MetricDef(
    "agent_hypervisor_sagas_total",
    "counter",
    ("result",),
    "Sagas that have ended: ok, error (escalated), timed_out.",
)
STEPS = MetricDef(
    "agent_hypervisor_saga_steps_total",
    "counter",
    ("result",),
    "Steps that have ended: ok, error, timed_out (with their saga), unfinished (open when their saga ended).",
)
COMPENSATIONS = MetricDef("agent_hypervisor_saga_compensations_total", "counter", (), "Compensations.")
FAN_OUTS = MetricDef(
    "agent_hypervisor_saga_fan_outs_total", "counter", ("result",), "Fan-outs that have ended, as steps."
)
LATE_EVENTS = MetricDef(
    "agent_hypervisor_saga_late_events_total",
    "counter",
    ("event_type",),
    "Events of a saga that had ended already, of which nothing is exported: a second end, an end after a time-out.",
)
SAGA_DURATION = MetricDef(
    "agent_hypervisor_saga_duration_seconds",
    "histogram",
    ("result",),
    "How long sagas took. Scraped as OpenMetrics, each bucket has the last span in it as its exemplar.",
)
STEP_DURATION = MetricDef(
    "agent_hypervisor_saga_step_duration_seconds",
    "histogram",
    ("result",),
    "How long steps took, with exemplars as above.",
)

SAGA_METRICS = (
    SAGAS_OPEN,
    OLDEST_OPEN,
    SAGAS,
    STEPS,
    COMPENSATIONS,
    FAN_OUTS,
    LATE_EVENTS,
    SAGA_DURATION,
    STEP_DURATION,
)
