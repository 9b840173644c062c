"""Counts of events in time buckets of one size."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_schemas.timestamps import microseconds

__all__ = ["TooManyBuckets", "count_by_bucket"]

_MAX_BUCKETS = 1000
_MAX_COUNTS = 20_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND = int((datetime.min.replace(tzinfo=UTC) - _EPOCH).total_seconds())


class TooManyBuckets(ValueError):
    """The counts are too many; the sentence says what to ask for instead."""


def count_by_bucket(snapshot: Snapshot, event_filter: EventFilter, seconds: int) -> list[dict[str, Any]]:
    """The buckets of this many seconds, oldest first and without gaps.

    Each has its `start`, `event_count` and `type_counts`.

    Raises:
        TooManyBuckets: There would be more than a thousand buckets, or too many different types in them.
    """
    start, end = event_filter.start, event_filter.end
    if start is None or end is None:
        time_range = snapshot.time_range(event_filter)
        if time_range is None:
            return []
        start, end = start or time_range[0], end or time_range[1]
    size_us = seconds * 1_000_000
    first, last = microseconds(start) // size_us, microseconds(end) // size_us
    if last - first >= _MAX_BUCKETS:
        least = -(-(last - first + 1) * seconds // (_MAX_BUCKETS - 1))
        raise TooManyBuckets(
            f"That would be {last - first + 1:,} buckets; {_MAX_BUCKETS:,} are the most. Give {least} or more, or "
            "start and end."
        )
    counts = snapshot.bucket_counts(
        replace(event_filter, start=start, end=end), first * size_us, size_us, _MAX_COUNTS + 1
    )
    if len(counts) > _MAX_COUNTS:
        raise TooManyBuckets("The buckets hold too many different types; give larger ones, or event_type.")
    buckets = [_bucket(number * seconds) for number in range(first, last + 1)]
    for number, event_type, count in counts:
        buckets[number]["event_count"] += count
        buckets[number]["type_counts"][event_type] = count
    return buckets


def _bucket(start_seconds: int) -> dict[str, Any]:
    # The bucket of the earliest times may begin before the first time that a datetime can hold.
    start = _EPOCH + timedelta(seconds=max(start_seconds, _FIRST_SECOND))
    return {"start": start.isoformat(), "event_count": 0, "type_counts": {}}
