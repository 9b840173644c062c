"""Fetches the rows of a result up to a limit in bytes, so that rows beyond it are never in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, Select

__all__ = ["BOUND", "MAX_BYTES", "Bound", "Order", "fetch_bounded"]

MAX_BYTES = 16 * 1024 * 1024
"""The approximate size of the texts of a result. A thousand of the largest events would be fifty times as much."""

Order: TypeAlias = Sequence[tuple[str, bool]]
"""The names of the columns by which rows are ordered, each with whether the order is descending."""


class Bound(NamedTuple):
    """The limit of ordered rows of `events`: up to the row that reaches `max_bytes`, and one row more."""

    order: Order
    max_bytes: int
    """The size of the rows' texts."""


BOUND: Final = "event_index_bound"
"""The execution option that holds a statement's `Bound`. A server has to know it, because it sends a result as a
whole. SQLite needn't: it finds a row only when the row is fetched."""

_FETCH_ROWS = 64
"""The number of rows fetched at once. A row may have a megabyte."""


def fetch_bounded(
    connection: Connection, statement: Select[Any], max_bytes: int = MAX_BYTES, *, order: Order | None = None
) -> tuple[list[Any], bool]:
    """The rows of `statement` up to the one with which their texts reach `max_bytes`, and whether these are all.

    Args:
        connection: The connection on which the statement is executed.
        statement: The query.
        max_bytes: The size of the texts.
        order: The order of the statement's rows of `events`. None: the statement has a limited number of rows whose
            only texts are keys, which a server keeps short.
    """
    options = {} if order is None else {BOUND: Bound(order, max_bytes)}
    rows: list[Any] = []
    size = 0
    with connection.execute(statement, execution_options=options) as result:
        while True:
            batch = result.fetchmany(_FETCH_ROWS)
            is_end = len(batch) < _FETCH_ROWS
            for row in batch:
                rows.append(row)
                size += sum([_byte_count(value) for value in row if isinstance(value, str)])
                if size >= max_bytes:
                    return rows, row is batch[-1] and (is_end or not result.fetchmany(1))
            if is_end:
                return rows, True


def _byte_count(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
