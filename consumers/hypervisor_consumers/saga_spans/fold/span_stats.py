"""Counts and durations of spans by kind and result. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["BUCKETS_SECONDS", "LATE", "Exemplar", "Total", "counted", "kind_of"]

_FROM_1_S = map(float, (1, 5, 10, 30, 60, 300, 900, 3600, 14_400, 86_400))
BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, *_FROM_1_S)
"""Upper bounds of the buckets; the last bucket has none. From a tool call to a saga of a day."""

LATE = "late"
"""The kind that counts events whose span was exported before they came, by event type."""

_MOST_MICROSECONDS = 2**63 - 1


class Exemplar(msgspec.Struct, frozen=True, array_like=True):
    """The last span of a bucket."""

    trace_id: str
    span_id: str
    seconds: float
    time: float
    """The end of the span, in seconds since 1970."""


class Total(msgspec.Struct, frozen=True, array_like=True):
    """The sum of the spans of one kind and result."""

    count: int = 0
    microseconds: int = 0
    """The sum of their durations."""
    buckets: tuple[int, ...] = ()
    """The number of spans in each, not cumulative."""
    exemplars: tuple[Exemplar | None, ...] = ()


_EMPTY = Total(0, 0, (0,) * (len(BUCKETS_SECONDS) + 1), (None,) * (len(BUCKETS_SECONDS) + 1))


def kind_of(span: SagaSpanRecord) -> str:
    """`saga`, `step`, `fan_out` or `compensation`."""
    if span.parent_span_id is None:
        return "saga"
    if span.status == "compensating":
        return "compensation"
    return "fan_out" if span.name.startswith("saga.fanout.") else "step"


def counted(total: Total | None, spans: Sequence[SagaSpanRecord]) -> Total:
    """The total after these spans, in their order."""
    old = total or _EMPTY
    buckets, exemplars = list(old.buckets), list(old.exemplars)
    microseconds = old.microseconds
    for span in spans:
        seconds = span.end_time - span.start_time
        at = bisect_left(BUCKETS_SECONDS, seconds)
        buckets[at] += 1
        exemplars[at] = Exemplar(span.trace_id, span.span_id, seconds, span.end_time)
        microseconds += round(seconds * 1e6)
    # Clocks may say anything; a sum beyond 64 bits could not be written to the changelog.
    microseconds = min(microseconds, _MOST_MICROSECONDS)
    return Total(old.count + len(spans), microseconds, tuple(buckets), tuple(exemplars))
