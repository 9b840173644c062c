"""Families that every service with many series shows: how many they are, and what went beyond the ceiling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.exposition import RowFamily, TextFamily
from hypervisor_consumers.runtime.series import SERIES, SERIES_OVERFLOW

__all__ = ["overflow_family", "with_series"]


def overflow_family(overflowed: Mapping[int, int]) -> Metric:
    """The counter of events beyond the ceiling, by partition."""
    family = CounterMetricFamily(SERIES_OVERFLOW.name, SERIES_OVERFLOW.help, labels=SERIES_OVERFLOW.labels)
    for partition, count in sorted(overflowed.items()):
        family.add_metric([str(partition)], count)
    return family


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
