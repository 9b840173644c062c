"""Event ids as numbers. Pure."""

from __future__ import annotations

import hashlib

__all__ = ["id_number"]

_HEX_DIGITS = frozenset("0123456789abcdef")


def id_number(event_id: str) -> int:
    """An id as a number of 64 bits: the one it is in hexadecimal, for ids of any other form a hash of it."""
    if len(event_id) == 16 and _HEX_DIGITS.issuperset(event_id):
        return int(event_id, 16)
    return int.from_bytes(hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())
