"""How rows and offsets get into PostgreSQL: few statements, whatever the size of the batch.

Everybody takes locks in the same order: offsets by place, then events, then counts by their key. Events as they
come, which is how indexes that end in time like them; so two copies that bring the same events can wait for each
other in a circle. PostgreSQL ends that for one of them, which goes back to before its events and adds them by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected, UniqueViolation
from sqlalchemy import Connection, Text
from sqlalchemy.exc import OperationalError

from hypervisor_consumers.event_index.backends.database import Moves, Values
from hypervisor_consumers.event_index.backends.type_counts import counted
from hypervisor_consumers.event_index.errors import LostPartition
from hypervisor_consumers.event_index.key_text import json_without_nul, key_text, without_nul
from hypervisor_consumers.event_index.tables import KeyText, events

__all__ = ["Loading", "count_in", "move_offsets"]

_COLUMNS = list(events.c)
_ID, _TIMESTAMP, _PAYLOAD = map(_COLUMNS.index, (events.c.event_id, events.c.timestamp, events.c.payload))
_COUNTED = [_COLUMNS.index(column) for column in (events.c.topic, events.c.partition, events.c.event_type)]
_TEXTS = tuple(at for at, column in enumerate(events.c) if isinstance(column.type, Text))
_KEYS = tuple(at for at, column in enumerate(events.c) if isinstance(column.type, KeyText))
_SHORT = 600
"""Characters that fit, whatever they are."""

_LOOKS_AFTER_ONE = 20
"""Batches in a row without an event that was there, until the next is taken to be new as a whole."""

_DEADLOCKS = 3


def move_offsets(connection: Connection, moves: Moves) -> None:
    """Move offsets, all or none.

    Raises:
        LostPartition: One is not the old one.
    """
    in_order = sorted(moves.items())
    first = [(*topic_partition, new) for topic_partition, (old, new) in in_order if old is None]
    if first:
        made = connection.exec_driver_sql(_FIRST_OFFSETS, _columns(first)).all()
        _check({(topic, partition): None for topic, partition, _ in first}, dict.fromkeys(map(tuple, made)))
    later = [(*topic_partition, old, new) for topic_partition, (old, new) in in_order if old is not None]
    if later:
        topic_partitions = _columns([move[:2] for move in later])
        held = connection.exec_driver_sql(_HOLD_OFFSETS, topic_partitions).all()
        _check(
            {(topic, partition): old for topic, partition, old, _ in later},
            {(topic, partition): at for topic, partition, at in held},
        )
        connection.exec_driver_sql(_MOVE_OFFSETS, _columns([(*move[:2], move[3]) for move in later]))


def _check(expected: dict[tuple[str, int], int | None], found: dict[Any, int | None]) -> None:
    for topic_partition, old in expected.items():
        if topic_partition not in found or found[topic_partition] != old:
            raise LostPartition(*topic_partition, old)


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


_FIRST_OFFSETS = """
INSERT INTO offsets (topic, partition, next_offset)
SELECT topic, partition, next FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS m (topic, partition, next)
ORDER BY topic COLLATE "C", partition
ON CONFLICT DO NOTHING RETURNING topic, partition
"""
_HOLD_OFFSETS = """
SELECT topic, partition, next_offset FROM offsets
WHERE (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::int[]))
ORDER BY topic, partition FOR UPDATE
"""
_MOVE_OFFSETS = """
UPDATE offsets SET next_offset = m.next
FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS m (topic, partition, next)
WHERE offsets.topic = m.topic AND offsets.partition = m.partition
"""


class Loading:
    """Adds batches of events: straight into their table as long as all are new, which is half the work.

    A batch of which some are there already is undone, and added with a look at each. So are those that follow it:
    where events come twice there are more of them, and what is undone leaves dead rows and a line in the server's
    log.
    """

    def __init__(self) -> None:
        self._looks = 0

    def add(self, connection: Connection, values: Values) -> int:
        """Insert those that are new, and count exactly them. Returns their number."""
        rows = _once(_storable(values))
        if not self._looks:
            try:
                with connection.begin_nested():
                    _copy(connection, "events", rows)
            except (UniqueViolation, DeadlockDetected):
                self._looks = _LOOKS_AFTER_ONE
            else:
                count_in(connection, counted(tuple(row[at] for at in _COUNTED) for row in rows))
                return len(rows)
        added = _add_with_a_look(connection, rows)
        self._looks = self._looks - 1 if added == len(rows) else _LOOKS_AFTER_ONE
        return added


def _once(values: Values) -> Values:
    """Of those with one key the first."""
    first: dict[Any, tuple[Any, ...]] = {}
    for row in values:
        first.setdefault((row[_ID], row[_TIMESTAMP]), row)
    return values if len(first) == len(values) else list(first.values())


def _copy(connection: Connection, table: str, rows: Values) -> None:
    with _cursor(connection) as cursor, cursor.copy(f"COPY {table} ({_NAMES}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _add_with_a_look(connection: Connection, rows: Values) -> int:
    """COPY into a table of this session's own, and from there those that are new, each counted. Their number."""
    for _ in range(_DEADLOCKS):
        try:
            with connection.begin_nested():
                return _staged(connection, rows)
        except OperationalError as error:
            # With one that adds its events as they come; it is over when this one has gone back.
            if not isinstance(error.orig, DeadlockDetected):
                raise
    return _staged(connection, rows)


