"""What every service tells about itself, each metric declared once; `docs/metrics.md` is made from here."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.processor import Place

__all__ = ["SELF_METRICS", "Ledger", "SelfMetric"]


@dataclass(frozen=True, slots=True)
class SelfMetric:
    """One metric of the runtime."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help_text: str


RECORDS = SelfMetric(
    "hypervisor_telemetry_records_total",
    "counter",
    ("topic", "partition", "result"),
    "Records read by this process from the partitions it has, by result: applied, ignored, duplicate, "
    "undecodable, unknown_schema, invalid_payload.",
)
POSITION = SelfMetric(
    "hypervisor_telemetry_position",
    "gauge",
    ("topic", "partition"),
    "Offset of the next record that this process will read.",
)
LAG = SelfMetric(
    "hypervisor_telemetry_lag_records",
    "gauge",
    ("topic", "partition"),
    "Records in the log that this process has not read yet; never negative.",
)
RESTORED = SelfMetric(
    "hypervisor_telemetry_partition_restored",
    "gauge",
    ("topic", "partition"),
    "1 once the partition's state includes all that was in its log when this process got it, else 0.",
)
REBALANCES = SelfMetric(
    "hypervisor_telemetry_rebalances_total", "counter", (), "Times that partitions came to this process or went."
)
DEGRADED = SelfMetric(
    "hypervisor_telemetry_degraded",
    "gauge",
    (),
    "1 while the service runs but something it needs is in trouble; /readyz says what.",
)

SELF_METRICS = (RECORDS, POSITION, LAG, RESTORED, REBALANCES, DEGRADED)


@dataclass(slots=True)
class _Account:
    results: Counter[str]
    position: int
    end: int
    is_restored: bool = False


class Ledger:
    """The account of the partitions that this process has: what became of every record. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[Place, _Account] = {}
        self._rebalances = 0

    def opened(self, place: Place, position: int, end: int) -> None:
        """A partition came; its account starts empty."""
        with self._lock:
            self._accounts[place] = _Account(Counter(), position, end)
            self._rebalances += 1

    def closed(self, place: Place) -> None:
        """A partition went."""
        with self._lock:
            self._accounts.pop(place, None)
            self._rebalances += 1

    def add(self, place: Place, results: Mapping[str, int], position: int) -> None:
        """Records up to `position` were read, with these results."""
        with self._lock:
            account = self._accounts[place]
            account.results.update(results)
            account.position = position

    def seen(self, place: Place, end: int, *, is_restored: bool) -> None:
        """The log of a partition ends at `end`."""
        with self._lock:
            account = self._accounts[place]
            account.end = end
            account.is_restored = is_restored

    def families(self, degraded: bool) -> Iterable[Metric]:
        """The self-metrics as they are now."""
        records = CounterMetricFamily(RECORDS.name, RECORDS.help_text, labels=RECORDS.labels)
        position, lag, restored = (
            GaugeMetricFamily(metric.name, metric.help_text, labels=metric.labels)
            for metric in (POSITION, LAG, RESTORED)
        )
        with self._lock:
            for place, account in sorted(self._accounts.items()):
                where = (place.topic, str(place.partition))
                for result, count in sorted(account.results.items()):
                    records.add_metric((*where, result), count)
                position.add_metric(where, account.position)
                lag.add_metric(where, max(0, account.end - account.position))
                restored.add_metric(where, account.is_restored)
            rebalances = CounterMetricFamily(REBALANCES.name, REBALANCES.help_text, value=self._rebalances)
        return [
            records,
            position,
            lag,
            restored,
            rebalances,
            GaugeMetricFamily(DEGRADED.name, DEGRADED.help_text, value=degraded),
        ]
