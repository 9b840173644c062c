"""A statement of PostgreSQL for rows of `events`, cut where their texts have so many bytes. Pure.

An answer of a server comes as a whole, or by a cursor, which takes a turn to the server for each thing: to make it,
to fetch some, to end it. So the server adds up the sizes, and there is one turn. `octet_length` knows the size of a
long text without reading it.
"""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Text

from hypervisor_consumers.event_index.query.bounded_fetch import Bound, Order
from hypervisor_consumers.event_index.tables import KeyText, events

__all__ = ["MAX_BYTES_PARAMETER", "cut"]

MAX_BYTES_PARAMETER = "bound_max_bytes"

_NAMES = ", ".join(f'"{column.name}"' for column in events.c)
_SIZE = " + ".join(
    f'octet_length("{column.name}")' if not column.nullable else f'coalesce(octet_length("{column.name}"), 0)'
    for column in events.c
    if isinstance(column.type, Text | KeyText)
)


def cut(statement: str, bound: Bound) -> str:
    """`statement` up to the row with which there are as many bytes as the parameter says, and one more."""
    before, after = _around(tuple(bound.order))
    return f"{before}{statement}{after}"


@lru_cache(maxsize=16)
def _around(order: Order) -> tuple[str, str]:
    by = ", ".join(f'"{name}"{" DESC" if is_down else ""}' for name, is_down in order)
    # Two rows back: the row behind the last one comes, too, and tells that there is one.
    window = f"OVER (ORDER BY {by} ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)"
    return (
        f"SELECT {_NAMES} FROM (SELECT *, coalesce(sum({_SIZE}) {window}, 0) AS bytes_before FROM (",  # noqa: S608
        f") AS found) AS measured WHERE bytes_before < %({MAX_BYTES_PARAMETER})s ORDER BY {by}",
    )
