"""Numbers, texts and times as Avro writes them, for an encoder that writes one event after the other.

The bytes are those of fastavro, in a fraction of its time: the events of an agent have few types, sessions and
agents, and times close to now, so that nearly every field is looked up in a table.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypervisor_schemas.timestamps import datetime_of, microseconds

__all__ = ["LENGTHS", "BytesCache", "long_bytes", "optional_text_bytes", "text_bytes", "time_bytes"]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_LAST = [bytes((bits,)) for bits in range(0x80)]
"""The last byte of a varint: seven bits, and the mark that nothing follows."""

_CONTINUED = [bytes((bits | 0x80,)) for bits in range(0x80)]
"""Any other byte of a varint."""

LENGTHS = (*_LAST[::2], *(low + high for high in _LAST[1:] for low in _CONTINUED[::2]))
"""`long_bytes` of the lengths 0 to 8191: those of nearly all texts."""

_PAIRS = tuple(low + high for high in _CONTINUED for low in _CONTINUED)
"""14 bits of a varint that goes on after them."""


def long_bytes(number: int) -> bytes:
    """Avro's long: a zigzag varint of up to 64 bits."""
    if 0 <= number < len(LENGTHS):
        return LENGTHS[number]
    zigzag = (number << 1) ^ (number >> 63)
    if 1 << 49 <= zigzag < 1 << 56:
        # The times of 1987 to 2112.
        return _PAIRS[zigzag & 0x3FFF] + _PAIRS[zigzag >> 14 & 0x3FFF] + _time_end(zigzag >> 28)
    return _varint(zigzag)


def _time_end(high: int) -> bytes:
    """The last four of the eight bytes of such a time."""
    return _PAIRS[high & 0x3FFF] + bytes((high >> 14 & 0x7F | 0x80, high >> 21))


def text_bytes(text: str) -> bytes:
    """Avro's string: the length of the UTF-8, then the UTF-8.

    Raises:
        UnicodeEncodeError: The text holds a lone surrogate.
    """
    data = text.encode()
    return long_bytes(len(data)) + data


def optional_text_bytes(text: str | None) -> bytes:
    """Avro's union of null and string.

    Raises:
        UnicodeEncodeError: The text holds a lone surrogate.
    """
    return b"\x00" if text is None else b"\x02" + text_bytes(text)


_SPAN_US = 1 << 27
"""134 seconds. Times in one such span differ in the first four of their bytes only."""

_span = datetime.max.replace(tzinfo=UTC), b""
"""The beginning of the latest time's span, and the bytes that all times in it share. Replaced as one value."""


def time_bytes(moment: Any) -> bytes:
    """`long_bytes(microseconds(moment))`; raises what that raises."""
    global _span  # noqa: PLW0603 - the last thread wins: every span is right
    span_begin, shared_bytes = _span
    if type(moment) is datetime and moment.tzinfo is UTC:
        since = moment - span_begin
        zigzag = since.seconds * 2_000_000 + since.microseconds * 2
        if zigzag < 2 * _SPAN_US and not since.days:
            return _PAIRS[zigzag & 0x3FFF] + _PAIRS[zigzag >> 14] + shared_bytes
    time_us = microseconds(moment)
    written = long_bytes(time_us)
    if time_us > 0 and len(written) == 8:
        _span = datetime_of(time_us - time_us % _SPAN_US), written[4:]
    return written


class BytesCache(dict[Any, bytes]):
    """The bytes that `write` makes of each key, kept for the next time. A full cache forgets everything.

    Bytes longer than `max_entry_bytes` are not kept, so that nobody's ids take the memory of an agent.
    """

    def __init__(
        self, write: Callable[[Any], bytes], max_entries: int = 16_384, max_entry_bytes: int = 128
    ) -> None:
        super().__init__()
        self._write = write
        self._max_entries = max_entries
        self._max_entry_bytes = max_entry_bytes

    def __missing__(self, key: Any) -> bytes:
        written = self._write(key)
        if len(written) <= self._max_entry_bytes:
            if len(self) >= self._max_entries:
                self.clear()
            self[key] = written
        return written
