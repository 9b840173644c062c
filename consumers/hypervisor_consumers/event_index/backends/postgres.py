"""PostgreSQL: many copies write side by side, each its own partitions."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import InvalidatePoolError, OperationalError

from hypervisor_consumers.event_index.backends import bulk_load as loading
from hypervisor_consumers.event_index.backends.byte_limited_query import MAX_BYTES_PARAMETER, cut
from hypervisor_consumers.event_index.backends.database import GIVE, Moves, Values, unusable
from hypervisor_consumers.event_index.backends.partition_maintenance import Partitions, drop_oldest
from hypervisor_consumers.event_index.backends.time_partitions import WEEK, weeks_with_partitions
from hypervisor_consumers.event_index.backends.type_counts import counted
from hypervisor_consumers.event_index.key_text import without_nul
from hypervisor_consumers.event_index.query.bounded_fetch import BOUND, Bound
from hypervisor_consumers.event_index.tables import events

__all__ = ["PostgresDatabase"]

_SCHEMA_LOCK, _EXPIRY_LOCK = 0x6576_656E_7473_0001, 0x6576_656E_7473_0003
_LEAST_VERSION = 130000
_READERS = 10
"""Connections: a server lets 100 in by default, and there may be several copies."""

# A server that is gone without a word is noticed within 25 s, less than `/healthz` takes to turn red.
_CONNECTING = {
    "application_name": "hypervisor-telemetry event-index",
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
}
_TIMESTAMP = list(events.c).index(events.c.timestamp)


class PostgresDatabase:
    """Implements `Database`. Nothing is connected yet.

    Args:
        url: With the driver psycopg; what else it names is libpq's.
        busy_seconds: How long a lock is waited for, at most.
        query_seconds: How long a reader's statement may take.
        now: Seconds since 1970.

    Raises:
        SettingError: The URL can't be used.
    """

    is_a_server = True

    def __init__(
        self, url: URL, *, busy_seconds: float, query_seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        if url.drivername not in {"postgresql", "postgresql+psycopg"}:
            raise unusable(f"names a driver that isn't here; {GIVE}")
        self._now = now
        # Writing, and beside it what is tidied up. Neither ever waits for a reader's connection.
        self.writer = self.own = _engine(
            url,
            "READ COMMITTED",
            {
                "lock_timeout": f"{busy_seconds:g}s",
                "statement_timeout": "20s",
                # A copy that is frozen in mid-transaction would hold its partitions' offsets for good.
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
                # Compiling a plan over many partitions takes longer than any of these questions.
                "jit": "off",
                # As for an SSD. With 4, a type's events of some hours are found by reading all of those hours.
                "random_page_cost": "1.1",
            },
            pool_size=_READERS,
            max_overflow=0,
            pool_timeout=query_seconds,
        )
        event.listen(self.readers, "before_cursor_execute", _as_it_is_asked, retval=True)
        self._partitions = Partitions(self.writer)
        self._loading = loading.Loading()

    def hold_schema(self, connection: Connection) -> None:
        """By an advisory lock; waited for as long as it takes others to make the same tables."""
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_SCHEMA_LOCK,))
        version, encoding = connection.exec_driver_sql(
            "SELECT current_setting('server_version_num')::int, current_setting('server_encoding')"
        ).one()
        if version < _LEAST_VERSION:
            raise unusable("names a PostgreSQL that is too old; the event index needs 13 or newer.")
        if encoding != "UTF8":
            raise unusable(f"names a database whose encoding is {encoding}; make it with ENCODING 'UTF8'.")

    def make_room(self, values: Values) -> None:
        """The weeks of these, and the week to come: it is there before the first event of it."""
        now = int(self._now() * 1_000_000)
        times = {row[_TIMESTAMP] for row in values}
        self._partitions.ensure(weeks_with_partitions({*times, now, now + WEEK}, now))

    def move_offsets(self, connection: Connection, moves: Moves) -> None:
        """Each row is locked until the end of the transaction: nobody else can move it meanwhile."""
        loading.move_offsets(connection, moves)

    def add_events(self, connection: Connection, values: Values) -> int:
        """By COPY; an event whose id and time are there stays as it is."""
        return self._loading.add(connection, values)

    def expire(self, before: int, at_most: int) -> int:
        """A whole partition where all of it is old enough, else the oldest rows."""
        with self.writer.begin() as connection:
            if not connection.exec_driver_sql("SELECT pg_try_advisory_xact_lock(%s)", (_EXPIRY_LOCK,)).scalar_one():
                return 0
            try:
                with connection.begin_nested():
                    dropped = drop_oldest(connection, before, lambda counts: loading.count_in(connection, counts))
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != "55P03":  # lock_not_available
                    raise
                dropped = None
            if dropped is not None:
                return dropped.events
            gone = connection.exec_driver_sql(_EXPIRE, {"before": before, "at_most": at_most}).all()
            loading.count_in(connection, counted(gone, sign=-1))
        return len(gone)

    def close(self) -> None:
        """Close every connection."""
        self.writer.dispose()
        self.readers.dispose()


# By time alone, so that one index of few partitions is walked; those of one moment go together.
_EXPIRE = """
DELETE FROM events WHERE timestamp < %(before)s AND timestamp <= (
  SELECT max(timestamp) FROM (
    SELECT timestamp FROM events WHERE timestamp < %(before)s ORDER BY timestamp LIMIT %(at_most)s
  ) AS oldest
)
RETURNING topic, partition, event_type
"""


def _engine(url: URL, isolation: Any, session: dict[str, str], **pool: Any) -> Engine:
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level=isolation,
        # Plans of prepared statements don't know which partitions they will need.
        connect_args={"prepare_threshold": None, **{k: v for k, v in _CONNECTING.items() if k not in url.query}},
        hide_parameters=True,
        **pool,
    )
    event.listen(engine, "checkout", _look_whether_it_is_there)
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in session.items())

    def configure(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT set_config('client_min_messages', 'warning', false), {settings}")
        connection.commit()

    event.listen(engine, "connect", configure)
    return engine


def _look_whether_it_is_there(connection: Any, _record: Any, _in_use: Any) -> None:
    """A server that was started again is no error for whoever asks next.

    It says nothing unasked but that it goes. So a turn to it, as `pool_pre_ping` takes each time, is taken only
    where something came; that it is gone without a word is found out by keepalives.
    """
    try:
        poll = select.poll()
        poll.register(connection.pgconn.socket, select.POLLIN)
        if poll.poll(0):
            connection.execute("SELECT 1")
            connection.rollback()
    except psycopg.Error as error:
        raise InvalidatePoolError from error


def _as_it_is_asked(
    _connection: Connection, _cursor: Any, statement: str, parameters: Any, context: Any, _many: bool
) -> tuple[str, Any]:
    """A text with NUL is stored with another character in its place, and asked for so; answers have a bound."""
    if isinstance(parameters, dict):
        parameters = {
            name: without_nul(value) if isinstance(value, str) else value for name, value in parameters.items()
        }
        bound: Bound | None = context.execution_options.get(BOUND)
        if bound is not None:
            return cut(statement, bound), {**parameters, MAX_BYTES_PARAMETER: max(1, bound.max_bytes)}
    return statement, parameters
