"""Governance states to metric families, for the service's `/metrics`."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import TypeAlias

from prometheus_client.metrics_core import Metric

from hypervisor_consumers.governance_metrics.fold.state import (
    ALLOW,
    AUDITED,
    DENY,
    OVERFLOWED,
    Decisions,
    GovernanceState,
)
from hypervisor_consumers.governance_metrics.metric_defs import (
    ACTIVE_AGENTS,
    AUDIT_EVENTS,
    CHOSEN_LABELS,
    DENIALS,
    EVALUATION_LATENCY,
    POLICY_DECISIONS,
    RATE_LIMIT_HITS,
    TOOL_CALLS_ALLOWED,
    TOOL_CALLS_BLOCKED,
    TRUST_SCORE,
)
from hypervisor_consumers.runtime.ops.cardinality_families import ceiling_families, with_series
from hypervisor_consumers.runtime.ops.exposition import Row, RowFamily, TextFamily, escaped
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_consumers.runtime.protocols import Home
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS

__all__ = ["governance_families"]

_Shown: TypeAlias = Sequence[tuple[tuple[str, ...], Decisions]]
"""Series of decisions by their label values: the decision, the partition, the chosen labels."""

_NONE_YET = Decisions()


def governance_families(
    states: Mapping[int, GovernanceState], *, labels: Collection[str] = (), home_partitions: int | None = None
) -> list[Metric]:
    """All metrics of the service, in a fixed order.

    Args:
        states: The state of each partition of the events.
        labels: Those of the fold of the states. What was counted with other labels is not shown.
        home_partitions: The number of partitions that the source had before it grew, if it is known. Since then
            events of some agents come to another partition, where the trust score has the label `partition`.
    """
    chosen = tuple(label for label in CHOSEN_LABELS if label in labels)
    decisions = list(_decisions(states, chosen))

    def counter(metric: MetricDef, count_of: Callable[[Decisions], int], *chosen_decisions: str) -> RowFamily:
        counts = [(values, count_of(series)) for values, series in decisions if values[0] in chosen_decisions]
        # Without more labels there are few series, and a rate sees the first event only after a 0.
        return _rows(metric, [row for row in counts if row[1] or not chosen], *chosen)

    return with_series(
        [
            counter(POLICY_DECISIONS, _count_of, ALLOW, DENY),
            counter(TOOL_CALLS_ALLOWED, _count_of, ALLOW),
            counter(TOOL_CALLS_BLOCKED, _count_of, DENY),
            counter(RATE_LIMIT_HITS, _rate_limited_of, ALLOW, DENY),
            _latency(decisions, chosen),
            _trust_scores(states, home_partitions),
            _rows(
                ACTIVE_AGENTS, [((str(partition),), _active(state)) for partition, state in sorted(states.items())]
            ),
            _rows(
                AUDIT_EVENTS,
                [((str(partition),), state.totals[AUDITED] or 0) for partition, state in sorted(states.items())],
            ),
            _rows(
                DENIALS,
                [
                    ((tool, str(partition)), denials.count)
                    for partition, state in sorted(states.items())
                    for (tool,), denials in state.denials.present()
                ],
            ),
            *ceiling_families(
                {partition: _kept(state) for partition, state in states.items()},
                {partition: state.totals[OVERFLOWED] or 0 for partition, state in states.items()},
            ),
        ]
    )


def _decisions(
    states: Mapping[int, GovernanceState], chosen: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Decisions]]:
    keeps = tuple(label in chosen for label in CHOSEN_LABELS)
    for partition, state in sorted(states.items()):
        if not chosen:
            for decision in (ALLOW, DENY):
                yield (decision, str(partition)), state.decisions[decision, "", ""] or _NONE_YET
            continue
        for key, series in state.decisions.present():
            decision, *values = key
            if tuple(map(bool, values)) == keeps:
                yield (decision, str(partition), *filter(None, values)), series


def _count_of(series: Decisions) -> int:
    return series.count


def _rate_limited_of(series: Decisions) -> int:
    return series.rate_limited


def _rows(metric: MetricDef, rows: Sequence[Row], *more_labels: str) -> RowFamily:
    return RowFamily(metric.name, metric.help, metric.type, (*metric.labels, *more_labels), rows)


def _kept(state: GovernanceState) -> int:
    return max(state.decisions.size, state.denials.size, state.agents.size)


def _active(state: GovernanceState) -> int:
    return sum(agent.is_active for _, agent in state.agents.present())


def _trust_scores(states: Mapping[int, GovernanceState], home_partitions: int | None) -> RowFamily:
    latest: dict[tuple[str, ...], tuple[int, str, float]] = {}
    for partition, state in sorted(states.items()):
        for (agent,), current in state.agents.present():
            if current.score is None:
                continue
            is_at_home = home_partitions is None or _is_at_home(agent, partition, home_partitions)
            values = (agent,) if is_at_home else (agent, str(partition))
            score = current.score_at_us, current.score_event_id, current.score
            # Somebody may have sent an agent's events to several partitions.
            latest[values] = max(score, latest.get(values, score))
    rows = [(values, score) for values, (_, _, score) in latest.items()]
    return RowFamily(TRUST_SCORE.name, TRUST_SCORE.help, TRUST_SCORE.type, (*TRUST_SCORE.labels, "partition"), rows)


# A hash of every agent at every scrape would be most of a scrape's cost.
@lru_cache(maxsize=1_000_000)
def _is_at_home(agent: str, partition: int, partitions: int) -> bool:
    return Home(partition, partitions).holds(agent.encode())


_BOUNDS = (*map(str, LATENCY_BUCKETS_MS), "+Inf")


def _latency(decisions: _Shown, chosen: tuple[str, ...]) -> TextFamily:
    """The histogram as text: objects for each bucket of each agent and tool would take seconds at each scrape."""
    metric = EVALUATION_LATENCY
    family = TextFamily(metric.name, metric.help, metric.type)
    # Sorted by name, as in the other families.
    names = sorted((*metric.labels, *chosen))
    order = [(*metric.labels, *chosen).index(name) for name in names]
    before_le = bisect(names, "le")
    for values, series in decisions:
        timed = sum(series.buckets)
        if chosen and not timed:
            continue
        pairs = [f'{name}="{escaped(values[index])}"' for name, index in zip(names, order, strict=True)]
        labels, before, behind = ",".join(pairs), ",".join(pairs[:before_le]), ",".join(pairs[before_le:])
        lines = [
            f'{metric.name}_bucket{{{before},le="{bound}",{behind}}} {count}.0\n'
            for bound, count in zip(_BOUNDS, accumulate(series.buckets), strict=True)
        ]
        lines += [
            f"{metric.name}_count{{{labels}}} {timed}.0\n",
            f"{metric.name}_sum{{{labels}}} {series.nanoseconds / 1e6}\n",
        ]
        family.add("".join(lines).encode(), len(lines))
    return family
