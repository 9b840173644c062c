"""Every metric of governance-metrics, declared once. The first eight are the seed's, from the shared declaration.

`docs/metrics.md` is made from here.
"""

from __future__ import annotations

from hypervisor_consumers.runtime.ops.cardinality import SERIES, SERIES_KEPT, SERIES_LIMIT, SERIES_OVERFLOW
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_schemas import governance

__all__ = [
    "ACTIVE_AGENTS",
    "AUDIT_EVENTS",
    "CHOSEN_LABELS",
    "DENIALS",
    "EVALUATION_LATENCY",
    "GOVERNANCE_METRICS",
    "POLICY_DECISIONS",
    "RATE_LIMIT_HITS",
    "TOOL_CALLS_ALLOWED",
    "TOOL_CALLS_BLOCKED",
    "TRUST_SCORE",
]

CHOSEN_LABELS = ("agent_id", "tool_name")
"""The further labels of metrics per decision, of which `TELEMETRY_GOVERNANCE_LABELS` chooses."""


def _declared(instrument: governance.GovernanceInstrument, *labels: str, more: str = "") -> MetricDef:
    return MetricDef(instrument.prometheus_name, instrument.type, labels, instrument.help + more)


POLICY_DECISIONS = _declared(governance.POLICY_DECISIONS, "decision", "partition")
TOOL_CALLS_ALLOWED = _declared(governance.TOOL_CALLS_ALLOWED, "decision", "partition")
TOOL_CALLS_BLOCKED = _declared(governance.TOOL_CALLS_BLOCKED, "decision", "partition")
RATE_LIMIT_HITS = _declared(governance.RATE_LIMIT_HITS, "decision", "partition")
EVALUATION_LATENCY = _declared(governance.EVALUATION_LATENCY, "decision", "partition")
TRUST_SCORE = _declared(governance.TRUST_SCORE, "agent_id")
ACTIVE_AGENTS = _declared(
    governance.ACTIVE_AGENTS,
    "partition",
    more=" Heard of within TELEMETRY_AGENT_TTL, and not deregistered since they registered or asked last.",
)
AUDIT_EVENTS = _declared(governance.AUDIT_EVENTS, "partition")
DENIALS = MetricDef(
    "agent_governance_denials_total",
    "counter",
    ("tool_name", "partition"),
    "Tool calls that the policy denied, by tool, whatever labels the other metrics have.",
)

GOVERNANCE_METRICS = (
    POLICY_DECISIONS,
    TOOL_CALLS_ALLOWED,
    TOOL_CALLS_BLOCKED,
    RATE_LIMIT_HITS,
    EVALUATION_LATENCY,
    TRUST_SCORE,
    ACTIVE_AGENTS,
    AUDIT_EVENTS,
    DENIALS,
    SERIES_KEPT,
    SERIES_OVERFLOW,
    SERIES,
    SERIES_LIMIT,
)
