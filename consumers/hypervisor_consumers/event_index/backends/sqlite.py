"""SQLite as the database of the event index: a file with a write-ahead log.

With it readers never wait for the writer, and the writer never waits for readers.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, bindparam, create_engine, event, func, literal_column, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from hypervisor_consumers.event_index.backends.database import URL_HINT, OffsetMoves, Values, unusable_database
from hypervisor_consumers.event_index.backends.type_counts import count_rows, event_total
from hypervisor_consumers.event_index.errors import LostPartition, printable_cause
from hypervisor_consumers.event_index.tables import events, offsets, type_counts

__all__ = ["SqliteDatabase"]

_ANALYSE_FROM_ROWS = 1_000

# Measured with six B-trees, 300,000 rows and batches of 5,000: 20,000 rows/s with SQLite's defaults, 33,000 with
# these values. In return the write-ahead log grows to about 100 MB.
_PAGE_BYTES = 8192
_CACHE_PRAGMA = f"PRAGMA cache_size = -{64 * 1024}"  # KiB
_CHECKPOINT_PAGES = 10_000

_CLOCK_CHECK_INSTRUCTIONS = 10_000
"""The instructions of SQLite's virtual machine between two checks of the deadline: about a millisecond."""


class SqliteDatabase:
    """Implements `Database`.

    Args:
        url: The URL of the file.
        busy_seconds: The longest wait for another process that writes.
        query_seconds: The longest time that a reader's statement may take.

    Raises:
        SettingError: The URL can't be used.
    """

    is_a_server = False

    def __init__(self, url: URL, *, busy_seconds: float, query_seconds: float) -> None:
        path = url.database
        if path in {None, "", ":memory:"} or url != URL.create(url.drivername, database=path):
            raise unusable_database(f"must name a file, and nothing besides; {URL_HINT}")
        if not Path(str(path)).resolve().parent.is_dir():
            # The sentence must not hold the path: "sqlite:///user:password@host/name" has one, too.
            raise unusable_database(
                f"names a file in a folder that isn't there; make it (a relative path starts at {Path.cwd()})."
            )
        self._analysed_rows = 0
        self.writer = _engine(url, busy_seconds, "IMMEDIATE", pool_size=1, max_overflow=0)
        # The pool has no limit, so no reader waits: the HTTP server's threads are the limit.
        self.readers = self.offset_reader = _engine(url, busy_seconds, "DEFERRED", max_overflow=-1)
        event.listen(self.writer, "connect", lambda connection, _record: connection.execute(_CACHE_PRAGMA))
        _limit_time(self.readers, query_seconds)
        try:
            with closing(self.writer.raw_connection()) as connection:
                [mode] = connection.cursor().execute("PRAGMA journal_mode").fetchone()
        except (DBAPIError, sqlite3.Error) as error:
            self.close()
            hint = f"{URL_HINT[0].upper()}{URL_HINT[1:]}"
            raise unusable_database(
                f"names a database that can't be opened: {printable_cause(error)}. {hint}"
            ) from None
        if mode != "wal":
            self.close()
            raise unusable_database(f"names a file on a disk where SQLite can't keep a write-ahead log; {URL_HINT}")

    def lock_schema(self, connection: Connection) -> None:
        """Do nothing: every transaction of the writer holds the only lock that there is."""

    def prepare_partitions(self, values: Values) -> None:
        """Do nothing: the table has no partitions."""

    def move_offsets(self, connection: Connection, moves: OffsetMoves) -> None:
        """Move each offset by a statement of its own; nobody else can write meanwhile."""
        for (topic, partition), (old, new) in moves.items():
            move = {"in_topic": topic, "in_partition": partition, "old": old, "new": new}
            if connection.execute(_FIRST_OFFSET if old is None else _MOVE_OFFSET, move).rowcount != 1:
                raise LostPartition(topic, partition, old)

    def add_events(self, connection: Connection, values: Values) -> int:
        """Insert by `executemany`; an event whose id is in the table stays as it is."""
        # Row ids increase and nobody else writes now, so the new rows are those after the last.
        last = connection.execute(select(func.coalesce(func.max(_ROWID), 0)).select_from(events)).scalar_one()
        # Tuples go straight to the driver: with a dict for each row, SQLAlchemy needs as long as SQLite.
        connection.exec_driver_sql(_INSERT_EVENT, list(values))
        new = select(*_COUNT_KEY, func.count().label("count")).where(_ROWID > last).group_by(*_COUNT_KEY)  # noqa: SIM300 - a column
        counts = [dict(row) for row in connection.execute(new).mappings()]
        if not counts:
            return 0
        connection.execute(_ADD_COUNT, counts)
        self._analyse_when_grown(connection)
        return sum(row["count"] for row in counts)

    def expire(self, before_us: int, limit: int) -> int:
        """Delete the oldest rows in one transaction; the file keeps its size, and SQLite reuses the space."""
        with self.writer.begin() as connection:
            oldest = select(_ROWID).select_from(events).where(events.c.timestamp < before_us)
            oldest = oldest.order_by(events.c.timestamp).limit(limit)
            deleted = connection.execute(events.delete().where(_ROWID.in_(oldest)).returning(*_COUNT_KEY)).all()
            if deleted:
                connection.execute(_ADD_COUNT, count_rows(deleted, sign=-1))
        return len(deleted)

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.readers.dispose()

    def _analyse_when_grown(self, connection: Connection) -> None:
        """Let SQLite measure how selective each index is, so that a query with two filters takes the better one."""
        rows = connection.execute(event_total).scalar_one()
        if rows < max(_ANALYSE_FROM_ROWS, 2 * self._analysed_rows):
            return
        # A sample of the rows: it takes a millisecond at any size.
        connection.exec_driver_sql("PRAGMA analysis_limit = 1000")
        # Open connections read the statistics again only when the schema changes, as it does here by a new table.
        connection.exec_driver_sql("DROP TABLE IF EXISTS sqlite_stat1")
        connection.exec_driver_sql("ANALYZE events")
        self._analysed_rows = rows


