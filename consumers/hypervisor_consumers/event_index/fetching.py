"""Rows of an answer, fetched so that what is beyond its bound is never in memory."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Select

__all__ = ["MAX_BYTES", "fetched"]

MAX_BYTES = 16 * 1024 * 1024
"""Of the texts of an answer's rows, about: a thousand of the largest events would be fifty times as much."""

_AT_ONCE = 64
"""Rows. A row may have a megabyte; each time is a question to a server, and an answer."""


def fetched(connection: Connection, statement: Select[Any], max_bytes: int = MAX_BYTES) -> tuple[list[Any], bool]:
    """The rows of `statement` up to the one with which their texts have `max_bytes`, and whether these are all."""
    rows: list[Any] = []
    size = 0
    with connection.execute(
        statement, execution_options={"stream_results": True, "max_row_buffer": _AT_ONCE}
    ) as result:
        while True:
            some = result.fetchmany(_AT_ONCE)
            is_end = len(some) < _AT_ONCE
            for row in some:
                rows.append(row)
                size += sum(_bytes(value) for value in row if isinstance(value, str))
                if size >= max_bytes:
                    return rows, row is some[-1] and (is_end or not result.fetchmany(1))
            if is_end:
                return rows, True


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="replace"))
