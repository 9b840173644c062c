"""A partition's state as records of a compacted topic, and back. Pure.

A record's key is a JSON array: the source's partition, the table, the key in the table. Its value is the row as
JSON; none: the row is gone. The partition stands in the key because the source may have more partitions than the
topic of the state: then several share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import msgspec

from hypervisor_consumers.runtime.protocols import Table
from hypervisor_schemas.errors import StateError

__all__ = ["Change", "changes_of", "load_change", "tables_of"]

Change = tuple[bytes, "bytes | None"]
"""Key and value of one record."""

_encode = msgspec.json.Encoder().encode
_decode_key = msgspec.json.Decoder(list[Any]).decode


def tables_of(state: Any) -> dict[str, Table[Any, Any]]:
    """The tables of a state, by name."""
    return {field.name: getattr(state, field.name) for field in fields(state)}


def changes_of(partition: int, tables: Mapping[str, Table[Any, Any]]) -> Iterator[Change]:
    """One record for every row that changed; the tables lie over what is committed."""
    for name, table in tables.items():
        committed = table.base or {}
        begin = _encode([partition, name])[:-1]
        for key, value in table.items():
            if value is not None:
                yield _key(begin, key), _encode(value)
            elif key in committed:
                yield _key(begin, key), None


def _key(begin: bytes, key: tuple[Any, ...]) -> bytes:
    """As `[partition, table, *key]` in one; the beginning is the same for all rows of a table."""
    return begin + b"," + _encode(key)[1:] if key else begin + b"]"


def load_change(
    partition: int, tables: Mapping[str, Table[Any, Any]], key: bytes | None, value: bytes | None
) -> None:
    """Take one record into tables without a base; a row of another partition is passed over.

    Raises:
        StateError: The record is not one of these tables'.
    """
    try:
        number, name, *row = _decode_key(key or b"")
        if number != partition:
            return
        table = tables[name]
        if value is None:
            table.pop(tuple(row), None)
        else:
            table[tuple(row)] = msgspec.json.decode(value, type=table.value_type)
    except (msgspec.MsgspecError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"The record with the key {key!r} is not of this service's state ({error!r}).") from None
