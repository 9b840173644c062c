"""The account of a process's partitions, and what `/metrics` shows of it; `own_metrics` declares it."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.processor import TopicPartition

__all__ = ["RuntimeMetrics"]

_LATENCY_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_RESTORE_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
_TRANSACTION_BOUNDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_NO_RESULTS = dict.fromkeys(RESULTS, 0)
_REMEMBERED_COMMITS = 1000
"""Kafka is asked every few seconds, commits are many times as frequent: its answer is one of the last so many."""


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


@dataclass(slots=True)
class _Entry:
    account: Account | None = None
    end: int = -1
    is_restored: bool = False
    commits: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_COMMITS))
    """The offset of each commit, and how many offsets were accounted for by then."""
    distance: int | None = None
    difference: int = 0


class RuntimeMetrics:
    """The account of the partitions that this process has: what became of every offset. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[TopicPartition, _Entry] = {}
        self.log_ends = LogEnds()
        """Those that the service answers for, whoever reads them."""
        self._restores = _Histogram(RESTORE_SECONDS, _RESTORE_BOUNDS)
        self._latencies = _Histogram(LATENCY, _LATENCY_BOUNDS)
        self._transactions = _Histogram(TRANSACTION_SECONDS, _TRANSACTION_BOUNDS)
        self._outcomes: Counter[str] = Counter()
        self._rebalances = self._changelog_records = self._changelog_bytes = self._outputs_refused = 0

    def rebalanced(self, came: Iterable[TopicPartition] = (), went: Iterable[TopicPartition] = ()) -> None:
        """Partitions came, with nothing known of them yet, or went."""
        with self._lock:
            self._rebalances += 1
            for topic_partition in came:
                self._entries[topic_partition] = _Entry()
            for topic_partition in went:
                self._entries.pop(topic_partition, None)

    def restored(self, topic_partition: TopicPartition, account: Account, seconds: float) -> None:
        """What is kept of a partition was brought back."""
        with self._lock:
            entry = self._entries.setdefault(topic_partition, _Entry())
            entry.is_restored = True
            entry.commits.clear()
            self._restores.add(seconds)
        self.committed(topic_partition, account)

    def lost_sight(self, topic_partition: TopicPartition) -> None:
        """A partition is being restored once more."""
        with self._lock:
            self._entries[topic_partition] = _Entry()

    def committed(self, topic_partition: TopicPartition, account: Account) -> None:
        """The account of a partition after a commit."""
        with self._lock:
            entry = self._entries.get(topic_partition)
            if entry is not None:
                entry.account = account
                entry.commits.append((account.next_offset, sum(account.results.values())))

    def accounts(self) -> dict[TopicPartition, Account | None]:
        """The partitions that this process has, and their accounts after the last commit, where there was one."""
        with self._lock:
            return {topic_partition: entry.account for topic_partition, entry in self._entries.items()}

    def end_of(self, topic_partition: TopicPartition) -> int | None:
        """Where the log of a partition ends, as far as it is known."""
        with self._lock:
            entry = self._entries.get(topic_partition)
            return None if entry is None or entry.end < 0 else entry.end

    def ended(self, topic_partition: TopicPartition, end: int) -> None:
        """The log of a partition ends just before `end`."""
        with self._lock:
            entry = self._entries.get(topic_partition)
            if entry is not None:
                entry.end = end

    def kafka_says(self, topic_partition: TopicPartition, committed: int) -> None:
        """Kafka's own word on where the group stands."""
        with self._lock:
            entry = self._entries.get(topic_partition)
            if entry is None or entry.account is None:
                return
            accounted = next((count for offset, count in reversed(entry.commits) if offset == committed), None)
            if accounted is not None:
                entry.distance = committed - entry.account.first_offset
                entry.difference = entry.distance - accounted

    def concluded(
        self, outcome: str, seconds: float, published: Mapping[int, int] | None = None, now: int = 0
    ) -> None:
        """A transaction ended; `published`: times of publishing (ms) of its records, and how many of each."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._transactions.add(seconds)
            for at, records in (published or {}).items():
                self._latencies.add(max(0, now - at) / 1000, records)

    def refused(self) -> None:
        """An output was refused for good."""
        with self._lock:
            self._outputs_refused += 1

    def wrote(self, records: int, size: int) -> None:
        """So many records of so many bytes went to the changelog."""
        with self._lock:
            self._changelog_records += records
            self._changelog_bytes += size

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
        with self._lock:
            for topic_partition, entry in sorted(self._entries.items()):
                where = (topic_partition.topic, str(topic_partition.partition))
                restored.add_metric(where, entry.is_restored)
                account = entry.account
                if account is None or not may_show:
                    continue
                # All from the start: a rate needs the zero before the first.
                for result, count in sorted({**_NO_RESULTS, **account.results}.items()):
                    records.add_metric((*where, result), count)
                position.add_metric(where, account.next_offset)
                behind = max(0, entry.end - account.next_offset)
                lag.add_metric(where, behind)
                age = now - account.published / 1000 if behind and account.published else 0
                lag_seconds.add_metric(where, max(0.0, age))
                if entry.distance is not None:
                    distance.add_metric(where, entry.distance)
                    difference.add_metric(where, entry.difference)
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
                _single(CHANGELOG_RECORDS, self._changelog_records),
                _single(CHANGELOG_BYTES, self._changelog_bytes),
                _single(REBALANCES, self._rebalances),
                _single(OUTPUTS_REFUSED, self._outputs_refused),
                _single(FLOOD, dead_letter_rate),
                _single(DEGRADED, degraded),
                _single(READY, ready),
                _single(HELD, held),
            ]


def _single(metric: MetricDef, value: float) -> Metric:
    family = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    return family(metric.name, metric.help, value=value)
