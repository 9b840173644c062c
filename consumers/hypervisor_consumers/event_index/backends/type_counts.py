"""How `type_counts` is kept. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import func, select

from hypervisor_consumers.event_index.tables import type_counts

__all__ = ["counted", "event_total"]

event_total = select(func.coalesce(func.sum(type_counts.c.count), 0))
"""How many events there are."""


def counted(rows: Iterable[Sequence[Any]], sign: int = 1) -> list[dict[str, Any]]:
    """So many rows (topic, partition, event_type) as what is to be added to `type_counts`, in the order of its key.

    Everybody who changes several counts does so in that order: two who do can't wait for each other in a circle.
    """
    counts = Counter(tuple(row) for row in rows)
    return [
        {"topic": topic, "partition": partition, "event_type": kind, "count": sign * number}
        for (topic, partition, kind), number in sorted(counts.items())
    ]
