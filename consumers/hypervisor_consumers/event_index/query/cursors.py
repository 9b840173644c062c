"""Cursors: the position where the next page continues, as an opaque text. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Annotated, TypeVar

import msgspec

from hypervisor_consumers.event_index.query.queries import EventFilter, GroupPosition, Position

__all__ = [
    "MAX_CURSOR_CHARACTERS",
    "MAX_GROUP_CURSOR_CHARACTERS",
    "read_cursor",
    "read_group_cursor",
    "write_cursor",
    "write_group_cursor",
]

MAX_CURSOR_CHARACTERS = 1024
"""Enough for the longest topic name, which has 249 characters."""

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Partition = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class _Cursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    filter: str
    timestamp_us: _Int64
    topic: Annotated[str, msgspec.Meta(max_length=249)]
    partition: _Partition
    offset: _Int64


MAX_GROUP_CURSOR_CHARACTERS = 16_384
_KEPT_CHARACTERS = 1024
"""The characters kept of a group's value. Each takes six bytes in JSON at most, and a third more in base64."""
_LAST_CHARACTER = "\U0010ffff"


class _GroupCursor(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    filter: str
    last_us: _Int64
    value: Annotated[str, msgspec.Meta(max_length=_KEPT_CHARACTERS + 1)]


C = TypeVar("C", _Cursor, _GroupCursor)

_decode = msgspec.json.Decoder(_Cursor).decode
_decode_group = msgspec.json.Decoder(_GroupCursor).decode


def write_cursor(position: Position, event_filter: EventFilter) -> str:
    """The cursor to the page before this position, for this filter."""
    return _encode(_Cursor(_fingerprint(event_filter), *position))


def read_cursor(cursor: str, event_filter: EventFilter) -> Position:
    """The position of a cursor to a page of events.

    Raises:
        ValueError: The text is no cursor, or a cursor of another filter.
    """
    read = _read(cursor, _decode, event_filter)
    return Position(read.timestamp_us, read.topic, read.partition, read.offset)


def write_group_cursor(position: GroupPosition, event_filter: EventFilter) -> str:
    """The cursor to the page of groups after this position, for this filter."""
    value = position.value
    if len(value) > _KEPT_CHARACTERS:
        # This position is after the group, and after all groups whose value begins alike.
        value = value[:_KEPT_CHARACTERS] + _LAST_CHARACTER
    return _encode(_GroupCursor(_fingerprint(event_filter), position.last_us, value))


def read_group_cursor(cursor: str, event_filter: EventFilter) -> GroupPosition:
    """The position of a cursor to a page of groups.

    Raises:
        ValueError: The text is no cursor, or a cursor of another filter.
    """
    read = _read(cursor, _decode_group, event_filter)
    return GroupPosition(read.last_us, read.value)


def _encode(cursor: _Cursor | _GroupCursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def _read(cursor: str, decode: Callable[[bytes], C], event_filter: EventFilter) -> C:
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        read = decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, msgspec.MsgspecError):
        raise ValueError("This is not a cursor; give the `next` of an answer as it came, or none.") from None
    if read.filter != _fingerprint(event_filter):
        raise ValueError("This cursor belongs to another filter; ask with the filter of the answer that gave it.")
    return read


def _fingerprint(event_filter: EventFilter) -> str:
    types = None if event_filter.event_types is None else sorted(set(event_filter.event_types))
    fields = (
        *(
            types,
            event_filter.session_id,
            event_filter.agent_did,
            event_filter.trace_id,
            event_filter.start,
            event_filter.end,
        ),
        *(event_filter.payload, event_filter.subtree),
    )
    return hashlib.blake2b(msgspec.json.encode(fields, order="sorted"), digest_size=8).hexdigest()
