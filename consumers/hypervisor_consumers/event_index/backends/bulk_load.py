"""Writes rows, offsets and counts to PostgreSQL with few statements, whatever the size of the batch.

All transactions take locks in the same order: offsets by topic and partition, then events, then counts by key.
Events are inserted in the order they came, which suits indexes that end in time. So two copies that insert the same
events can deadlock. PostgreSQL aborts one of them, which rolls back to before its events and adds them by id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected, UniqueViolation
from sqlalchemy import Connection, Text
from sqlalchemy.exc import OperationalError

from hypervisor_consumers.event_index.backends.database import OffsetMoves, Values
from hypervisor_consumers.event_index.backends.type_counts import count_rows
from hypervisor_consumers.event_index.errors import LostPartition, driver_error
from hypervisor_consumers.event_index.key_text import json_without_nul, key_text, without_nul
from hypervisor_consumers.event_index.tables import EVENT_COLUMNS, TIMESTAMP, KeyText, events

__all__ = ["BulkLoader", "add_counts", "move_offsets"]

_COLUMNS = list(events.c)
_ID, _PAYLOAD = map(_COLUMNS.index, (events.c.event_id, events.c.payload))
_COUNT_KEY = [_COLUMNS.index(column) for column in (events.c.topic, events.c.partition, events.c.event_type)]
_TEXTS = tuple(index for index, column in enumerate(events.c) if isinstance(column.type, Text))
_KEYS = tuple(index for index, column in enumerate(events.c) if isinstance(column.type, KeyText))
_SHORT_CHARACTERS = 600
"""The length up to which a key fits, whatever its characters are."""

_BATCHES_BY_ID = 20
"""The batches in a row without a known event, after which the next batch is assumed to be all new again."""

_DEADLOCK_RETRIES = 3


def move_offsets(connection: Connection, moves: OffsetMoves) -> None:
    """Move all offsets, or none.

    Raises:
        LostPartition: An offset in the database is not the old one.
    """
    in_order = sorted(moves.items())
    first = [(*topic_partition, new) for topic_partition, (old, new) in in_order if old is None]
    if first:
        inserted = connection.exec_driver_sql(_FIRST_OFFSETS, _transposed(first)).all()
        _check({(topic, partition): None for topic, partition, _ in first}, dict.fromkeys(map(tuple, inserted)))
    later = [(*topic_partition, old, new) for topic_partition, (old, new) in in_order if old is not None]
    if later:
        topic_partitions = _transposed([move[:2] for move in later])
        locked = connection.exec_driver_sql(_LOCK_OFFSETS, topic_partitions).all()
        _check(
            {(topic, partition): old for topic, partition, old, _ in later},
            {(topic, partition): offset for topic, partition, offset in locked},
        )
        connection.exec_driver_sql(_MOVE_OFFSETS, _transposed([(*move[:2], move[3]) for move in later]))


def _check(expected: dict[tuple[str, int], int | None], found: dict[Any, int | None]) -> None:
    for topic_partition, old in expected.items():
        if topic_partition not in found or found[topic_partition] != old:
            raise LostPartition(*topic_partition, old)


def _transposed(rows: Sequence[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    return tuple(map(list, zip(*rows, strict=True)))


_FIRST_OFFSETS = """
INSERT INTO offsets (topic, partition, next_offset)
SELECT topic, partition, next FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS m (topic, partition, next)
ORDER BY topic COLLATE "C", partition
ON CONFLICT DO NOTHING RETURNING topic, partition
"""
_LOCK_OFFSETS = """
SELECT topic, partition, next_offset FROM offsets
WHERE (topic, partition) IN (SELECT * FROM unnest(%s::text[], %s::int[]))
ORDER BY topic, partition FOR UPDATE
"""
_MOVE_OFFSETS = """
UPDATE offsets SET next_offset = m.next
FROM unnest(%s::text[], %s::int[], %s::bigint[]) AS m (topic, partition, next)
WHERE offsets.topic = m.topic AND offsets.partition = m.partition
"""


class BulkLoader:
    """Adds batches of events: directly into their table while all are new, which is half the work.

    A batch with a known event is rolled back and added by id. The batches after it are added by id, too: known
    events rarely come alone, and each rollback leaves dead rows and a line in the server's log.
    """

    def __init__(self) -> None:
        self._batches_by_id = 0

    def add(self, connection: Connection, values: Values) -> int:
        """Insert the new events and add exactly them to the kept counts. Returns how many they are."""
        rows = _without_duplicates(_storable(values))
        if not self._batches_by_id:
            try:
                with connection.begin_nested():
                    _copy(connection, "events", rows)
            except (UniqueViolation, DeadlockDetected):
                self._batches_by_id = _BATCHES_BY_ID
            else:
                add_counts(connection, count_rows(tuple(row[index] for index in _COUNT_KEY) for row in rows))
                return len(rows)
        added = _add_by_id(connection, rows)
        self._batches_by_id = self._batches_by_id - 1 if added == len(rows) else _BATCHES_BY_ID
        return added


def _without_duplicates(values: Values) -> Values:
    """The rows without those that have the key of an earlier one."""
    first: dict[Any, tuple[Any, ...]] = {}
    for row in values:
        first.setdefault((row[_ID], row[TIMESTAMP]), row)
    return values if len(first) == len(values) else list(first.values())


def _copy(connection: Connection, table: str, rows: Values) -> None:
    with _driver_cursor(connection) as cursor, cursor.copy(f"COPY {table} ({EVENT_COLUMNS}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _add_by_id(connection: Connection, rows: Values) -> int:
    """Insert and count the new ones of these rows; again after a deadlock. Returns how many are new."""
    for _ in range(_DEADLOCK_RETRIES):
        try:
            with connection.begin_nested():
                return _add_staged(connection, rows)
        except OperationalError as error:
            # The deadlock is with a copy that adds its events directly; after the rollback that copy continues.
            if not isinstance(driver_error(error), DeadlockDetected):
                raise
    return _add_staged(connection, rows)


def _add_staged(connection: Connection, rows: Values) -> int:
    """COPY the rows into a temporary table, and insert and count the new ones from there."""
    connection.exec_driver_sql(_STAGE)
    _copy(connection, "staged_events", rows)
    return int(connection.exec_driver_sql(_ADD).scalar_one())


def _storable(values: Values) -> Values:
    """The rows as PostgreSQL can store them. Nearly all need no change; a check by column finds that out fast."""
    columns: list[tuple[Any, ...]] = list(zip(*values, strict=True))
    if (
        all(max(map(len, filter(None, columns[index])), default=0) <= _SHORT_CHARACTERS for index in _KEYS)
        and not any("\0" in "".join(filter(None, columns[index])) for index in (*_KEYS, *_TEXTS))
        and "\\u0000" not in "".join(columns[_PAYLOAD])
    ):
        return values
    return [_storable_row(row) for row in values]


def _storable_row(row: tuple[Any, ...]) -> tuple[Any, ...]:
    stored = list(row)
    for index in _KEYS:
        stored[index] = None if row[index] is None else key_text(row[index])
    for index in _TEXTS:
        stored[index] = None if row[index] is None else without_nul(row[index])
    stored[_PAYLOAD] = json_without_nul(stored[_PAYLOAD])
    return tuple(stored)


@contextmanager
def _driver_cursor(connection: Connection) -> Iterator[psycopg.Cursor[Any]]:
    """A cursor of the driver, for COPY, which SQLAlchemy doesn't have."""
    raw: Any = connection.connection.driver_connection
    try:
        with raw.cursor() as cursor:
            yield cursor
    except psycopg.Error as error:
        if raw.closed:
            connection.invalidate(error)
        raise


# Not logged, and emptied at every commit. COPY's text format is as fast as its binary format here.
_STAGE = "CREATE TEMPORARY TABLE IF NOT EXISTS staged_events (LIKE events) ON COMMIT DELETE ROWS"
_ADD = f"""
WITH new AS (
  INSERT INTO events ({EVENT_COLUMNS}) SELECT {EVENT_COLUMNS} FROM staged_events ORDER BY event_id, timestamp
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


def add_counts(connection: Connection, counts: Sequence[dict[str, Any]]) -> None:
    """Add these counts to `type_counts`; no two have the same key."""
    if counts:
        columns = _transposed([tuple(row[name] for name in _COUNT_NAMES) for row in counts])
        connection.exec_driver_sql(_ADD_COUNTS, columns)


_COUNT_NAMES = ("topic", "partition", "event_type", "count")
_ADD_COUNTS = """
INSERT INTO type_counts (topic, partition, event_type, count)
SELECT * FROM unnest(%s::text[], %s::int[], %s::text[], %s::bigint[]) AS c (topic, partition, event_type, count)
ORDER BY topic COLLATE "C", partition, event_type COLLATE "C"
ON CONFLICT (topic, partition, event_type) DO UPDATE SET count = type_counts.count + excluded.count
"""
