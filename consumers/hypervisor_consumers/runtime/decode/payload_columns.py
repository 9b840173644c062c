"""Reads the payloads of a batch into the few fields that a service uses. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import numpy as np

__all__ = ["read_each"]

T = TypeVar("T")

_read_all = msgspec.json.Decoder().decode

# A decoder of some fields skips the others, and checks them as closely as this one does, except for one thing:
# whether a float can hold a number. One that is too large has an exponent of three digits, or hundreds of digits.
_ALIKE = bytes.maketrans(b"123456789E", b"000000000e")
_LARGE_EXPONENT, _MANY_DIGITS = b"0e000", b"0" * 200
_ZERO, _E, _LOWER_CASE = np.uint8(ord("0")), np.uint8(ord("e")), np.uint8(0x20)
_EIGHT_TIMES_TRUE = np.uint64(0x0101010101010101)


def read_each(payloads: Sequence[bytes], read: Callable[[bytes], T]) -> list[T] | None:
    """Read each payload by a typed decoder's `decode`; None if one of them is no JSON, or not of that type."""
    try:
        if _may_have_large_numbers(b" ".join(payloads)):
            for payload in payloads:
                _read_all(payload)
        return list(map(read, payloads))
    except (msgspec.MsgspecError, RecursionError):
        return None


def _may_have_large_numbers(text: bytes) -> bool:
    characters = np.frombuffer(text, np.uint8)
    is_digit, is_e = characters - _ZERO < 10, (characters | _LOWER_CASE) == _E
    # Usually there is no exponent at all. And a number of so many digits fills a whole block.
    blocks = is_digit[: len(text) // 64 * 64].view(np.uint64).reshape(-1, 8)
    if not (is_digit[:-1] & is_e[1:]).any() and not (blocks == _EIGHT_TIMES_TRUE).all(axis=1).any():
        return False
    digits = text.translate(_ALIKE, b"+-")
    return _LARGE_EXPONENT in digits or _MANY_DIGITS in digits
