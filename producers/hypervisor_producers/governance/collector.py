"""The eight governance metrics of this process for prometheus-client, under their exact names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hypervisor_producers.governance.agents import GovernedAgents
from hypervisor_producers.governance.counts import DecisionSeries
from hypervisor_producers.governance.errors import GOVERNANCE_OVERFLOW, GOVERNANCE_TROUBLES, TroubleCounts
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

__all__ = ["GovernanceCollector", "ReadCounts"]

_BOUNDS = (*map(str, LATENCY_BUCKETS_MS), "+Inf")

ReadCounts = Callable[[], tuple[dict[tuple[str, LabelValues], DecisionSeries], int]]
"""Returns the decisions and the number of audit events, both of the same moment."""


class GovernanceCollector:
    """A collector of prometheus-client. Its counters have no `_created` series."""

    def __init__(
        self, read_counts: ReadCounts, labels: GovernanceLabels, agents: GovernedAgents, troubles: TroubleCounts
    ) -> None:
        self._read_counts = read_counts
        self._label_names = ("decision", *labels.names)
        self._agents = agents
        self._troubles = troubles

    def describe(self) -> Iterable[Metric]:
        """The metrics without values, for the registry's check of names; calls no callback."""
        return self._families({}, 0, {}, None)

    def collect(self) -> Iterable[Metric]:
        """All metrics as they are now."""
        decisions, audit_events = self._read_counts()
        # The gauges are read first, so that the counter of troubles includes theirs.
        return self._families(decisions, audit_events, self._agents.scores(), self._agents.active())

    def _families(
        self,
        decisions: dict[tuple[str, LabelValues], DecisionSeries],
        audit_events: int,
        scores: Any,
        active: float | None,
    ) -> list[Metric]:
        with importing_extra("prometheus", "GovernanceMetrics"):
            from prometheus_client.core import (  # noqa: PLC0415 - an extra
                CounterMetricFamily,
                GaugeMetricFamily,
                HistogramMetricFamily,
            )

        evaluated, allowed, blocked, limited = (
            CounterMetricFamily(instrument.prometheus_name, instrument.help, labels=self._label_names)
            for instrument in (POLICY_DECISIONS, TOOL_CALLS_ALLOWED, TOOL_CALLS_BLOCKED, RATE_LIMIT_HITS)
        )
        latency = HistogramMetricFamily(
            EVALUATION_LATENCY.prometheus_name, EVALUATION_LATENCY.help, labels=self._label_names
        )
        by_decision = {ALLOW: allowed, DENY: blocked}
        for (decision, values), series in decisions.items():
            labels = (decision, *values)
            evaluated.add_metric(labels, series.decisions)
            by_decision[decision].add_metric(labels, series.decisions)
            limited.add_metric(labels, series.rate_limit_hits)
            latency.add_metric(labels, list(zip(_BOUNDS, series.cumulative(), strict=True)), series.latency_sum)
        audit = CounterMetricFamily(AUDIT_EVENTS.prometheus_name, AUDIT_EVENTS.help, value=audit_events)
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
        return [evaluated, allowed, blocked, limited, latency, score, agents, audit, trouble, overflow]
