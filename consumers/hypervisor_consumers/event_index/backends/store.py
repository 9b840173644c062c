"""The event index's database: rows and next offsets in one transaction, queries beside it.

Promise: a row is there exactly once, and only with the offset that covers it. A process that lost its partition
can't write, because every move of an offset names the offset that it moves from. What is older than the retention
is not there, and not counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from sqlalchemy import Select, make_url, select
from sqlalchemy.exc import ArgumentError

from hypervisor_consumers.event_index.backends.database import GIVE, Database, Moves, unusable
from hypervisor_consumers.event_index.backends.migrate import migrate
from hypervisor_consumers.event_index.backends.postgres import PostgresDatabase
from hypervisor_consumers.event_index.backends.sqlite import SqliteDatabase
from hypervisor_consumers.event_index.backends.type_counts import event_total
from hypervisor_consumers.event_index.errors import (
    LostPartition,
    QueryTooSlow,
    StoreUnavailable,
    translated_errors,
)
from hypervisor_consumers.event_index.query.queries import Wanted
from hypervisor_consumers.event_index.query.reader import Snapshot, snapshot
from hypervisor_consumers.event_index.tables import IndexRow, events, offsets, values_of
from hypervisor_schemas.events import AnyEventType, HypervisorEvent, type_value

__all__ = [
    "EventStore",
    "IndexRow",
    "LostPartition",
    "QueryTooSlow",
    "StoreUnavailable",
    "open_database",
    "open_store",
]

log = logging.getLogger(__name__)

_EXPIRED_AT_ONCE = 500
_TIMESTAMP = list(events.c).index(events.c.timestamp)


class EventStore:
    """Events in a database. One thread writes, any number read at the same time.

    Args:
        database: The store closes it.
        retention: Seconds, by the time of the events; None: they are kept for good.
        now: Seconds since 1970.

    Raises:
        SettingError: The database can't be used; the sentence never holds the URL, which may hold a password.
        StoreUnavailable: It is locked by another process.
    """

    def __init__(
        self, database: Database, *, retention: float | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._retention = retention
        self._now = now
        self._writing = threading.Lock()
        self._is_migrated = False
        self.expired = 0
        """Events that this process has removed because they were too old."""
        self.came_too_late = 0
        """Events that were too old when they came, and were not added."""
        try:
            self._prepare()
        except StoreUnavailable as error:
            if not database.is_a_server:
                self.close()
                raise
            log.warning("%s It is tried again.", error)
        except BaseException:
            self.close()
            raise

    def write(self, rows: Sequence[IndexRow], next_offsets: Moves) -> int:
        """Add events and move offsets, all in one transaction or not at all.

        Args:
            rows: An event that is in the store already, or comes twice, is one row: the first. One that is older
                than the retention is none.
            next_offsets: For every (topic, partition) of the rows, and for those that moved without rows: the
                offset that this process moved it to last (None: no process ever did) and the new one.

        Returns:
            How many events were new.

        Raises:
            LostPartition: An offset is not the old one.
            StoreUnavailable: The database didn't take it.
            ValueError: A row's partition is missing in `next_offsets`.
        """
        unclaimed = {(row.topic, row.partition) for row in rows} - next_offsets.keys()
        if unclaimed:
            topic, partition = min(unclaimed)
            raise ValueError(f"next_offsets has nothing for partition {partition} of {topic}, but rows has.")
        values = [values_of(row) for row in rows]
        oldest = self._oldest()
        if oldest is not None:
            values = [value for value in values if value[_TIMESTAMP] >= oldest]
        with self._writing, translated_errors():
            self._prepare()
            if values:
                self._database.make_room(values)
            with self._database.writer.begin() as connection:
                self._database.move_offsets(connection, next_offsets)
                added = self._database.add_events(connection, values) if values else 0
        self.came_too_late += len(rows) - len(values)
        return added

    def expire(self) -> int:
        """Remove events that are older than the retention: some hundred, or a whole partition of the database.

        Returns:
            How many; 0: there are no more, or another process is at it.

        Raises:
            StoreUnavailable: The database didn't take it.
        """
        oldest = self._oldest()
        if oldest is None or not self._is_migrated:
            return 0
        # Between two writes where the database has one writer at a time; for milliseconds.
        held = nullcontext() if self._database.is_a_server else self._writing
        with held, translated_errors():
            removed = self._database.expire(oldest, _EXPIRED_AT_ONCE)
        self.expired += removed
        return removed

    def next_offset(self, topic: str, partition: int) -> int | None:
        """The first offset that is not applied yet; None if the partition never had one.

        Raises:
            StoreUnavailable: The database didn't answer.
        """
        here = (offsets.c.topic == topic, offsets.c.partition == partition)
        with translated_errors():
            with self._writing:
                self._prepare()
            with self._database.own.connect() as connection:
                return connection.execute(select(offsets.c.next_offset).where(*here)).scalar_one_or_none()

    def query(
        self,
        *,
        event_type: AnyEventType | str | None = None,
        session_id: str | None = None,
        agent_did: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int = 100,
    ) -> list[HypervisorEvent]:
        """The last `limit` events that fit every filter, oldest first, as `HypervisorEventBus.query` has them.

        Order: (timestamp, topic, partition, offset). `start` and `end` are inclusive; naive ones are UTC.

        Raises:
            QueryTooSlow: It took longer than it may.
            StoreUnavailable: The database didn't answer.
            ValueError: `limit` is negative.
        """
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        kinds = None if event_type is None else [type_value(event_type)]
        wanted = Wanted(kinds, session_id=session_id, agent_did=agent_did, start=start, end=end)
        with self.snapshot() as now:
            return list(reversed(now.page(wanted, limit).events))

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Ask several things of one moment.

        Raises:
            QueryTooSlow: One of them took longer than it may.
            StoreUnavailable: The database didn't answer.
        """
        return snapshot(self._database.readers)

    def event_count(self) -> int:
        """How many events there are."""
        return int(self._rows(event_total)[0][0])

    def type_counts(self) -> dict[str, int]:
        """How many events there are of each type, by the type's value; from one moment."""
        with self.snapshot() as now:
            return now.type_counts(Wanted())

    def close(self) -> None:
        """Close every connection; no other method works afterwards."""
        with self._writing:
            self._database.close()

    def _prepare(self) -> None:
        """Make the tables, once."""
        if not self._is_migrated:
            with translated_errors():
                migrate(self._database)
            self._is_migrated = True

    def _oldest(self) -> int | None:
        """The time, in microseconds, before which events are not kept."""
        return None if self._retention is None else int((self._now() - self._retention) * 1_000_000)

    def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        with translated_errors(asking=True), self._database.readers.connect() as connection:
            return connection.execute(statement).all()