_ROWID = literal_column("rowid", events.c.offset.type)
_COUNT_KEY = (events.c.topic, events.c.partition, events.c.event_type)

_FIRST_OFFSET = (
    sqlite.insert(offsets)
    .values(topic=bindparam("in_topic"), partition=bindparam("in_partition"), next_offset=bindparam("new"))
    .on_conflict_do_nothing()
)
_MOVE_OFFSET = (
    offsets.update()
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
    index_elements=type_counts.primary_key.columns, set_={"count": type_counts.c.count + _NEW_COUNT.excluded.count}
)


def _engine(url: URL, busy_seconds: float, mode: str, **pool: Any) -> Engine:
    engine = create_engine(
        url.set(drivername="sqlite+pysqlite"),
        connect_args={"timeout": busy_seconds, "isolation_level": None},
        **pool,
    )
    event.listen(engine, "connect", _configure)

    # The writer takes the lock before it reads. Otherwise its first write fails if others wrote meanwhile.
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {mode}")

    event.listen(engine, "begin", begin_transaction)
    return engine


def _configure(connection: Any, _record: Any) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    _enable_write_ahead_log(connection)
    # A power cut may lose the last transactions, rows and offsets alike; Kafka still has the events.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")


def _enable_write_ahead_log(connection: Any) -> None:
    # If two processes do this to a new file at once, SQLite refuses one at once, whatever its timeout.
    for _ in range(50):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.1)  # 5 s in all, like the timeout for everything else
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


def _limit_time(engine: Engine, seconds: float) -> None:
    """Make the engine's connections read-only, and end a statement that takes longer than `seconds`."""

    def on_connect(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA query_only = ON")
        record.info["deadline"] = 0.0
        # SQLite ends the statement if the handler returns true.
        connection.set_progress_handler(
            lambda: time.monotonic() > record.info["deadline"], _CLOCK_CHECK_INSTRUCTIONS
        )

    def on_execute(connection: Connection, *_: object) -> None:
        connection.info["deadline"] = time.monotonic() + seconds

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "before_cursor_execute", on_execute)
