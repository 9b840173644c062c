"""How rows and offsets get into PostgreSQL: few statements, whatever the size of the batch.

Everybody takes locks in the same order: offsets by place, then events by id, then counts by their key. Two copies
that bring the same events can wait for each other, but not in a circle.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Connection, Text
from sqlalchemy.dialects import postgresql

from hypervisor_consumers.event_index.stores.database import Moves, Values
from hypervisor_consumers.event_index.stores.texts import json_without_nul, key_text, without_nul
from hypervisor_consumers.event_index.tables import KeyText, events, type_counts
from hypervisor_consumers.event_index.trouble import LostPartition

__all__ = ["add_events", "count_in", "move_offsets"]

_PAYLOAD = list(events.c).index(events.c.payload)
_TEXTS = tuple(at for at, column in enumerate(events.c) if isinstance(column.type, Text))
_KEYS = tuple(at for at, column in enumerate(events.c) if isinstance(column.type, KeyText))
_SHORT = 600
"""Characters that fit, whatever they are."""


def move_offsets(connection: Connection, moves: Moves) -> None:
    """Move offsets, all or none.

    Raises:
        LostPartition: One is not the old one.
    """
    in_order = sorted(moves.items())
    first = [(*place, new) for place, (old, new) in in_order if old is None]
    if first:
        made = connection.exec_driver_sql(_FIRST_OFFSETS, _columns(first)).all()
        _check({(topic, partition): None for topic, partition, _ in first}, dict.fromkeys(map(tuple, made)))
    later = [(*place, old, new) for place, (old, new) in in_order if old is not None]
    if later:
        places = _columns([move[:2] for move in later])
        held = connection.exec_driver_sql(_HOLD_OFFSETS, places).all()
        _check(
            {(topic, partition): old for topic, partition, old, _ in later},
            {(topic, partition): at for topic, partition, at in held},
        )
        connection.exec_driver_sql(_MOVE_OFFSETS, _columns([(*move[:2], move[3]) for move in later]))


def _check(expected: dict[tuple[str, int], int | None], found: dict[Any, int | None]) -> None:
    for place, old in expected.items():
        if place not in found or found[place] != old:
            raise LostPartition(*place, old)


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


def add_events(connection: Connection, values: Values) -> int:
    """COPY into a table of this session's own, and from there those that are new, each counted. Their number."""
    connection.exec_driver_sql(_STAGE)
    with _cursor(connection) as cursor, cursor.copy(_COPY) as copy:
        for row in _storable(values):
            copy.write_row(row)
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


# Not logged, and emptied at every commit. Text is as fast as the binary form here. Of two with one key the first
# stays: ctid is the order of coming.
_STAGE = "CREATE TEMPORARY TABLE IF NOT EXISTS staged_events (LIKE events) ON COMMIT DELETE ROWS"
_NAMES = ", ".join(f'"{column.name}"' for column in events.c)
_COPY = f"COPY staged_events ({_NAMES}) FROM STDIN"
_ADD = f"""
WITH new AS (
  INSERT INTO events ({_NAMES}) SELECT {_NAMES} FROM staged_events ORDER BY event_id, timestamp, ctid
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
    """Add these to `type_counts`; they are in the order of its key."""
    if counts:
        connection.execute(_ADD_COUNT, list(counts))


_NEW_COUNT = postgresql.insert(type_counts)
_ADD_COUNT = _NEW_COUNT.on_conflict_do_update(
    index_elements=type_counts.primary_key.columns,
    set_={"count": type_counts.c.count + _NEW_COUNT.excluded.count},
)
