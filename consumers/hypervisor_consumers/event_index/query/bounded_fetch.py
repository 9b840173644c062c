"""Rows of an answer, fetched so that what is beyond its bound is never in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, Select

__all__ = ["BOUND", "MAX_BYTES", "Bound", "Order", "fetched"]

MAX_BYTES = 16 * 1024 * 1024
"""Of the texts of an answer's rows, about: a thousand of the largest events would be fifty times as much."""

Order: TypeAlias = Sequence[tuple[str, bool]]
"""The names of the columns by which rows are in order, and whether from the last value to the first."""


class Bound(NamedTuple):
    """Of rows of `events` in an order, those up to the one with which they have so much, and one more."""

    order: Order
    max_bytes: int
    """Of texts."""


BOUND: Final = "event_index_bound"
"""The execution option that holds a statement's `Bound`. A server has to know it, for its answer comes as a whole;
SQLite needn't, as it finds a row when it is asked for it."""

_AT_ONCE = 64
"""Rows. A row may have a megabyte."""


def fetched(
    connection: Connection, statement: Select[Any], max_bytes: int = MAX_BYTES, *, order: Order | None = None
) -> tuple[list[Any], bool]:
    """The rows of `statement` up to the one with which their texts have `max_bytes`, and whether these are all.

    `order` is that in which it gives rows of `events`. None: it gives a limited number of rows without texts but
    keys, which a server keeps short.
    """
    options = {} if order is None else {BOUND: Bound(order, max_bytes)}
    rows: list[Any] = []
    size = 0
    with connection.execute(statement, execution_options=options) as result:
        while True:
            some = result.fetchmany(_AT_ONCE)
            is_end = len(some) < _AT_ONCE
            for row in some:
                rows.append(row)
                size += sum([_bytes(value) for value in row if isinstance(value, str)])
                if size >= max_bytes:
                    return rows, row is some[-1] and (is_end or not result.fetchmany(1))
            if is_end:
                return rows, True


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
