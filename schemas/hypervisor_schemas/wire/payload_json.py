"""A payload as JSON text. It never raises: an agent's odd value must not cost it the event."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from typing import Any

import msgspec

__all__ = ["to_json", "to_json_bytes"]

_MAX_DEPTH = 64
# A value takes at least two bytes of text, so that more don't fit into an event of the default 900 KiB.
_MAX_VALUES = 500_000
_PLAIN_TYPES = frozenset({str, int, bool, type(None)})
_TEXT = frozenset({str})
# At most 64 ** 3 values altogether: far below the bounds above.
_PLAIN_DEPTH, _PLAIN_WIDTH = 2, 64
_SCALARS = (str, int, float, type(None), datetime, date, time, bytes, bytearray, memoryview)
_CONTAINERS = (dict, list, tuple, set, frozenset, Mapping)
_encode = msgspec.json.Encoder().encode


def to_json(payload: Any) -> str:
    """`payload` as the text of a JSON object.

    NaN and infinities become "NaN", "Infinity" and "-Infinity", datetimes ISO 8601, enums their values, bytes
    base64, lone surrogates "?", sets and tuples arrays, and anything else its `str()`. A payload that is no mapping
    is wrapped as `{"value": …}`, and None is `{}`. A remark takes the place of a container inside itself, of one
    below 64 others, and of one after the first 500,000 values.
    """
    return to_json_bytes(payload).decode()


def to_json_bytes(payload: Any) -> bytes:
    """`payload` as a JSON object in UTF-8, by the rules of `to_json`."""
    try:
        if type(payload) is dict:
            for value in payload.values():
                if type(value) not in _PLAIN_TYPES and not _is_plain(value, len(payload), _PLAIN_DEPTH):
                    break
            else:
                return _encode(payload)
    except Exception:  # noqa: BLE001, S110 - a key or a string that JSON can't hold: the careful way takes it
        pass
    if payload is None:
        return b"{}"
    cleaned = _Cleaner().clean(payload)
    return _encode(cleaned if isinstance(cleaned, dict) else {"value": cleaned})


def _is_plain(value: Any, beside: int, depth: int) -> bool:
    """Whether JSON can hold `value` unchanged, and it is small enough to look at all of it."""
    kind = type(value)
    if kind is float:
        return math.isfinite(value)
    if (kind is not dict and kind is not list) or depth == 0 or max(beside, len(value)) > _PLAIN_WIDTH:
        return False
    inner = value
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            return False
        inner = value.values()
    return all(type(each) in _PLAIN_TYPES or _is_plain(each, len(value), depth - 1) for each in inner)


class _Cleaner:
    """One bounded walk through a payload, whatever its references are: an agent must not hang on its own event."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._left = _MAX_VALUES

    def clean(self, value: Any) -> Any:
        self._left -= 1
        try:
            if isinstance(value, Enum):
                return self.clean(value.value)
            if isinstance(value, _SCALARS):
                return _clean_scalar(value)
            if isinstance(value, _CONTAINERS):
                return self._clean_container(value)
            return _text(str(value))
        except Exception:  # noqa: BLE001 - an object of the agent's may raise anything
            return _unwritable(value)

    def _clean_container(self, value: Any) -> Any:
        if id(value) in self._open:
            return f"<{type(value).__name__} that contains itself>"
        if self._left < 0:
            return f"<{type(value).__name__} beyond the first {_MAX_VALUES} values>"
        if len(self._open) >= _MAX_DEPTH:
            return f"<{type(value).__name__} below {_MAX_DEPTH} others>"
        self._open.add(id(value))
        try:
            if isinstance(value, Mapping):
                return {_key(key): self.clean(inner) for key, inner in value.items()}
            return [self.clean(inner) for inner in value]
        finally:
            self._open.discard(id(value))


def _clean_scalar(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        # int.__str__ refuses more than 4300 digits; here, so that it does so inside the guard.
        str(int(value))
        return int(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    return value


def _key(key: Any) -> str:
    try:
        plain = key.value if isinstance(key, Enum) else key
        cleaned = _clean_scalar(plain) if isinstance(plain, _SCALARS) else _text(str(plain))
    except Exception:  # noqa: BLE001 - as for values
        cleaned = _unwritable(key)
    return cleaned if isinstance(cleaned, str) else _encode(cleaned).decode()


def _unwritable(value: Any) -> str:
    return f"<{type(value).__name__} that can't be written as text>"


def _text(value: str) -> str:
    return value.encode("utf-8", "replace").decode()


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
