"""The metrics of saga-spans, made from its states. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar as ShownExemplar

from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_consumers.saga_spans.fold.span_stats import BUCKETS_SECONDS, LATE, Total
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.metric_defs import (
    COMPENSATIONS,
    FAN_OUTS,
    LATE_EVENTS,
    OLDEST_OPEN,
    SAGA_DURATION,
    SAGAS,
    SAGAS_OPEN,
    STEP_DURATION,
    STEPS,
)

__all__ = ["AGES", "saga_families"]

AGES: Mapping[str, float] = {"1m": 60, "10m": 600, "1h": 3600, "1d": 86_400, "older": float("inf")}
"""Names of the age groups of open sagas, with their upper bounds (exclusive) in seconds."""

_COUNTERS = {"saga": SAGAS, "step": STEPS, "compensation": COMPENSATIONS, "fan_out": FAN_OUTS, LATE: LATE_EVENTS}
_HISTOGRAMS = {"saga": SAGA_DURATION, "step": STEP_DURATION}


def saga_families(states: Mapping[int, SagaState], now: float) -> Iterator[Metric]:
    """The families of these states, by partition, at `now` (seconds since 1970)."""
    yield from _open(states, now)
    for kind, metric in _COUNTERS.items():
        counter = CounterMetricFamily(metric.name, metric.help, labels=_labels(metric))
        for partition, result, total in _totals(states, kind):
            counter.add_metric([*([result] if metric.labels else []), partition], total.count)
        yield counter
    for kind, metric in _HISTOGRAMS.items():
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=_labels(metric))
        for partition, result, total in _totals(states, kind):
            histogram.add_metric([result, partition], _buckets(total), total.microseconds / 1e6)
        yield histogram


def _open(states: Mapping[int, SagaState], now: float) -> Iterator[Metric]:
    by_age = GaugeMetricFamily(SAGAS_OPEN.name, SAGAS_OPEN.help, labels=_labels(SAGAS_OPEN))
    oldest = GaugeMetricFamily(OLDEST_OPEN.name, OLDEST_OPEN.help, labels=_labels(OLDEST_OPEN))
    for partition, state in sorted(states.items()):
        ages = [max(0.0, now - saga.seen_at_ms / 1000) for _, saga in state.sagas.present()]
        lower = -1.0
        for name, upper in AGES.items():
            by_age.add_metric([name, str(partition)], sum([lower <= age < upper for age in ages]))
            lower = upper
        oldest.add_metric([str(partition)], max(ages, default=0.0))
    yield by_age
    yield oldest


def _totals(states: Mapping[int, SagaState], kind: str) -> Iterable[tuple[str, str, Total]]:
    for partition, state in sorted(states.items()):
        for (of, result), total in sorted(state.totals.present()):
            if of == kind:
                yield str(partition), f"saga.{result}" if kind == LATE else result, total


def _buckets(total: Total) -> list[tuple[str, float] | tuple[str, float, ShownExemplar]]:
    count = 0
    buckets: list[tuple[str, float] | tuple[str, float, ShownExemplar]] = []
    for bound, number, exemplar in zip(
        (*map(str, BUCKETS_SECONDS), "+Inf"), total.buckets, total.exemplars, strict=True
    ):
        count += number
        if exemplar is None:
            buckets.append((bound, float(count)))
        else:
            ids = {"trace_id": exemplar.trace_id, "span_id": exemplar.span_id}
            buckets.append((bound, float(count), ShownExemplar(ids, exemplar.seconds, exemplar.time)))
    return buckets


def _labels(metric: MetricDef) -> tuple[str, ...]:
    return (*metric.labels, "partition")
