"""Prometheus families of the ceiling of series, that every service with many series shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.ops.cardinality import SERIES, SERIES_KEPT, SERIES_LIMIT, SERIES_OVERFLOW
from hypervisor_consumers.runtime.ops.exposition import RowFamily, TextFamily

__all__ = ["ceiling_families", "limit_family", "with_series"]


def ceiling_families(kept: Mapping[int, int], overflowed: Mapping[int, int]) -> list[Metric]:
    """By partition: the series that are kept, and the counter of events beyond the ceiling."""
    gauge = GaugeMetricFamily(SERIES_KEPT.name, SERIES_KEPT.help, labels=SERIES_KEPT.labels)
    for partition, count in sorted(kept.items()):
        gauge.add_metric([str(partition)], count)
    counter = CounterMetricFamily(SERIES_OVERFLOW.name, SERIES_OVERFLOW.help, labels=SERIES_OVERFLOW.labels)
    for partition, count in sorted(overflowed.items()):
        counter.add_metric([str(partition)], count)
    return [gauge, counter]


def limit_family(max_series: int) -> Metric:
    """The ceiling itself."""
    return GaugeMetricFamily(SERIES_LIMIT.name, SERIES_LIMIT.help, value=max_series)


def with_series(families: Iterable[Metric]) -> list[Metric]:
    """These families, and behind them how many series they have."""
    shown = list(families)
    return [*shown, GaugeMetricFamily(SERIES.name, SERIES.help, value=sum(map(_count, shown)))]


def _count(family: Metric) -> int:
    match family:
        case TextFamily():
            return family.count
        case RowFamily():
            return len(family.rows)
        case _:
            return len(family.samples)
