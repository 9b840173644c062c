"""The weeks that PostgreSQL's `events` is partitioned by. Pure.

Times are microseconds since the epoch. A week begins on Monday, UTC, and is identified by its first microsecond.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

__all__ = ["WEEK_US", "partition_name", "week_of_name", "weeks_to_partition"]

_DAY_US = 86_400 * 1_000_000
WEEK_US = 7 * _DAY_US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_MONDAY_US = 4 * _DAY_US
"""The fifth of January 1970."""

_WEEKS_BACK, _WEEKS_AHEAD = 104, 2
"""The range around now that gets partitions. Agents with a broken clock send times in the year 1 or 9999."""

_NAME = re.compile(r"events_(\d{8})")


def _week_of(timestamp_us: int) -> int:
    """The week that contains this time."""
    return timestamp_us - (timestamp_us - _FIRST_MONDAY_US) % WEEK_US


def weeks_to_partition(timestamps_us: Iterable[int], now_us: int) -> set[int]:
    """The weeks of these times that should have a partition of their own."""
    first, last = _week_of(now_us) - _WEEKS_BACK * WEEK_US, _week_of(now_us) + _WEEKS_AHEAD * WEEK_US
    return {week for week in {_week_of(at) for at in timestamps_us} if first <= week <= last}


def partition_name(week: int) -> str:
    """The name of a week's partition: `events_` and the date of its Monday."""
    return f"events_{_EPOCH + timedelta(microseconds=week):%Y%m%d}"


def week_of_name(name: str) -> int | None:
    """The week whose partition has this name; None if the name is not one of a week's partition."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    since = datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=UTC) - _EPOCH
    return since.days * _DAY_US
