"""PostgreSQL's partitions of `events`: one a week, made and dropped without a long lock.

What has no week of its own lies in `events_default`. When its week is made, its rows move there. Making and
dropping are one process's at a time, by an advisory lock; both take the locks of `events` before a partition's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

from hypervisor_consumers.event_index.backends.time_partitions import WEEK, partition_of, week_of_partition
from hypervisor_consumers.event_index.errors import cause_of

__all__ = ["PARTITIONS_LOCK", "DroppedWeek", "Partitions", "drop_oldest"]

log = logging.getLogger(__name__)

PARTITIONS_LOCK = 0x6576_656E_7473_0002
"""Advisory locks are numbers of the whole database: these begin with "events"."""

_TRY_AGAIN_AFTER = 10.0
"""Seconds. Meanwhile the week's rows lie in `events_default`: writing never waits for whoever reads long."""


class Partitions:
    """The weeks that have a partition, as far as this process knows."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._known: set[int] = set()
        self._wait_until = 0.0

    def ensure(self, weeks: Collection[int]) -> None:
        """Make those that are missing; where a lock can't be had at once, later.

        Raises:
            DBAPIError: The database can't be used.
        """
        missing = set(weeks) - self._known
        if not missing or self._clock() < self._wait_until:
            return
        try:
            with self._engine.begin() as connection:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (PARTITIONS_LOCK,))
                there = set(weeks_there(connection))
                for week in sorted(missing - there):
                    _make(connection, week)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                raise
            self._wait_until = self._clock() + _TRY_AGAIN_AFTER
            log.info("A week's partition is made later: %s", cause_of(error.orig or error))
        else:
            self._known = there | missing


def weeks_there(connection: Connection) -> Sequence[int]:
    """The weeks that have a partition, the oldest first."""
    names = connection.exec_driver_sql(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'events'::regclass"
    ).scalars()
    return sorted(week for week in map(week_of_partition, names) if week is not None)


def _make(connection: Connection, week: int) -> None:
    name, bounds = partition_of(week), (week, week + WEEK)
    connection.exec_driver_sql("LOCK TABLE ONLY events IN SHARE UPDATE EXCLUSIVE MODE")
    # Nobody may add a row of that week there between the move and the attaching.
    connection.exec_driver_sql("LOCK TABLE events_default IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE events INCLUDING DEFAULTS INCLUDING INDEXES)")
    connection.exec_driver_sql(
        "WITH moved AS"  # noqa: S608 - a name made of a date
        " (DELETE FROM events_default WHERE timestamp >= %s AND timestamp < %s RETURNING *)"
        f" INSERT INTO {name} SELECT * FROM moved",
        bounds,
    )
    # CREATE TABLE … PARTITION OF would lock out everybody; this locks out nobody but the makers of others.
    connection.exec_driver_sql(
        f"ALTER TABLE events ATTACH PARTITION {name} FOR VALUES FROM ({week}) TO ({week + WEEK})"
    )


class DroppedWeek(NamedTuple):
    """A partition that is gone."""

    name: str
    events: int


def drop_oldest(
    connection: Connection, before: int, count_out: Callable[[Sequence[dict[str, Any]]], None]
) -> DroppedWeek | None:
    """Drop the oldest partition if all of its time lies before; its events are counted first, and counted out.

    Only who writes into that very week waits for the counting. All wait for the dropping itself, which takes
    milliseconds; where the lock isn't to be had within a second, nothing happens.

    Raises:
        OperationalError: Somebody reads for so long that the lock wasn't to be had.
    """
    connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    week = next(iter(weeks_there(connection)), None)
    if week is None or week + WEEK > before:
        return None
    name = partition_of(week)
    connection.exec_driver_sql(f"LOCK TABLE ONLY {name} IN SHARE MODE")
    counts = [
        dict(row)
        for row in connection.exec_driver_sql(
            f"SELECT topic, partition, event_type, -count(*) AS count FROM {name}"  # noqa: S608 - a name and a date
            " GROUP BY topic, partition, event_type ORDER BY topic, partition, event_type"
        ).mappings()
    ]
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (PARTITIONS_LOCK,))
    connection.exec_driver_sql(f"ALTER TABLE events DETACH PARTITION {name}")
    count_out(counts)
    connection.exec_driver_sql(f"DROP TABLE {name}")
    return DroppedWeek(name, -sum(row["count"] for row in counts))
