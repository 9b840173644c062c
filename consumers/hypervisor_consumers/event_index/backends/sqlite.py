"""SQLite: a file with a write-ahead log, so that readers never wait for the writer, nor it for them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Integer,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from hypervisor_consumers.event_index.backends.database import GIVE, Moves, Values, unusable
from hypervisor_consumers.event_index.backends.type_counts import counted, event_total
from hypervisor_consumers.event_index.errors import LostPartition, cause_of
from hypervisor_consumers.event_index.tables import events, offsets, type_counts

__all__ = ["SqliteDatabase"]

_ANALYSE_FROM_ROWS = 1_000

# Measured with six B-trees at 300,000 rows and batches of 5,000: 20,000 rows/s with SQLite's defaults, 33,000 so.
# The write-ahead log grows to about 100 MB for it.
_PAGE_BYTES = 8192
_WRITER_CACHE_KIB = 64 * 1024
_CHECKPOINT_PAGES = 10_000

_LOOK_EVERY = 10_000
"""Instructions of SQLite's machine between two looks at the clock: about a millisecond."""


class SqliteDatabase:
    """Implements `Database`.

    Args:
        url: Names the file.
        busy_seconds: How long another process that writes is waited for, at most.
        query_seconds: How long a reader's statement may take.

    Raises:
        SettingError: The URL can't be used.
    """

    is_a_server = False

    def __init__(self, url: URL, *, busy_seconds: float, query_seconds: float) -> None:
        path = url.database
        if path in {None, "", ":memory:"} or url != URL.create(url.drivername, database=path):
            raise unusable(f"must name a file, and nothing besides; {GIVE}")
        if not Path(str(path)).resolve().parent.is_dir():
            # Not the path itself: "sqlite:///user:password@host/name" is one, too.
            raise unusable(
                f"names a file in a folder that isn't there; make it (a relative path starts at {Path.cwd()})."
            )
        self._analysed_rows = 0
        self.writer = _engine(url, busy_seconds, "IMMEDIATE", pool_size=1, max_overflow=0)
        # The pool never makes a reader wait: the server's threads are the bound.
        self.readers = self.own = _engine(url, busy_seconds, "DEFERRED", max_overflow=-1)
        event.listen(self.writer, "connect", _keep_pages)
        event.listen(self.readers, "connect", _limit_time)
        event.listen(self.readers, "before_cursor_execute", _Begun(query_seconds))
        try:
            mode = _journal_mode(self.writer)
        except (DBAPIError, sqlite3.Error) as error:
            self.close()
            cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
            raise unusable(
                f"names a database that can't be opened: {cause_of(cause)}. {GIVE[0].upper()}{GIVE[1:]}"
            ) from None
        if mode != "wal":
            self.close()
            raise unusable(f"names a file on a disk where SQLite can't keep a write-ahead log; {GIVE}")

    def hold_schema(self, connection: Connection) -> None:
        """It is: every transaction of the writer holds the only lock that there is."""

    def make_room(self, values: Values) -> None:
        """There is."""

    def move_offsets(self, connection: Connection, moves: Moves) -> None:
        """One statement for each; nobody else writes now."""
        for (topic, partition), (old, new) in moves.items():
            move = {"in_topic": topic, "in_partition": partition, "old": old, "new": new}
            if connection.execute(_FIRST_OFFSET if old is None else _MOVE_OFFSET, move).rowcount != 1:
                raise LostPartition(topic, partition, old)

    def add_events(self, connection: Connection, values: Values) -> int:
        """By `executemany`; an event whose id is there stays as it is."""
        # Rows are numbered upwards and nobody else writes now, so the new ones are those behind the last.
        last = connection.execute(select(func.coalesce(func.max(_ROWID), 0)).select_from(events)).scalar_one()
        # Tuples, straight to the driver: with a dict for each row, SQLAlchemy takes as long as SQLite does.
        connection.exec_driver_sql(_INSERT_EVENT, list(values))
        key = (events.c.topic, events.c.partition, events.c.event_type)
        new = select(*key, func.count().label("count")).where(_ROWID > last).group_by(*key)  # noqa: SIM300 - a column
        counts = [dict(row) for row in connection.execute(new).mappings()]
        if not counts:
            return 0
        connection.execute(_ADD_COUNT, counts)
        self._analyse_when_grown(connection)
        return sum(row["count"] for row in counts)

    def expire(self, before: int, at_most: int) -> int:
        """The oldest, in one transaction; the file keeps its size, the room is used again."""
        with self.writer.begin() as connection:
            oldest = select(_ROWID).select_from(events).where(events.c.timestamp < before)
            oldest = oldest.order_by(events.c.timestamp).limit(at_most)
            key = (events.c.topic, events.c.partition, events.c.event_type)
            gone = connection.execute(delete(events).where(_ROWID.in_(oldest)).returning(*key)).all()
            if gone:
                connection.execute(_ADD_COUNT, counted(gone, sign=-1))
        return len(gone)

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.readers.dispose()

    def _analyse_when_grown(self, connection: Connection) -> None:
        """Let SQLite see how selective each index is: without it, a query with two filters takes either's."""
        rows = connection.execute(event_total).scalar_one()
        if rows < max(_ANALYSE_FROM_ROWS, 2 * self._analysed_rows):
            return
        # Samples: a millisecond at any size.
        connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
        # Open connections read the statistics again only when the schema changes, as it does by making this table.
        connection.exec_driver_sql("DROP TABLE IF EXISTS sqlite_stat1")
        connection.exec_driver_sql("ANALYZE events")
        self._analysed_rows = rows


_ROWID = literal_column("rowid", Integer)

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


def _engine(url: URL, busy_seconds: float, begin: str, **pool: Any) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": busy_seconds, "isolation_level": None},
        **pool,
    )
    event.listen(engine, "connect", _configure)

    # The writer takes the lock before it reads, else it could find at its first write that it read too early.
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {begin}")

    event.listen(engine, "begin", begun)
    return engine


def _journal_mode(engine: Engine) -> str:
    connection = engine.raw_connection()
    try:
        return str(connection.cursor().execute("PRAGMA journal_mode").fetchone()[0])
    finally:
        connection.close()


def _configure(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    _keep_a_write_ahead_log(connection)
    # A power cut may take the last transactions, rows and offsets alike; Kafka still has them.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")


def _keep_pages(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")


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


class _Deadline:
    """When the statement that a connection runs has to be over."""

    def __init__(self) -> None:
        self.at = 0.0

    def is_over(self) -> bool:
        return time.monotonic() > self.at


def _limit_time(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA query_only = ON")
    deadline = record.info["deadline"] = _Deadline()
    # SQLite ends the statement when it is told so.
    connection.set_progress_handler(deadline.is_over, _LOOK_EVERY)


class _Begun:
    """Notes when a statement begins."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, connection: Connection, *_: object) -> None:
        connection.info["deadline"].at = time.monotonic() + self._seconds
