"""The kept counts of `type_counts`: how many events each partition has of each type. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, select

from hypervisor_consumers.event_index.tables import type_counts

__all__ = ["count_rows", "event_total"]

event_total = select(func.coalesce(func.sum(type_counts.c.count), 0))
"""The statement for the number of all events."""


def count_rows(rows: Iterable[Sequence[Any]], sign: int = 1) -> list[dict[str, Any]]:
    """Count rows of (topic, partition, event_type), as changes of `type_counts` in the order of its key.

    Every transaction changes its counts in that order, so that two of them can't deadlock.
    """
    counts = Counter(tuple(row) for row in rows)
    return [
        {"topic": topic, "partition": partition, "event_type": event_type, "count": sign * count}
        for (topic, partition, event_type), count in sorted(counts.items())
    ]
