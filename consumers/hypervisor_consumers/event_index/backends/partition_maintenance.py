"""Creates and drops the weekly partitions of PostgreSQL's `events` without holding a lock for long.

Events of a week without a partition are in `events_default`. When the partition is created, they move there. An
advisory lock lets one process at a time create or drop; both take the lock of `events` before a partition's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from hypervisor_consumers.event_index.backends.time_partitions import WEEK_US, partition_name, week_of_name
from hypervisor_consumers.event_index.errors import driver_error, printable_cause

__all__ = ["WeeklyPartitions", "drop_oldest"]

log = logging.getLogger(__name__)

_PARTITIONS_LOCK = 0x6576_656E_7473_0002
"""The number of an advisory lock. They are the whole database's, so ours begin with the bytes of "events"."""

_RETRY_SECONDS = 10.0
"""The pause after a lock timeout. Meanwhile the week's rows go to `events_default`: no write waits for a reader."""


class WeeklyPartitions:
    """The weeks that have a partition, as far as this process knows."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._known_weeks: set[int] = set()
        self._retry_at = 0.0

    def ensure(self, weeks: Collection[int]) -> None:
        """Create the missing partitions of these weeks; if a lock isn't free at once, do so later.

        Raises:
            DBAPIError: The database can't be used.
        """
        missing = set(weeks) - self._known_weeks
        if not missing or self._clock() < self._retry_at:
            return
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_PARTITIONS_LOCK,))
                existing = set(_existing_weeks(connection))
                for week in sorted(missing - existing):
                    _create(connection, week)
        except OperationalError as error:
            if not isinstance(driver_error(error), LockNotAvailable):
                raise
            self._retry_at = self._clock() + _RETRY_SECONDS
            log.info("A week's partition is made later: %s", printable_cause(error))
        else:
            self._known_weeks = existing | missing


def _existing_weeks(connection: Connection) -> Sequence[int]:
    """The weeks that have a partition, the oldest first."""
    names = connection.exec_driver_sql(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'events'::regclass"
    ).scalars()
    return sorted(week for week in map(week_of_name, names) if week is not None)


def _create(connection: Connection, week: int) -> None:
    name, bounds = partition_name(week), (week, week + WEEK_US)
    connection.exec_driver_sql("LOCK TABLE ONLY events IN SHARE UPDATE EXCLUSIVE MODE")
    # Nobody may add a row of that week to events_default between the move and the attaching.
    connection.exec_driver_sql("LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES)")
    connection.exec_driver_sql(
        "WITH moved AS"  # noqa: S608 - a name made of a date
        " (DELETE FROM events_default WHERE timestamp >= %s AND timestamp < %s RETURNING *)"
        f" INSERT INTO {name} SELECT * FROM moved",
        bounds,
    )
    # CREATE TABLE … PARTITION OF would lock out everybody; this locks out only others that create partitions.
    connection.exec_driver_sql(
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({week}) TO ({week + WEEK_US})"
    )


def drop_oldest(
    connection: Connection, before_us: int, add_counts: Callable[[Sequence[dict[str, Any]]], None]
) -> int | None:
    """Drop the oldest partition if it ends before this time; its counts, negated, go to `add_counts`.

    Counting makes only those wait that write into that very week. Dropping makes everybody wait, for milliseconds;
    if the lock isn't free within a second, nothing happens.

    Returns:
        How many events the partition had; None: none was dropped.

    Raises:
        OperationalError: A long read kept the lock.
    """
    connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    week = next(iter(_existing_weeks(connection)), None)
    if week is None or week + WEEK_US > before_us:
        return None
    name = partition_name(week)
    connection.exec_driver_sql(f"LOCK TABLE ONLY {name} IN SHARE MODE")
    counts = [
        dict(row)
        for row in connection.exec_driver_sql(
            f"SELECT topic, partition, event_type, -count(*) AS count FROM {name}"  # noqa: S608 - a name and a date
            " GROUP BY topic, partition, event_type ORDER BY topic, partition, event_type"
        ).mappings()
    ]
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_PARTITIONS_LOCK,))
    connection.exec_driver_sql(f"ALTER TABLE events DETACH PARTITION {name}")
    add_counts(counts)
    connection.exec_driver_sql(f"DROP TABLE {name}")
    return -sum(int(row["count"]) for row in counts)
