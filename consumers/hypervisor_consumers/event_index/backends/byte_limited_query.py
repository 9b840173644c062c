"""Limits a PostgreSQL statement for rows of `events` by the bytes of their texts. Pure.

A server sends a result as a whole, unless it is read by a cursor. A cursor costs a round trip to declare it, one
for each fetch and one to close it. So here the server adds up the sizes itself, which takes one round trip.
`octet_length` knows the size of a long text without reading it.
"""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import Text

from hypervisor_consumers.event_index.query.bounded_fetch import Bound, Order
from hypervisor_consumers.event_index.tables import EVENT_COLUMNS, KeyText, events

__all__ = ["MAX_BYTES_PARAMETER", "limit_bytes"]

MAX_BYTES_PARAMETER = "bound_max_bytes"

_SIZE = " + ".join(
    f'octet_length("{column.name}")' if not column.nullable else f'coalesce(octet_length("{column.name}"), 0)'
    for column in events.c
    if isinstance(column.type, Text | KeyText)
)


def limit_bytes(statement: str, bound: Bound) -> str:
    """`statement` up to the row with which the texts reach the parameter's number of bytes, and one row more."""
    prefix, suffix = _wrapper(tuple(bound.order))
    return f"{prefix}{statement}{suffix}"


@lru_cache(maxsize=16)
def _wrapper(order: Order) -> tuple[str, str]:
    order_by = ", ".join(f'"{name}"{" DESC" if descending else ""}' for name, descending in order)
    # The window ends two rows back, so that the row after the last one is included. It shows that there is more.
    window = f"OVER (ORDER BY {order_by} ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING)"
    return (
        f"SELECT {EVENT_COLUMNS} FROM (SELECT *, coalesce(sum({_SIZE}) {window}, 0) AS bytes_before FROM (",  # noqa: S608
        f") AS found) AS measured WHERE bytes_before < %({MAX_BYTES_PARAMETER})s ORDER BY {order_by}",
    )
