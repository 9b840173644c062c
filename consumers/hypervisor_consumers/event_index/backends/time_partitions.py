"""The weeks that PostgreSQL's `events` is divided by. Pure.

Times are microseconds since the epoch, weeks begin on Monday, UTC. A week is known by its first microsecond.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

__all__ = ["WEEK", "partition_of", "week_of", "week_of_partition", "weeks_with_partitions"]

WEEK = 7 * 86_400 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MONDAY = 4 * 86_400 * 1_000_000
"""The fifth of January 1970."""

_WEEKS_BACK, _WEEKS_AHEAD = 104, 2
"""Around now. What an agent with a broken clock says happened in the year 1 or 9999 must not make partitions."""

_NAME = re.compile(r"events_(\d{8})")


def week_of(timestamp: int) -> int:
    """The week in which this time lies."""
    return timestamp - (timestamp - _FIRST_MONDAY) % WEEK


def weeks_with_partitions(timestamps: Iterable[int], now: int) -> set[int]:
    """The weeks of these times that get a partition of their own, if they have none yet."""
    first, last = week_of(now) - _WEEKS_BACK * WEEK, week_of(now) + _WEEKS_AHEAD * WEEK
    return {week for week in {week_of(at) for at in timestamps} if first <= week <= last}


def partition_of(week: int) -> str:
    """The name of a week's partition: `events_` and its Monday."""
    return f"events_{_EPOCH + timedelta(microseconds=week):%Y%m%d}"


def week_of_partition(name: str) -> int | None:
    """The week whose partition has this name; None: it is none of a week."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    since = datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC) - _EPOCH
    return since.days * 86_400 * 1_000_000
