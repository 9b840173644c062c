"""The eight governance metrics of this process for prometheus-client, under their exact names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hypervisor_producers.governance.agents import GovernedAgents
from hypervisor_producers.governance.counts import DecisionSeries
from hypervisor_producers.governance.errors import GOVERNANCE_OVERFLOW, GOVERNANCE_TROUBLES, Troubles
from hypervisor_producers.governance.labels import ALLOW, DENY, GovernanceLabels, LabelValues
from hypervisor_schemas.extras import importing_extra
from hypervisor_schemas.governance import (
    ACTIVE_AGENTS,
    AUDIT_EVENTS,
    EVALUATION_LATENCY,
    LATENCY_BUCKETS_MS,
    POLICY_DECISIONS,
    RATE_LIMIT_HITS,
    TOOL_CALLS_ALLOWED,
    TOOL_CALLS_BLOCKED,
    TRUST_SCORE,
)

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["GovernanceCollector", "Read"]

_BOUNDS = (*map(str, LATENCY_BUCKETS_MS), "+Inf")

Read = Callable[[], tuple[dict[tuple[str, LabelValues], DecisionSeries], int]]
"""Gives the decisions and the audit events as they are now, of one moment."""


class GovernanceCollector:
    """A collector of prometheus-client. No `_created` series beside the counters."""

    def __init__(self, read: Read, labels: GovernanceLabels, agents: GovernedAgents, troubles: Troubles) -> None:
        self._read = read
        self._labels = ("decision", *labels.names)
        self._agents = agents
        self._troubles = troubles

    def describe(self) -> Iterable[Metric]:
        """Names and types, for the registry's check; no callback is called for them."""
        return self._families({}, 0, {}, None)

    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now."""
        decisions, audits = self._read()
        # The gauges first: what goes wrong with them is in the counter below.
        return self._families(decisions, audits, self._agents.scores(), self._agents.active())

    def _families(
        self,
        decisions: dict[tuple[str, LabelValues], DecisionSeries],
        audits: int,
        scores: Any,
        active: float | None,
    ) -> list[Metric]:
        with importing_extra("prometheus", "GovernanceMetrics"):
            from prometheus_client.core import (  # noqa: PLC0415 - an extra
                CounterMetricFamily,
                GaugeMetricFamily,
                HistogramMetricFamily,
            )

        all_of, allowed, blocked, limited = (
            CounterMetricFamily(one.prometheus_name, one.help, labels=self._labels)
            for one in (POLICY_DECISIONS, TOOL_CALLS_ALLOWED, TOOL_CALLS_BLOCKED, RATE_LIMIT_HITS)
        )
        latency = HistogramMetricFamily(
            EVALUATION_LATENCY.prometheus_name, EVALUATION_LATENCY.help, labels=self._labels
        )
        by_decision = {ALLOW: allowed, DENY: blocked}
        for (decision, values), series in decisions.items():
            labels = (decision, *values)
            all_of.add_metric(labels, series.decisions)
            by_decision[decision].add_metric(labels, series.decisions)
            limited.add_metric(labels, series.rate_limit_hits)
            latency.add_metric(labels, list(zip(_BOUNDS, series.cumulative(), strict=True)), series.latency_sum)
        audit = CounterMetricFamily(AUDIT_EVENTS.prometheus_name, AUDIT_EVENTS.help, value=audits)
        score = GaugeMetricFamily(TRUST_SCORE.prometheus_name, TRUST_SCORE.help, labels=["agent_id"])
        for agent, value in scores.items():
            score.add_metric([agent], value)
        agents = GaugeMetricFamily(ACTIVE_AGENTS.prometheus_name, ACTIVE_AGENTS.help)
        if active is not None:
            agents.add_metric([], active)
        trouble = CounterMetricFamily(*GOVERNANCE_TROUBLES, labels=["reason"])
        for reason, count in self._troubles.counts.items():
            trouble.add_metric([reason], count)
        overflow = CounterMetricFamily(*GOVERNANCE_OVERFLOW, value=self._troubles.overflowed)
        return [all_of, allowed, blocked, limited, latency, score, agents, audit, trouble, overflow]