def open_store(
    url: str,
    *,
    busy_seconds: float = 5.0,
    query_seconds: float = 10.0,
    retention: float | None = None,
    now: Callable[[], float] = time.time,
) -> EventStore:
    """The event index in this database, made if it isn't there.

    Another process that writes is waited for, `busy_seconds` at most; a statement of a reader may take
    `query_seconds`; see `EventStore`. A PostgreSQL that can't be reached is no error: it is tried again by whoever
    writes or reads.

    Raises:
        SettingError: The URL can't be used; the sentence names the setting and never the URL, which may hold a
            password.
        StoreUnavailable: Another process keeps the database locked.
    """
    database = open_database(url, busy_seconds=busy_seconds, query_seconds=query_seconds, now=now)
    return EventStore(database, retention=retention, now=now)


def open_database(
    url: str, *, busy_seconds: float = 5.0, query_seconds: float = 10.0, now: Callable[[], float] = time.time
) -> Database:
    """The database for an `EventStore`; see `open_store`.

    Raises:
        SettingError: As `open_store`.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise unusable(f"is not a database URL; {GIVE}") from None
    if backend == "sqlite":
        return SqliteDatabase(parsed, busy_seconds=busy_seconds, query_seconds=query_seconds)
    if backend == "postgresql":
        return PostgresDatabase(parsed, busy_seconds=busy_seconds, query_seconds=query_seconds, now=now)
    raise unusable(f"names a database that the event index can't be kept in; {GIVE}")
