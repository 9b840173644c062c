"""Metric families of ring states and of the rows of agent-rings, for the service's `/metrics`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from prometheus_client.core import HistogramMetricFamily, Metric

from hypervisor_consumers.ring_metrics.fold.agent_rings import current_rings, elevation_seconds, elevations_active
from hypervisor_consumers.ring_metrics.fold.event_fold import TRANSITION_TYPES
from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, AgentSession, RingSeries, RingState
from hypervisor_consumers.ring_metrics.metric_defs import (
    CURRENT_RING,
    ELEVATION_BUCKETS_SECONDS,
    ELEVATION_DURATION,
    ELEVATION_SECONDS,
    ELEVATIONS_ACTIVE,
    RING_BREACHES,
    RING_TRANSITIONS,
)
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN
from hypervisor_consumers.runtime.ops.cardinality_families import ceiling_families, with_series
from hypervisor_consumers.runtime.ops.exposition import Row, RowFamily, TextFamily
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.topics import partition_of

__all__ = ["is_in_one_place", "ring_families"]

_NOT_KNOWN = frozenset({"", UNKNOWN})

_LabelValues: TypeAlias = tuple[str, ...]
"""The values of the labels that are kept, then the partition if the series has that label."""


def ring_families(
    states: Mapping[int, RingState],
    rows: Mapping[int, Mapping[AgentSession, AgentRing]],
    now: float,
    *,
    labels: Collection[str] = RING_TRANSITIONS.labels,
    home_partitions: int | None = None,
    counters: Sequence[TextFamily] | None = None,
    gauges: Sequence[TextFamily] | None = None,
) -> list[Metric]:
    """All metrics of the service, in a fixed order.

    A counter's series lies in one partition, that of its session, else of its agent. A series that can lie in
    several has the label `partition`: a sum over them would fall when a partition moves to another copy, and look
    like a counter that began anew.

    Args:
        states: The state of each partition of the events, for the counters and the histogram.
        rows: The rows of each partition of agent-rings, for the gauges per agent.
        now: Seconds since 1970, for the age of running elevations.
        labels: The labels that the counters keep, those of the fold of the states. Series that were counted with
            other labels are not shown.
        home_partitions: The number of partitions that the source had before it grew; None if it never has, which
            spares a hash per series. Since then events of some sessions come to another partition, where their
            series have the label `partition`.
        counters: Both counters, if their lines are made already.
        gauges: The three gauges per agent, if their lines are made already.
    """
    families = [
        *(counters or _counters(states, labels, home_partitions)),
        *(gauges or _gauges(rows, now)),
        _elevation_histogram(states),
        *_ceiling(states),
    ]
    return with_series(families)


def _counters(
    states: Mapping[int, RingState], labels: Collection[str], home_partitions: int | None
) -> tuple[RowFamily, RowFamily]:
    counted = list(_counted(states, labels, home_partitions))
    return _transitions(counted, labels), _breaches(counted, labels)


def _counted(
    states: Mapping[int, RingState], labels: Collection[str], home_partitions: int | None
) -> Iterator[tuple[_LabelValues, RingSeries]]:
    keeps_agent, keeps_session = "agent_did" in labels, "session_id" in labels
    for partition, state in states.items():
        label = (str(partition),)
        is_plain = keeps_agent and keeps_session and home_partitions is None
        for key, series in state.series.present():
            agent, session = key
            if is_plain and agent and session not in _NOT_KNOWN and key != OVERFLOW:
                yield key, series  # nearly all are so
                continue
            # If a label is left out, keys that have it hold no counts, or those of former labels.
            if (bool(agent) != keeps_agent or bool(session) != keeps_session) and key != OVERFLOW:
                continue
            kept = key if keeps_agent and keeps_session else (agent,) * keeps_agent + (session,) * keeps_session
            yield kept if _is_in_one_place(key, partition, home_partitions) else kept + label, series


def is_in_one_place(key: AgentSession, partition: int, home_partitions: int | None) -> bool:
    """Whether the series can lie in no other partition, and so goes without the label `partition`."""
    agent, session = key
    if session not in _NOT_KNOWN:
        record_key = session
    elif session and agent not in _NOT_KNOWN:
        record_key = agent
    else:
        return False
    if key == OVERFLOW:
        return False
    return home_partitions is None or partition_of(record_key.encode(), home_partitions) == partition


# A hash of every series at every scrape would be most of a scrape's cost.
_is_in_one_place = lru_cache(maxsize=1_000_000)(is_in_one_place)


def _transitions(counted: list[tuple[_LabelValues, RingSeries]], labels: Collection[str]) -> RowFamily:
    if "event_type" not in labels:
        return _counter(RING_TRANSITIONS, labels, [(kept, sum(series.transitions)) for kept, series in counted])
    assigned, elevated, demoted, expired = TRANSITION_TYPES
    # A loop for each: most series have few of them, and there may be many series.
    return _counter(
        RING_TRANSITIONS,
        labels,
        [
            *[((assigned, *kept), series.assigned) for kept, series in counted if series.assigned],
            *[((elevated, *kept), series.elevated) for kept, series in counted if series.elevated],
            *[((demoted, *kept), series.demoted) for kept, series in counted if series.demoted],
            *[((expired, *kept), series.elevation_expired) for kept, series in counted if series.elevation_expired],
        ],
    )


def _breaches(counted: list[tuple[_LabelValues, RingSeries]], labels: Collection[str]) -> RowFamily:
    return _counter(RING_BREACHES, labels, [(kept, series.breaches) for kept, series in counted if series.breaches])


def _counter(metric: MetricDef, labels: Collection[str], counts: Sequence[Row]) -> RowFamily:
    # Most series have no `partition`.
    names = (*(label for label in metric.labels if label in labels), "partition")
    totals = dict(counts)
    if len(totals) < len(counts) or 0 in totals.values():
        # A label is left out, or somebody has sent a session's events to several partitions.
        totals = {}
        for label_values, count in counts:
            if count:
                totals[label_values] = totals.get(label_values, 0) + count
    return RowFamily(metric.name, metric.help, metric.type, names, list(totals.items()))


def _gauges(rows: Mapping[int, Mapping[AgentSession, AgentRing]], now: float) -> tuple[RowFamily, ...]:
    of_agents = [row for partition_rows in rows.values() for row in partition_rows.values()]
    return (
        _gauge(CURRENT_RING, current_rings(of_agents)),
        _gauge(ELEVATION_DURATION, elevation_seconds(of_agents, now)),
        _gauge(ELEVATIONS_ACTIVE, elevations_active(of_agents)),
    )


def _gauge(metric: MetricDef, values: Mapping[str, float]) -> RowFamily:
    rows: list[Row] = [((agent,), value) for agent, value in values.items()]
    return RowFamily(metric.name, metric.help, metric.type, metric.labels, rows)


def _elevation_histogram(states: Mapping[int, RingState]) -> Metric:
    family = HistogramMetricFamily(ELEVATION_SECONDS.name, ELEVATION_SECONDS.help, labels=ELEVATION_SECONDS.labels)
    for partition, state in sorted(states.items()):
        ended = [(float(bound), bucket) for (bound,), bucket in state.elevations.present()]
        # By comparison, not by name: a state that was kept from a version with other bounds stays whole.
        buckets = [
            (str(float(limit)), float(sum(bucket.count for bound, bucket in ended if bound <= limit)))
            for limit in ELEVATION_BUCKETS_SECONDS
        ]
        buckets.append(("+Inf", float(sum(bucket.count for _, bucket in ended))))
        family.add_metric([str(partition)], buckets, sum(bucket.microseconds for _, bucket in ended) / 1e6)
    return family


def _ceiling(states: Mapping[int, RingState]) -> list[Metric]:
    rows = {partition: state.series[OVERFLOW] for partition, state in states.items()}
    return ceiling_families(
        {partition: state.series.size for partition, state in states.items()},
        {partition: 0 if row is None else row.overflowed for partition, row in rows.items()},
    )