def _staged(connection: Connection, rows: Values) -> int:
    connection.exec_driver_sql(_STAGE)
    _copy(connection, "staged_events", rows)
    return int(connection.exec_driver_sql(_ADD).scalar_one())


def _storable(values: Values) -> Values:
    """The rows as they can be stored. Nearly all can be as they are; that is looked up by column, which is fast."""
    columns: list[tuple[Any, ...]] = list(zip(*values, strict=True))
    if (
        all(max(map(len, filter(None, columns[at])), default=0) <= _SHORT for at in _KEYS)
        and not any("\0" in "".join(filter(None, columns[at])) for at in (*_KEYS, *_TEXTS))
        and "\\u0000" not in "".join(columns[_PAYLOAD])
    ):
        return values
    return [_stored(row) for row in values]


def _stored(row: tuple[Any, ...]) -> tuple[Any, ...]:
    stored = list(row)
    for at in _KEYS:
        stored[at] = None if row[at] is None else key_text(row[at])
    for at in _TEXTS:
        stored[at] = None if row[at] is None else without_nul(row[at])
    stored[_PAYLOAD] = json_without_nul(stored[_PAYLOAD])
    return tuple(stored)


@contextmanager
def _cursor(connection: Connection) -> Iterator[psycopg.Cursor[Any]]:
    """The driver's own, for what SQLAlchemy has no word for."""
    raw: Any = connection.connection.driver_connection
    try:
        with raw.cursor() as cursor:
            yield cursor
    except psycopg.Error as error:
        if raw.closed:
            connection.invalidate(error)
        raise


# Not logged, and emptied at every commit. Text is as fast as the binary form here.
_STAGE = "CREATE TEMPORARY TABLE IF NOT EXISTS staged_events (LIKE events) ON COMMIT DELETE ROWS"
_NAMES = ", ".join(f'"{column.name}"' for column in events.c)
_ADD = f"""
WITH new AS (
  INSERT INTO events ({_NAMES}) SELECT {_NAMES} FROM staged_events ORDER BY event_id, timestamp
  ON CONFLICT DO NOTHING RETURNING topic, partition, event_type
), counted AS (
  SELECT topic, partition, event_type, count(*) AS count FROM new GROUP BY topic, partition, event_type
), kept AS (
  INSERT INTO type_counts (topic, partition, event_type, count)
  SELECT * FROM counted ORDER BY topic, partition, event_type
  ON CONFLICT (topic, partition, event_type) DO UPDATE SET count = type_counts.count + excluded.count
)
SELECT coalesce(sum(count), 0) FROM counted
"""  # noqa: S608 - names of columns


def count_in(connection: Connection, counts: Sequence[dict[str, Any]]) -> None:
    """Add these to `type_counts`, each of another key."""
    if counts:
        columns = _columns([tuple(row[name] for name in _COUNT_NAMES) for row in counts])
        connection.exec_driver_sql(_ADD_COUNTS, columns)


_COUNT_NAMES = ("topic", "partition", "event_type", "count")
_ADD_COUNTS = """
INSERT INTO type_counts (topic, partition, event_type, count)
SELECT * FROM unnest(%s::text[], %s::int[], %s::text[], %s::bigint[]) AS c (topic, partition, event_type, count)
ORDER BY topic COLLATE "C", partition, event_type COLLATE "C"
ON CONFLICT (topic, partition, event_type) DO UPDATE SET count = type_counts.count + excluded.count
"""
