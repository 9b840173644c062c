"""PostgreSQL as the database of the event index: several copies write concurrently, each its own partitions."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from psycopg.errors import LockNotAvailable
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError, OperationalError

from hypervisor_consumers.event_index.backends import bulk_load
from hypervisor_consumers.event_index.backends.byte_limited_query import MAX_BYTES_PARAMETER, limit_bytes
from hypervisor_consumers.event_index.backends.database import URL_HINT, OffsetMoves, Values, unusable_database
from hypervisor_consumers.event_index.backends.partition_maintenance import WeeklyPartitions, drop_oldest
from hypervisor_consumers.event_index.backends.time_partitions import WEEK_US, weeks_to_partition
from hypervisor_consumers.event_index.backends.type_counts import count_rows
from hypervisor_consumers.event_index.errors import driver_error
from hypervisor_consumers.event_index.key_text import without_nul
from hypervisor_consumers.event_index.query.bounded_fetch import BOUND, Bound
from hypervisor_consumers.event_index.tables import TIMESTAMP

__all__ = ["PostgresDatabase"]

_SCHEMA_LOCK, _EXPIRY_LOCK = 0x6576_656E_7473_0001, 0x6576_656E_7473_0003
_LEAST_VERSION = 130000
_READER_CONNECTIONS = 10
"""The number of connections for queries. A server allows 100 by default, and there may be several copies."""

# A server that vanishes silently is noticed within 25 s, sooner than `/healthz` turns red.
_CONNECTION_OPTIONS = {
    "application_name": "hypervisor-telemetry event-index",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}


class PostgresDatabase:
    """Implements `Database`. The constructor does not connect.

    Args:
        url: A URL with the driver psycopg; its options are libpq's.
        busy_seconds: The longest wait for a lock.
        query_seconds: The longest time that a reader's statement may take.
        now: The clock, in seconds since 1970.

    Raises:
        SettingError: The URL can't be used.
    """

    is_a_server = True

    def __init__(
        self, url: URL, *, busy_seconds: float, query_seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        if url.drivername not in {"postgresql", "postgresql+psycopg"}:
            raise unusable_database(f"names a driver that isn't here; {URL_HINT}")
        self._now = now
        # One connection for the ingest and one for the retention. Neither ever waits for a reader's connection.
        self.writer = self.offset_reader = _engine(
            url,
            "READ COMMITTED",
            {
                "lock_timeout": f"{busy_seconds:g}s",
                "statement_timeout": "20s",
                # Otherwise a copy that is frozen in mid-transaction would lock its partitions' offsets forever.
                "idle_in_transaction_session_timeout": "20s",
            },
            pool_size=2,
            max_overflow=0,
        )
        self.readers = _engine(
            url,
            "REPEATABLE READ",
            {
                "default_transaction_read_only": "on",
                "statement_timeout": f"{query_seconds * 1000:.0f}ms",
                "idle_in_transaction_session_timeout": "60s",
                # Compiling a plan over many partitions takes longer than any of these queries.
                "jit": "off",
                # The value for an SSD. With 4, a query for some hours of one type reads all events of those hours.
                "random_page_cost": "1.1",
            },
            pool_size=_READER_CONNECTIONS,
            max_overflow=0,
            pool_timeout=query_seconds,
        )
        event.listen(self.readers, "before_cursor_execute", _adapt_query, retval=True)
        self._partitions = WeeklyPartitions(self.writer)
        self._loader = bulk_load.BulkLoader()

    def lock_schema(self, connection: Connection) -> None:
        """Take an advisory lock; wait for it as long as other processes need to create the same tables."""
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        version, encoding = connection.exec_driver_sql(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
        ).one()
        if version < _LEAST_VERSION:
            raise unusable_database("names a PostgreSQL that is too old; the event index needs 13 or newer.")
        if encoding != "UTF8":
            raise unusable_database(f"names a database whose encoding is {encoding}; make it with ENCODING 'UTF8'.")

    def prepare_partitions(self, values: Values) -> None:
        """Create the weeks of these rows, and the next week, so that it exists before its first event."""
        now_us = int(self._now() * 1_000_000)
        times_us = {row[TIMESTAMP] for row in values}
        self._partitions.ensure(weeks_to_partition({*times_us, now_us, now_us + WEEK_US}, now_us))

    def move_offsets(self, connection: Connection, moves: OffsetMoves) -> None:
        """Move the offsets; each row is locked until the end of the transaction, so nobody else can move it."""
        bulk_load.move_offsets(connection, moves)

    def add_events(self, connection: Connection, values: Values) -> int:
        """Insert by COPY; an event whose id and time are in the table stays as it is."""
        return self._loader.add(connection, values)

    def expire(self, before_us: int, limit: int) -> int:
        """Drop a whole partition if all of it is old enough, else delete the oldest rows."""
        with self.writer.begin() as connection:
            if not connection.exec_driver_sql("SELECT pg_try_advisory_xact_lock(%s)", (_EXPIRY_LOCK,)).scalar_one():
                return 0
            try:
                with connection.begin_nested():
                    dropped = drop_oldest(connection, before_us, partial(bulk_load.add_counts, connection))
            except OperationalError as error:
                if not isinstance(driver_error(error), LockNotAvailable):
                    raise
                dropped = None
            if dropped is not None:
                return dropped
            deleted = connection.exec_driver_sql(_EXPIRE, {"before_us": before_us, "limit": limit}).all()
            bulk_load.add_counts(connection, count_rows(deleted, sign=-1))
        return len(deleted)

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.readers.dispose()


# Selected by time alone, so that one index of few partitions is read. Rows with the same time are deleted together.
_EXPIRE = """
DELETE FROM events WHERE timestamp < %(before_us)s AND timestamp <= (
  SELECT max(timestamp) FROM (
    SELECT timestamp FROM events WHERE timestamp < %(before_us)s ORDER BY timestamp LIMIT %(limit)s
  ) AS oldest
)
RETURNING topic, partition, event_type
"""


def _engine(url: URL, isolation: Any, session: dict[str, str], **pool: Any) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level=isolation,
        # The plan of a prepared statement can't know which partitions it will need.
        connect_args={
            "prepare_threshold": None,
            **{k: v for k, v in _CONNECTION_OPTIONS.items() if k not in url.query},
        },
        hide_parameters=True,
        **pool,
    )
    event.listen(engine, "checkout", _check_connection)
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in session.items())

    def configure(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT set_config('client_min_messages', 'warning', false), {settings}")
        connection.commit()

    event.listen(engine, "connect", configure)
    return engine


def _check_connection(connection: Any, _record: Any, _proxy: Any) -> None:
    """Replace a pooled connection that the server has closed, so that a restart is no error for the next query.

    A server sends nothing unasked on an idle connection, except that it closes it. So a round trip to the server,
    which `pool_pre_ping` makes each time, is needed only if there is something to read. Keepalives detect a server
    that vanished silently.
    """
    try:
        poll = select.poll()
        poll.register(connection.pgconn.socket, select.POLLIN)
        if poll.poll(0):
            connection.execute("SELECT 1")
            connection.rollback()
    except psycopg.Error as error:
        raise InvalidatePoolError from error


def _adapt_query(
    _connection: Connection, _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool
) -> tuple[str, Any]:
    """Replace NUL in the parameters, as in the stored texts, and limit the result's bytes if it has a bound."""
    if isinstance(parameters, dict):
        parameters = {
            name: without_nul(value) if isinstance(value, str) else value for name, value in parameters.items()
        }
        bound: Bound | None = context.execution_options.get(BOUND)
        if bound is not None:
            return limit_bytes(statement, bound), {**parameters, MAX_BYTES_PARAMETER: max(1, bound.max_bytes)}
    return statement, parameters
