"""How many spans there were, by kind and result, and how long they took. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec

from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["BOUNDS", "LATE", "Exemplar", "Total", "counted", "kind_of"]

BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
"""Upper bounds of the buckets, in seconds; the last bucket has none. From a tool call to a saga of a day."""

LATE = "late"
"""A kind beside those of spans: events that came when their span had been exported already, by event type."""

_MOST_MICROSECONDS = 2**63 - 1


class Exemplar(msgspec.Struct, frozen=True, array_like=True):
    """One span of a bucket, the last."""

    trace_id: str
    span_id: str
    seconds: float
    time: float
    """Of its end, in seconds since 1970."""


class Total(msgspec.Struct, frozen=True, array_like=True):
    """Of one kind and result."""

    count: int = 0
    microseconds: int = 0
    """The sum of their lengths."""
    buckets: tuple[int, ...] = ()
    """How many in each, not summed up."""
    exemplars: tuple[Exemplar | None, ...] = ()


_EMPTY = Total(0, 0, (0,) * (len(BOUNDS) + 1), (None,) * (len(BOUNDS) + 1))


def kind_of(span: SagaSpanRecord) -> str:
    """`saga`, `step`, `fan_out` or `compensation`."""
    if span.parent_span_id is None:
        return "saga"
    if span.status == "compensating":
        return "compensation"
    return "fan_out" if span.name.startswith("saga.fanout.") else "step"


def counted(total: Total | None, spans: Sequence[SagaSpanRecord]) -> Total:
    """The total with some spans more, in their order."""
    old = total or _EMPTY
    buckets, exemplars = list(old.buckets), list(old.exemplars)
    microseconds = old.microseconds
    for span in spans:
        seconds = span.end_time - span.start_time
        at = bisect_left(BOUNDS, seconds)
        buckets[at] += 1
        exemplars[at] = Exemplar(span.trace_id, span.span_id, seconds, span.end_time)
        microseconds += round(seconds * 1e6)
    # Clocks may say anything; a sum beyond 64 bits could not be written to the changelog.
    microseconds = min(microseconds, _MOST_MICROSECONDS)
    return Total(old.count + len(spans), microseconds, tuple(buckets), tuple(exemplars))
