"""The event index's database: rows and next offsets in one transaction, queries beside it.

Promise: a row is there exactly once, and only with the offset that covers it. A process that lost its partition
can't write, because every move of an offset names the offset that it moves from.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Integer,
    Select,
    bindparam,
    create_engine,
    event,
    func,
    literal_column,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError

from hypervisor_consumers.event_index.questions import Wanted
from hypervisor_consumers.event_index.reader import Snapshot, snapshot
from hypervisor_consumers.event_index.tables import (
    IndexRow,
    events,
    metadata,
    offsets,
    type_counts,
    values_of,
)
from hypervisor_consumers.event_index.trouble import StoreUnavailable, translated_errors
from hypervisor_schemas.errors import SettingError, TelemetryError
from hypervisor_schemas.events import AnyEventType, HypervisorEvent, type_value
from hypervisor_schemas.settings import Settings

__all__ = ["EventStore", "IndexRow", "LostPartition", "StoreUnavailable", "open_engine", "open_store"]

_SETTING = Settings.DATABASE_URL.name
_ANALYSE_FROM_ROWS = 1_000

# Measured with six B-trees at 300,000 rows and batches of 5,000: 20,000 rows/s with SQLite's defaults, 33,000 so.
# The write-ahead log grows to about 100 MB for it.
_PAGE_BYTES = 8192
_WRITER_CACHE_KIB = 64 * 1024
_CHECKPOINT_PAGES = 10_000


class LostPartition(TelemetryError):
    """The partition's offset isn't where this process left it: another one owns it now. Nothing was written."""

    def __init__(self, topic: str, partition: int, expected: int | None) -> None:
        where = "has an offset already" if expected is None else f"is not at offset {expected} any more"
        super().__init__(
            f"Partition {partition} of {topic} {where}: another process writes it. Nothing was written."
        )
        self.topic = topic
        self.partition = partition


class EventStore:
    """Events in a database. One thread writes, any number read at the same time.

    `engine` comes from `open_engine`; the store closes it. Making a store makes its tables where they are missing.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing = threading.Lock()
        self._analysed_rows = 0
        # A connection of its own, outside the readers' pool: they can't keep it waiting, and its cache stays warm.
        self._writer = engine.connect().execution_options(begin="IMMEDIATE")
        try:
            with translated_errors(), self._writer.begin():
                self._writer.exec_driver_sql(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
                metadata.create_all(self._writer)
        except BaseException:
            self.close()
            raise

    def write(
        self,
        rows: Sequence[IndexRow],
        next_offsets: Mapping[tuple[str, int], tuple[int | None, int]],
    ) -> int:
        """Add events and move offsets, all in one transaction or not at all.

        Args:
            rows: An event that is in the store already, or comes twice, is one row: the first.
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
        with self._writing, translated_errors(), self._writer.begin():
            for (topic, partition), (old, new) in next_offsets.items():
                _move_offset(self._writer, topic, partition, old, new)
            added = _add_events(self._writer, values)
            if added:
                self._analyse_when_grown()
        return added

    def next_offset(self, topic: str, partition: int) -> int | None:
        """The first offset that is not applied yet; None if the partition never had one."""
        here = (offsets.c.topic == topic, offsets.c.partition == partition)
        found = self._rows(select(offsets.c.next_offset).where(*here))
        return int(found[0].next_offset) if found else None

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
            StoreUnavailable: The database didn't answer.
        """
        return snapshot(self._engine)

    def event_count(self) -> int:
        """How many events there are."""
        return int(self._rows(select(_EVENT_COUNT))[0][0])

    def type_counts(self) -> dict[str, int]:
        """How many events there are of each type, by the type's value; from one moment."""
        with self.snapshot() as now:
            return now.type_counts(Wanted())

    def close(self) -> None:
        """Close every connection; no other method works afterwards."""
        with self._writing:
            self._writer.close()
            self._engine.dispose()

    def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        with translated_errors(), self._engine.connect() as connection:
            return connection.execute(statement).all()

    def _analyse_when_grown(self) -> None:
        """Let SQLite see how selective each index is: without it, a query with two filters takes either's."""
        rows = self._writer.execute(select(_EVENT_COUNT)).scalar_one()
        if rows < max(_ANALYSE_FROM_ROWS, 2 * self._analysed_rows):
            return
        # Samples: a millisecond at any size.
        self._writer.exec_driver_sql("PRAGMA analysis_limit = 1000")
        # Open connections read the statistics again only when the schema changes, as it does by making this table.
        self._writer.exec_driver_sql("DROP TABLE IF EXISTS sqlite_stat1")
        self._writer.exec_driver_sql("ANALYZE events")
        self._analysed_rows = rows


def open_store(url: str) -> EventStore:
    """The event index in this database, made if it isn't there.

    Raises:
        SettingError: The URL can't be used; the sentence names the setting and never the URL, which may hold a
            password.
        StoreUnavailable: Another process keeps the database locked.
    """
    engine = open_engine(url)
    try:
        return EventStore(engine)
    except DBAPIError as error:
        engine.dispose()
        raise _cannot_open(error) from None


def open_engine(url: str, busy_seconds: float = 5.0) -> Engine:
    """Connections for an `EventStore`: to a SQLite file with a write-ahead log, so readers never block the writer.

    Another process that writes is waited for, `busy_seconds` at most.

    Raises:
        SettingError: As `open_store`.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingError(_SETTING, f"is not a database URL; {_GIVE}") from None
    if parsed.get_backend_name() != "sqlite":
        raise SettingError(_SETTING, f"names a database that the event index can't be kept in; {_GIVE}")
    path = parsed.database
    if path in {None, "", ":memory:"} or parsed != URL.create(parsed.drivername, database=path):
        raise SettingError(_SETTING, f"must name a file, and nothing besides; {_GIVE}")
    folder = Path(str(path)).resolve().parent
    if not folder.is_dir():
        # Not the path itself: "sqlite:///user:password@host/name" is one, too.
        raise SettingError(
            _SETTING,
            f"names a file in a folder that isn't there; make it (a relative path starts at {Path.cwd()}).",
        )
    # The pool never makes a reader wait: the server's threads are the bound.
    engine = create_engine(
        parsed.set(drivername="sqlite+pysqlite"),
        max_overflow=-1,
        connect_args={"timeout": busy_seconds, "isolation_level": None},
    )
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    try:
        connection = engine.raw_connection()
        try:
            mode = connection.cursor().execute("PRAGMA journal_mode").fetchone()[0]
        finally:
            connection.close()
    except (DBAPIError, engine.dialect.loaded_dbapi.Error) as error:
        engine.dispose()
        raise _cannot_open(error) from None
    if mode != "wal":
        engine.dispose()
        raise SettingError(_SETTING, f"names a file on a disk where SQLite can't keep a write-ahead log; {_GIVE}")
    return engine


_GIVE = "give sqlite:///PATH, the path of a file on a local disk."
_ROWID = literal_column("rowid", Integer)
_EVENT_COUNT = func.coalesce(func.sum(type_counts.c.count), 0)


def _configure(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    _keep_a_write_ahead_log(connection)
    # A power cut may take the last transactions, rows and offsets alike; Kafka still has them.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")


def _keep_a_write_ahead_log(connection: Any) -> None:
    # Two processes that do this to a new file at once: SQLite refuses one without waiting, whatever its timeout.
    for _ in range(50):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.1)  # 5 s in all, as its timeout is for everything else
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


def _begin(connection: Connection) -> None:
    # The writer takes the lock before it reads, else it could find at its first write that it read too early.
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('begin', 'DEFERRED')}")


def _move_offset(connection: Connection, topic: str, partition: int, old: int | None, new: int) -> None:
    move = {"in_topic": topic, "in_partition": partition, "old": old, "new": new}
    if connection.execute(_FIRST_OFFSET if old is None else _MOVE_OFFSET, move).rowcount != 1:
        raise LostPartition(topic, partition, old)


_FIRST_OFFSET = (
    sqlite.insert(offsets)
    .values(topic=bindparam("in_topic"), partition=bindparam("in_partition"), next_offset=bindparam("new"))
    .on_conflict_do_nothing()
)
_MOVE_OFFSET = (
    update(offsets)
    .where(offsets.c.topic == bindparam("in_topic"), offsets.c.partition == bindparam("in_partition"))
    .where(offsets.c.next_offset == bindparam("old"))
    .values(next_offset=bindparam("new"))
)


def _add_events(connection: Connection, values: list[tuple[Any, ...]]) -> int:
    """Insert those that are new, and count exactly them. Returns their number."""
    if not values:
        return 0
    # Rows are numbered upwards and nobody else writes now, so the new ones are those behind the last.
    last = connection.execute(select(func.coalesce(func.max(_ROWID), 0)).select_from(events)).scalar_one()
    # Tuples, straight to the driver: with a dict for each row, SQLAlchemy takes as long as SQLite does.
    connection.exec_driver_sql(_INSERT_EVENT, values)
    key = (events.c.topic, events.c.partition, events.c.event_type)
    new = select(*key, func.count().label("count")).where(_ROWID > last).group_by(*key)  # noqa: SIM300 - a column
    counts = [dict(row) for row in connection.execute(new).mappings()]
    if counts:
        connection.execute(_ADD_COUNT, counts)
    return sum(row["count"] for row in counts)


_INSERT_EVENT = str(
    sqlite.insert(events)
    .on_conflict_do_nothing(index_elements=[events.c.event_id])
    .compile(dialect=sqlite.dialect())
)
_NEW_COUNT = sqlite.insert(type_counts)
_ADD_COUNT = _NEW_COUNT.on_conflict_do_update(
    index_elements=type_counts.primary_key.columns,
    set_={"count": type_counts.c.count + _NEW_COUNT.excluded.count},
)


def _cannot_open(error: Exception) -> SettingError:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return SettingError(_SETTING, f"names a database that can't be opened: {cause}. {_GIVE[0].upper()}{_GIVE[1:]}")
