"""Cursors: where the next page goes on, as a text that nobody has to understand. Pure."""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated

import msgspec

from hypervisor_consumers.event_index.questions import Position, Wanted

__all__ = ["MAX_CURSOR_CHARACTERS", "read_cursor", "write_cursor"]

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


_decode = msgspec.json.Decoder(_Cursor).decode


def write_cursor(position: Position, wanted: Wanted) -> str:
    """The page of `wanted` before this position."""
    text = msgspec.json.encode(_Cursor(_fingerprint(wanted), *position))
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def read_cursor(cursor: str, wanted: Wanted) -> Position:
    """The position.

    Raises:
        ValueError: It is no cursor, or one of another filter.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        read = _decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, msgspec.MsgspecError):
        raise ValueError("This is not a cursor; give the `next` of an answer as it came, or none.") from None
    if read.filter != _fingerprint(wanted):
        raise ValueError("This cursor belongs to another filter; ask with the filter of the answer that gave it.")
    return Position(read.timestamp, read.topic, read.partition, read.offset)


def _fingerprint(wanted: Wanted) -> str:
    kinds = None if wanted.event_types is None else sorted(set(wanted.event_types))
    meaning = (
        *(kinds, wanted.session_id, wanted.agent_did, wanted.trace_id, wanted.start, wanted.end),
        *(wanted.payload, wanted.subtree),
    )
    return hashlib.blake2b(msgspec.json.encode(meaning, order="sorted"), digest_size=8).hexdigest()
