"""Ring states to prometheus-client metric families, for the service's `/metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Sample

from hypervisor_consumers.ring_metrics.fold import (
    UNKNOWN,
    RingState,
    current_rings,
    elevation_seconds,
    elevations_active,
)
from hypervisor_consumers.ring_metrics.names import (
    CURRENT_RING,
    ELEVATION_BUCKETS,
    ELEVATION_DURATION,
    ELEVATION_SECONDS,
    ELEVATIONS_ACTIVE,
    RING_BREACHES,
    RING_TRANSITIONS,
    RingMetric,
)

__all__ = ["ring_families"]

Series = TypeVar("Series", bound=tuple[str, ...])


def ring_families(states: Mapping[int, RingState], now: float) -> list[Metric]:
    """All metrics of the service, in a fixed order.

    Args:
        states: Per partition, what is shown of it.
        now: Seconds since 1970, for the age of running elevations.
    """
    of_all = list(states.values())
    return [
        _counter(RING_TRANSITIONS, {partition: state.transitions for partition, state in states.items()}),
        _counter(RING_BREACHES, {partition: state.breaches for partition, state in states.items()}),
        _gauge(CURRENT_RING, current_rings(of_all)),
        _gauge(ELEVATION_DURATION, elevation_seconds(of_all, now)),
        _gauge(ELEVATIONS_ACTIVE, elevations_active(of_all)),
        _elevation_histogram(states),
    ]


def _counter(metric: RingMetric, counts: Mapping[int, Mapping[Series, int]]) -> Metric:
    # A series lies in one partition, that of its session or its agent. Events that name neither lie in all of
    # them; summed, their series would fall when a partition moves away, and look like a counter that began anew.
    totals: dict[tuple[Series, int | None], int] = {}
    for partition, series_counts in counts.items():
        for series, count in series_counts.items():
            spread = series[-2:] == (UNKNOWN, UNKNOWN)
            key = (series, partition if spread else None)
            totals[key] = totals.get(key, 0) + count
    family = CounterMetricFamily(metric.name, metric.help)
    for (series, shown_partition), count in sorted(totals.items()):
        labels = metric.labelled(series)
        if shown_partition is not None:
            labels["partition"] = str(shown_partition)
        family.samples.append(Sample(metric.name, labels, count))
    return family


def _gauge(metric: RingMetric, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for agent, value in sorted(values.items()):
        family.add_metric([agent], value)
    return family


def _elevation_histogram(states: Mapping[int, RingState]) -> Metric:
    family = HistogramMetricFamily(ELEVATION_SECONDS.name, ELEVATION_SECONDS.help, labels=ELEVATION_SECONDS.labels)
    for partition, state in sorted(states.items()):
        counted = [(float(bound), *entry) for bound, entry in state.elevations.items()]
        # By comparison, not by name: a state that was kept from a version with other bounds stays whole.
        buckets = [
            (str(float(limit)), float(sum(count for bound, count, _ in counted if bound <= limit)))
            for limit in ELEVATION_BUCKETS
        ]
        buckets.append(("+Inf", float(sum(count for _, count, _ in counted))))
        family.add_metric([str(partition)], buckets, sum(total for _, _, total in counted) / 1e6)
    return family
