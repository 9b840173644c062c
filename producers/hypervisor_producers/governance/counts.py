"""Decisions and audit events of this process, added up for a scrape. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from hypervisor_producers.governance.labels import ALLOW, DENY, LabelValues
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS

__all__ = ["DecisionSeries", "GovernanceCounts"]


@dataclass(slots=True)
class DecisionSeries:
    """The counts of the decisions that have the same labels."""

    decisions: int = 0
    rate_limit_hits: int = 0
    latency_sum: float = 0.0
    """In milliseconds."""
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BUCKETS_MS) + 1))
    """Decisions by the upper bound (inclusive) of their latency. The last entry has those beyond every bound."""

    def add(self, evaluation_ms: float, rate_limited: bool) -> None:
        """Count one decision."""
        self.decisions += 1
        self.rate_limit_hits += rate_limited
        self.latency_sum += evaluation_ms
        self.buckets[bisect_left(LATENCY_BUCKETS_MS, evaluation_ms)] += 1

    def cumulative(self) -> Sequence[int]:
        """Decisions up to each bound; the last entry has all of them."""
        return list(accumulate(self.buckets))


class GovernanceCounts:
    """The counts of decisions by labels, and of audit events. The caller holds a lock.

    Without chosen labels, every possible series is there from the start: a rate needs the zero before the first
    denial.
    """

    def __init__(self, *, has_labels: bool) -> None:
        self._decisions: dict[tuple[str, LabelValues], DecisionSeries] = {}
        if not has_labels:
            self._decisions = {(decision, ()): DecisionSeries() for decision in (ALLOW, DENY)}
        self.audit_events = 0

    def add_decision(self, decision: str, labels: LabelValues, evaluation_ms: float, rate_limited: bool) -> None:
        """Count one decision."""
        key = decision, labels
        series = self._decisions.get(key)
        if series is None:
            series = self._decisions[key] = DecisionSeries()
        series.add(evaluation_ms, rate_limited)

    def decisions(self) -> dict[tuple[str, LabelValues], DecisionSeries]:
        """A copy of the series, by decision and labels."""
        return {
            key: DecisionSeries(series.decisions, series.rate_limit_hits, series.latency_sum, series.buckets.copy())
            for key, series in self._decisions.items()
        }
