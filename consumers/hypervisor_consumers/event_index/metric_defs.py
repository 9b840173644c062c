"""The metrics of event-index, declared once; `docs/metrics.md` is made from here."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.ops.metric_defs import MetricDef

__all__ = ["INDEX_METRICS", "index_families"]

EXPIRED = MetricDef(
    "hypervisor_telemetry_index_expired_total",
    "counter",
    ("outcome",),
    "Events older than TELEMETRY_INDEX_RETENTION by what this process did with them: removed, or not_added because "
    "they were too old when they came.",
    of="process",
)

INDEX_METRICS = (EXPIRED,)


def index_families(*, removed: int, not_added: int) -> Iterable[Metric]:
    """The metric families with their values now."""
    expired = CounterMetricFamily(EXPIRED.name, EXPIRED.help, labels=EXPIRED.labels)
    expired.add_metric(["removed"], removed)
    expired.add_metric(["not_added"], not_added)
    return [expired]
