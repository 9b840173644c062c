"""Looks into the PostgreSQL database of the event index."""

from __future__ import annotations

from tests.support.postgres import opened

__all__ = ["has_exact_counts", "partitions"]


def partitions(url: str) -> dict[str, int]:
    """The partitions of `events`, each with its number of events."""
    with opened(url) as connection:
        names = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # type: ignore[index,arg-type]  # noqa: S608
            for (name,) in names.fetchall()
        }


def has_exact_counts(url: str) -> bool:
    """Whether the kept counts equal those of the rows, for each topic, partition and type."""
    with opened(url) as connection:
        key = "topic, partition, event_type"
        kept = connection.execute(f"SELECT {key}, count FROM type_counts WHERE count <> 0").fetchall()  # noqa: S608
        rows = connection.execute(f"SELECT {key}, count(*) FROM events GROUP BY {key}").fetchall()  # noqa: S608
    return sorted(kept) == sorted(rows)
