"""The store of the event index: it writes rows and next offsets in one transaction, and answers queries.

The store guarantees that each event is one row, and that the row is there only with the offset that covers it. A
process that lost its partition can't write, because every move of an offset names the old offset. Events older than
the retention are removed, and not counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime

from sqlalchemy import make_url, select
from sqlalchemy.exc import ArgumentError

from hypervisor_consumers.event_index.backends.database import URL_HINT, Database, OffsetMoves, unusable_database
from hypervisor_consumers.event_index.backends.migrate import migrate
from hypervisor_consumers.event_index.backends.postgres import PostgresDatabase
from hypervisor_consumers.event_index.backends.sqlite import SqliteDatabase
from hypervisor_consumers.event_index.backends.type_counts import event_total
from hypervisor_consumers.event_index.errors import LostPartition, QueryTooSlow, StoreUnavailable, translated_errors
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.event_index.query.reader import Snapshot
from hypervisor_consumers.event_index.tables import TIMESTAMP, IndexRow, offsets, values_of
from hypervisor_consumers.runtime.records import TopicPartition
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

_EXPIRE_BATCH = 500


class EventStore:
    """The events in a database. One thread writes; any number of threads read at the same time.

    Args:
        database: The database; the store closes it.
        retention: How long events are kept, in seconds by the time of the event. None: forever.
        now: The clock, in seconds since 1970.

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
        self._write_lock = threading.Lock()
        self._is_migrated = False
        self.expired = 0
        """The number of events that this process removed because they were too old."""
        self.not_added = 0
        """The number of events that were too old when they came, and were not added."""
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

    def write(self, rows: Sequence[IndexRow], next_offsets: OffsetMoves) -> int:
        """Add events and move offsets, all in one transaction or not at all.

        Args:
            rows: The events. If an event is in the store already or comes twice, the first row stays. An event
                older than the retention is not added.
            next_offsets: For every (topic, partition) of the rows, and for each that moved without rows: the
                offset to which this process moved it last (None: no process ever did), and the new one.

        Returns:
            How many events were new.

        Raises:
            LostPartition: An offset in the database is not the old one.
            StoreUnavailable: The database didn't accept the write.
            ValueError: A row's partition is missing in `next_offsets`.
        """
        unclaimed = {(row.topic, row.partition) for row in rows} - next_offsets.keys()
        if unclaimed:
            topic, partition = min(unclaimed)
            raise ValueError(f"next_offsets has nothing for partition {partition} of {topic}, but rows has.")
        values = [values_of(row) for row in rows]
        cutoff_us = self._cutoff_us()
        if cutoff_us is not None:
            values = [value for value in values if value[TIMESTAMP] >= cutoff_us]
        with self._write_lock, translated_errors():
            self._prepare()
            if values:
                self._database.prepare_partitions(values)
            with self._database.writer.begin() as connection:
                self._database.move_offsets(connection, next_offsets)
                added = self._database.add_events(connection, values) if values else 0
        self.not_added += len(rows) - len(values)
        return added

    def expire(self) -> int:
        """Remove a batch of events that are older than the retention, or a whole partition of the database.

        Returns:
            How many were removed. 0: there are no more, or another process is removing.

        Raises:
            StoreUnavailable: The database didn't accept it.
        """
        cutoff_us = self._cutoff_us()
        if cutoff_us is None or not self._is_migrated:
            return 0
        # A database with one writer at a time needs the lock; it is held for milliseconds.
        lock = nullcontext() if self._database.is_a_server else self._write_lock
        with lock, translated_errors():
            removed = self._database.expire(cutoff_us, _EXPIRE_BATCH)
        self.expired += removed
        return removed

    def next_offset(self, topic: str, partition: int) -> int | None:
        """The first offset of a partition that is not applied yet; None if the partition never had one.

        Raises:
            StoreUnavailable: The database didn't answer.
        """
        is_partition = (offsets.c.topic == topic, offsets.c.partition == partition)
        with translated_errors():
            with self._write_lock:
                self._prepare()
            with self._database.offset_reader.connect() as connection:
                return connection.execute(select(offsets.c.next_offset).where(*is_partition)).scalar_one_or_none()

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
        """The last `limit` events that match every filter, oldest first, as in `HypervisorEventBus.query`.

        Order: (timestamp, topic, partition, offset). `start` and `end` are inclusive; naive ones are UTC.

        Raises:
            QueryTooSlow: The query exceeded its time limit.
            StoreUnavailable: The database didn't answer.
            ValueError: `limit` is negative.
        """
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        types = None if event_type is None else [type_value(event_type)]
        event_filter = EventFilter(types, session_id=session_id, agent_did=agent_did, start=start, end=end)
        with self.snapshot() as snapshot:
            return list(reversed(snapshot.page(event_filter, limit).events))

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Run several queries on the same moment of the database.

        Raises:
            QueryTooSlow: A query exceeded its time limit.
            StoreUnavailable: The database didn't answer.
        """
        with translated_errors(in_query=True), self._database.readers.connect() as connection:
            yield Snapshot(connection)

    def offsets(self) -> dict[TopicPartition, int]:
        """The first offset of each partition that is not applied yet.

        Raises:
            StoreUnavailable: The database didn't answer.
        """
        with self.snapshot() as snapshot:
            return snapshot.offsets()

    def event_count(self) -> int:
        """The number of events."""
        with translated_errors(in_query=True), self._database.readers.connect() as connection:
            return int(connection.execute(event_total).scalar_one())

    def type_counts(self) -> dict[str, int]:
        """The number of events of each type, by the type's value."""
        with self.snapshot() as snapshot:
            return snapshot.type_counts(EventFilter())

    def close(self) -> None:
        """Close every connection; no other method works afterwards."""
        with self._write_lock:
            self._database.close()

    def _prepare(self) -> None:
        """Create or update the tables, once."""
        if not self._is_migrated:
            with translated_errors():
                migrate(self._database)
            self._is_migrated = True

    def _cutoff_us(self) -> int | None:
        """The time in microseconds before which events are not kept; None: all are kept."""
        return None if self._retention is None else int((self._now() - self._retention) * 1_000_000)


def open_store(
    url: str,
    *,
    busy_seconds: float = 5.0,
    query_seconds: float = 10.0,
    retention: float | None = None,
    now: Callable[[], float] = time.time,
) -> EventStore:
    """The event index in this database, created if it isn't there.

    A write waits for another process at most `busy_seconds`; a reader's statement may take `query_seconds`. For
    `retention` and `now` see `EventStore`. A PostgreSQL that can't be reached is no error: each write and each read
    tries again.

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
    """The database for an `EventStore`; for the arguments see `open_store`.

    Raises:
        SettingError: The URL can't be used; the sentence names the setting and never the URL.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise unusable_database(f"is not a database URL; {URL_HINT}") from None
    if backend == "sqlite":
        return SqliteDatabase(parsed, busy_seconds=busy_seconds, query_seconds=query_seconds)
    if backend == "postgresql":
        return PostgresDatabase(parsed, busy_seconds=busy_seconds, query_seconds=query_seconds, now=now)
    raise unusable_database(f"names a database that the event index can't be kept in; {URL_HINT}")
