"""Counts of events in spans of time of one size."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypervisor_consumers.event_index.query.queries import Wanted
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_schemas.timestamps import microseconds

__all__ = ["MAX_BUCKETS", "TooManyBuckets", "counted_in"]

MAX_BUCKETS = 1000
_MAX_COUNTS = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND = int((datetime.min.replace(tzinfo=UTC) - _EPOCH).total_seconds())


class TooManyBuckets(ValueError):
    """The sentence says what to ask for instead."""


def counted_in(now: Snapshot, wanted: Wanted, seconds: int) -> list[dict[str, Any]]:
    """Per bucket of so many seconds: its `start`, `event_count` and `type_counts`; oldest first, none left out.

    Raises:
        TooManyBuckets: They would be more than a thousand, or hold too many different types.
    """
    start, end = wanted.start, wanted.end
    if start is None or end is None:
        extent = now.extent(wanted)
        if extent is None:
            return []
        start, end = start or extent[0], end or extent[1]
    size = seconds * 1_000_000
    first, last = microseconds(start) // size, microseconds(end) // size
    if last - first >= MAX_BUCKETS:
        least = -(-(last - first + 1) * seconds // (MAX_BUCKETS - 1))
        raise TooManyBuckets(
            f"That would be {last - first + 1:,} buckets; {MAX_BUCKETS:,} are the most. Give {least} or more, or "
            "start and end."
        )
    counts = now.counts_in_time(replace(wanted, start=start, end=end), first * size, size, _MAX_COUNTS + 1)
    if len(counts) > _MAX_COUNTS:
        raise TooManyBuckets("The buckets hold too many different types; give larger ones, or event_type.")
    buckets = [_bucket(number * seconds) for number in range(first, last + 1)]
    for number, event_type, count in counts:
        buckets[number]["event_count"] += count
        buckets[number]["type_counts"][event_type] = count
    return buckets


def _bucket(begins: int) -> dict[str, Any]:
    # The bucket of the very first times may begin before there are any.
    start = _EPOCH + timedelta(seconds=max(begins, _FIRST_SECOND))
    return {"start": start.isoformat(), "event_count": 0, "type_counts": {}}
