"""Every metric by its exporter, and those that belong to the log: on these, scrapes blank `instance` and `pod`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from hypervisor_consumers.event_index.metric_defs import INDEX_METRICS
from hypervisor_consumers.governance_metrics.metric_defs import GOVERNANCE_METRICS
from hypervisor_consumers.ring_metrics.metric_defs import RING_METRICS
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_consumers.runtime.ops.runtime_metric_defs import SELF_METRICS
from hypervisor_consumers.saga_spans.metric_defs import SAGA_METRICS
from hypervisor_producers.governance.errors import GOVERNANCE_OVERFLOW, GOVERNANCE_TROUBLES
from hypervisor_producers.metrics import PUBLISHER_METRICS
from hypervisor_schemas.governance import GOVERNANCE_INSTRUMENTS

__all__ = [
    "AGENT_JOBS",
    "AGENT_METRICS",
    "SERVICE_JOBS",
    "is_log_owned",
    "log_owned",
    "log_owned_file",
    "series_names",
]

SERVICE_JOBS: Mapping[str, tuple[MetricDef, ...]] = MappingProxyType(
    {
        "agent-hypervisor": (*RING_METRICS, *SELF_METRICS),
        "saga-spans": (*SAGA_METRICS, *SELF_METRICS),
        "event-index": (*INDEX_METRICS, *SELF_METRICS),
        "governance-metrics": (*GOVERNANCE_METRICS, *SELF_METRICS),
    }
)
"""The metrics that each service exports, by its job; the job of `ring-metrics` has the tutorial's name."""

AGENT_JOBS = ("agent-governance", "agents")
"""The jobs of processes that run agents: .NET, and all others. Each process counts for itself."""

AGENT_METRICS: Mapping[str, str] = MappingProxyType(
    {
        **{metric.name: "counter" if metric.is_counter else "gauge" for metric in PUBLISHER_METRICS},
        **{instrument.prometheus_name: instrument.type for instrument in GOVERNANCE_INSTRUMENTS},
        **{f"{name}_total": "counter" for name, _ in (GOVERNANCE_TROUBLES, GOVERNANCE_OVERFLOW)},
    }
)
"""The metrics that an agent's process exports, with their types."""

_PREFIXES = ("agent_hypervisor_", "agent_governance_")
"""Every metric of a service with one of these prefixes belongs to the log."""


def log_owned() -> str:
    """Return the regular expression of the names, for a service's job; Prometheus anchors it at both ends."""
    metrics = {metric.name: metric for exported in SERVICE_JOBS.values() for metric in exported}
    plain = [name for name, metric in metrics.items() if metric.of == "log" and not name.startswith(_PREFIXES)]
    others = "|".join(sorted(name.removeprefix("hypervisor_telemetry_") for name in plain))
    return "|".join([*(f"{prefix}.+" for prefix in _PREFIXES), f"hypervisor_telemetry_({others})"])


def log_owned_file() -> str:
    """Return the content of `log-owned.yml`, for users who write scrape configurations of their own."""
    return f"# Made by `make docs` from the code; edit it there.\nregex: {log_owned()}\n"


def series_names() -> frozenset[str]:
    """Return every name that a series of the services or of an agent can have."""
    types = {metric.name: str(metric.type) for exported in SERVICE_JOBS.values() for metric in exported}
    return frozenset(
        name + ending
        for name, kind in {**types, **AGENT_METRICS}.items()
        for ending in (("_bucket", "_count", "_sum") if kind == "histogram" else ("",))
    )


def is_log_owned(name: str) -> bool:
    """Whether a service's series of this name belong to the log."""
    return re.fullmatch(log_owned(), name) is not None
