"""The metrics of one service process; `runtime_metric_defs` declares them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.kafka.log_ends import LogEnds
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_consumers.runtime.ops.runtime_metric_defs import (
    CHANGELOG_BYTES,
    CHANGELOG_RECORDS,
    DEGRADED,
    DIFFERENCE,
    DISTANCE,
    FLOOD,
    HELD,
    LAG,
    LAG_SECONDS,
    LATENCY,
    OUTPUTS_REFUSED,
    POSITION,
    READY,
    REBALANCES,
    RECORDS,
    RESTORE_SECONDS,
    RESTORED,
    RESULTS,
    TRANSACTION_SECONDS,
    TRANSACTIONS,
)
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.partitions.partition_accounting import PartitionAccounting
from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["RuntimeMetrics"]

_LATENCY_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_RESTORE_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_TRANSACTION_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_NO_RESULTS = dict.fromkeys(RESULTS, 0)


class _Histogram:
    def __init__(self, metric: MetricDef, bounds: Sequence[float]) -> None:
        self._metric = metric
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def family(self) -> Metric:
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family = HistogramMetricFamily(self._metric.name, self._metric.help)
        family.add_metric([], buckets, self._sum)
        return family


class RuntimeMetrics:
    """The metrics of one service process, and the accounts of the partitions that it has. Thread-safe."""

    def __init__(self, assignment: Assignment[Any] | None = None) -> None:
        self.assignment: Assignment[Any] = Assignment() if assignment is None else assignment
        self._lock = threading.Lock()
        self.log_ends = LogEnds()
        """The logs that the service answers for, whoever reads them."""
        self._restores = _Histogram(RESTORE_SECONDS, _RESTORE_BOUNDS)
        self._latencies = _Histogram(LATENCY, _LATENCY_BOUNDS)
        self._transactions = _Histogram(TRANSACTION_SECONDS, _TRANSACTION_BOUNDS)
        self._outcomes: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        """The counters without labels, by name."""

    def rebalanced(self) -> None:
        """Count that partitions came or went."""
        self._count(REBALANCES)

    def restored(self, topic_partition: TopicPartition, account: Account, seconds: float) -> None:
        """Count a partition that was restored."""
        partition = self.assignment.get(topic_partition)
        if partition is not None:
            partition.accounting.restored(account)
        with self._lock:
            self._restores.add(seconds)

    def accounts(self) -> dict[TopicPartition, Account | None]:
        """The partitions of events that this process has, with their accounts after the last commit, if any."""
        return {one.topic_partition: one.accounting.account for one in self.assignment if not one.is_table}

    def end_of(self, topic_partition: TopicPartition) -> int | None:
        """The end of a partition's log, as far as it is known."""
        partition = self.assignment.get(topic_partition)
        return None if partition is None else partition.accounting.log_end

    def concluded(
        self, outcome: str, seconds: float, published_ms: Mapping[int, int] | None = None, now_ms: int = 0
    ) -> None:
        """Count a transaction that ended; `published_ms`: how many of its records were published at each time."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._transactions.add(seconds)
            for at, records in (published_ms or {}).items():
                self._latencies.add(max(0, now_ms - at) / 1000, records)

    def refused(self) -> None:
        """Count an output that was refused for good."""
        self._count(OUTPUTS_REFUSED)

    def wrote(self, records: int, size_bytes: int) -> None:
        """Count what went to the changelog."""
        self._count(CHANGELOG_RECORDS, records)
        self._count(CHANGELOG_BYTES, size_bytes)

    def _count(self, metric: MetricDef, by: int = 1) -> None:
        with self._lock:
            self._counts[metric.name] += by

    def families(
        self,
        *,
        now: float,
        dead_letter_rate: bool,
        degraded: bool,
        ready: bool = False,
        held: bool = False,
        may_show: bool = True,
    ) -> Iterable[Metric]:
        """The self-metrics at `now`, seconds since 1970; without `may_show`, not those that belong to the log."""
        records = CounterMetricFamily(RECORDS.name, RECORDS.help, labels=RECORDS.labels)
        distance, difference, position, lag, lag_seconds, restored = (
            GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (DISTANCE, DIFFERENCE, POSITION, LAG, LAG_SECONDS, RESTORED)
        )
        for one in sorted(self.assignment, key=_name_of):
            if one.is_table:
                continue
            where = (one.topic_partition.topic, str(one.topic_partition.partition))
            accounting, account = one.accounting, one.accounting.account
            restored.add_metric(where, accounting.is_restored)
            if account is None or not may_show:
                continue
            # All from the start: a rate needs the zero before the first.
            for result, count in sorted({**_NO_RESULTS, **account.results}.items()):
                records.add_metric((*where, result), count)
            position.add_metric(where, account.next_offset)
            behind = max(0, (accounting.log_end or 0) - account.next_offset)
            lag.add_metric(where, behind)
            lag_seconds.add_metric(
                where, max(0.0, now - _waiting_since(accounting, account, now)) if behind else 0.0
            )
            if accounting.distance is not None:
                distance.add_metric(where, accounting.distance)
                difference.add_metric(where, accounting.difference)
        with self._lock:
            transactions = CounterMetricFamily(TRANSACTIONS.name, TRANSACTIONS.help, labels=TRANSACTIONS.labels)
            for outcome in ("committed", "aborted", "unknown"):
                transactions.add_metric([outcome], self._outcomes[outcome])
            return [
                records,
                distance,
                difference,
                position,
                lag,
                lag_seconds,
                restored,
                self._restores.family(),
                self._latencies.family(),
                transactions,
                self._transactions.family(),
                _single(CHANGELOG_RECORDS, self._counts[CHANGELOG_RECORDS.name]),
                _single(CHANGELOG_BYTES, self._counts[CHANGELOG_BYTES.name]),
                _single(REBALANCES, self._counts[REBALANCES.name]),
                _single(OUTPUTS_REFUSED, self._counts[OUTPUTS_REFUSED.name]),
                _single(FLOOD, dead_letter_rate),
                _single(DEGRADED, degraded),
                _single(READY, ready),
                _single(HELD, held),
            ]


_name_of = attrgetter("topic_partition")


def _waiting_since(accounting: PartitionAccounting, account: Account, now: float) -> float:
    """The earliest time since which records can wait: when the last record before them was published, if any."""
    if account.published_ms:
        return account.published_ms / 1000
    return now if accounting.behind_since is None else accounting.behind_since


def _single(metric: MetricDef, value: float) -> Metric:
    family = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return family(metric.name, metric.help, value=value)
