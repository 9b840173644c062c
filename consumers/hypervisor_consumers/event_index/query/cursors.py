"""Cursors: where the next page goes on, as a text that nobody has to understand. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from hypervisor_consumers.event_index.query.queries import GroupPosition, Position, Wanted

__all__ = [
    "MAX_CURSOR_CHARACTERS",
    "MAX_GROUP_CURSOR_CHARACTERS",
    "read_cursor",
    "read_group_cursor",
    "write_cursor",
    "write_group_cursor",
]

MAX_CURSOR_CHARACTERS = 1024
"""A topic's name has 249 at most."""

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Partition = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    filter: str
    timestamp: _Int64
    topic: Annotated[str, msgspec.Meta(max_length=249)]
    partition: _Partition
    offset: _Int64


MAX_GROUP_CURSOR_CHARACTERS = 16_384
_KEPT_CHARACTERS = 1024
"""Of a group's value: six bytes each in JSON at most, and a third more in base64."""
_LAST_CHARACTER = "\U0010ffff"


class _GroupCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    filter: str
    last: _Int64
    value: Annotated[str, msgspec.Meta(max_length=_KEPT_CHARACTERS + 1)]


C = TypeVar("C", _Cursor, _GroupCursor)

_decode = msgspec.json.Decoder(_Cursor).decode
_decode_group = msgspec.json.Decoder(_GroupCursor).decode


def write_cursor(position: Position, wanted: Wanted) -> str:
    """The page of `wanted` before this position."""
    return _text(_Cursor(_fingerprint(wanted), *position))


def read_cursor(cursor: str, wanted: Wanted) -> Position:
    """The position.

    Raises:
        ValueError: It is no cursor, or one of another filter.
    """
    read = _read(cursor, _decode, wanted)
    return Position(read.timestamp, read.topic, read.partition, read.offset)


def write_group_cursor(position: GroupPosition, wanted: Wanted) -> str:
    """The page of the groups of `wanted` behind this position."""
    value = position.value
    if len(value) > _KEPT_CHARACTERS:
        # Behind it, and behind those that begin alike.
        value = value[:_KEPT_CHARACTERS] + _LAST_CHARACTER
    return _text(_GroupCursor(_fingerprint(wanted), position.last, value))


def read_group_cursor(cursor: str, wanted: Wanted) -> GroupPosition:
    """The position.

    Raises:
        ValueError: It is no cursor, or one of another filter.
    """
    read = _read(cursor, _decode_group, wanted)
    return GroupPosition(read.last, read.value)


def _text(cursor: _Cursor | _GroupCursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _read(cursor: str, decode: Callable[[bytes], C], wanted: Wanted) -> C:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        read = decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, msgspec.MsgspecError):
        raise ValueError("This is not a cursor; give the `next` of an answer as it came, or none.") from None
    if read.filter != _fingerprint(wanted):
        raise ValueError("This cursor belongs to another filter; ask with the filter of the answer that gave it.")
    return read


def _fingerprint(wanted: Wanted) -> str:
    kinds = None if wanted.event_types is None else sorted(set(wanted.event_types))
    meaning = (
        *(kinds, wanted.session_id, wanted.agent_did, wanted.trace_id, wanted.start, wanted.end),
        *(wanted.payload, wanted.subtree),
    )
    return hashlib.blake2b(msgspec.json.encode(meaning, order="sorted"), digest_size=8).hexdigest()
