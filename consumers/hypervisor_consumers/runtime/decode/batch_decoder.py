"""Many records decoded at once, field by field: the fast way of what `EventDecoder` does one by one. Pure.

A batch in which anything is out of the ordinary is not taken; the decoder then goes through it and says what is
wrong. So whatever comes out of here is what the decoder would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from hypervisor_consumers.runtime.decode.byte_columns import SPARE, Texts, bytes_at
from hypervisor_consumers.runtime.decode.event_ids import id_number
from hypervisor_schemas.timestamps import microseconds
from hypervisor_schemas.wire.codec import ID_CHARACTERS

__all__ = ["EventColumns", "columns_of", "id_numbers_of", "origin_of"]

_Numbers: TypeAlias = npt.NDArray[np.int64]

_EARLIEST = microseconds(datetime.min.replace(tzinfo=UTC))
_LATEST = microseconds(datetime.max.replace(tzinfo=UTC))
_NULL, _TEXT = 0, 2
"""The branches of a union of null and string, as the wire has them."""

_SIXTEEN = np.arange(16)
_NO_DIGIT = 255
_DIGITS = np.full(256, _NO_DIGIT, np.uint8)
"""The value of each byte that is a hexadecimal digit, none of them in upper case."""
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = _SIXTEEN

_CONTINUED = np.uint64(0x8080808080808080)
_EIGHT_BYTES_LONG = np.uint64(0x0080808080808080)


@dataclass(frozen=True, slots=True)
class EventColumns:
    """The fields of a batch of events, each in the order of the records."""

    id_numbers: npt.NDArray[np.uint64]
    """As `event_ids.id_number` has them."""
    other_ids: list[str] | None
    """The ids; None: each is its number, written with sixteen hexadecimal digits."""
    event_types: Texts
    """The values in UTF-8, known or not."""
    timestamps: _Numbers
    """In microseconds since 1970."""
    origins: Texts
    """Session and agent in one: equal where both are. `origin_of` tells which they are."""
    causal_trace_ids: Texts | None
    """An absent one is empty; None: all are absent."""
    payloads: list[bytes]
    """The texts in UTF-8; whether they are JSON objects is not known."""

    def __len__(self) -> int:
        return len(self.payloads)


def columns_of(values: Sequence[bytes], framing: bytes) -> EventColumns | None:
    """The columns of these records; None: not all of them are ordinary events of the current schema.

    Args:
        values: At least one.
        framing: That of the current schema, which all have to begin with.
    """
    try:
        return _columns_of(values, framing)
    except (_Extraordinary, TypeError, UnicodeDecodeError):  # TypeError: a tombstone
        return None


def id_numbers_of(values: Sequence[bytes], framing: bytes) -> npt.NDArray[np.uint64] | None:
    """The numbers of the ids alone, for records that were decoded before. None: as `columns_of`."""
    try:
        data = b"".join(values)
        fields = _Fields(data, np.fromiter(map(len, values), np.int64, len(values)), framing)
        span = fields.text(ID_CHARACTERS)
        _expect((span.ends > span.begins).all())
        numbers = fields.hexadecimal(span)
        return _numbers_of([text.decode() for text in Texts(data, *span).values()]) if numbers is None else numbers
    except (_Extraordinary, TypeError, UnicodeDecodeError):
        return None


def origin_of(origin: bytes) -> tuple[str | None, str | None]:
    """Session and agent, as the event has them.

    Raises:
        UnicodeDecodeError: One is not UTF-8.
    """
    session, at = _optional(origin, 0)
    agent, _ = _optional(origin, at)
    return session, agent


def _optional(origin: bytes, at: int) -> tuple[str | None, int]:
    at += 1
    if origin[at - 1] == _NULL:
        return None, at
    length = shift = 0
    while True:
        byte = origin[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    end = at + (length >> 1)
    return origin[at:end].decode(), end


class _Extraordinary(Exception):
    """Something that the decoder has to look at."""


class _Span(NamedTuple):
    """From where to where the text of a field goes."""

    begins: _Numbers
    ends: _Numbers


def _columns_of(values: Sequence[bytes], framing: bytes) -> EventColumns:
    data = b"".join((*values, SPARE))
    fields = _Fields(data, np.fromiter(map(len, values), np.int64, len(values)), framing)
    ids, types = fields.text(ID_CHARACTERS), fields.text()
    _expect((ids.ends > ids.begins).all())
    timestamps = fields.timestamp()
    origins = fields.at
    fields.optional_text()
    fields.optional_text()
    agents_end = fields.at
    traces, parents = fields.optional_text(), fields.optional_text()
    payloads = fields.text()
    _expect((fields.at == fields.ends).all())

    id_numbers = fields.hexadecimal(ids)
    other_ids = None
    if id_numbers is None:
        other_ids = [text.decode() for text in Texts(data, *ids).values()]
        id_numbers = _numbers_of(other_ids)
    columns = EventColumns(
        id_numbers=id_numbers,
        other_ids=other_ids,
        event_types=Texts(data, *types),
        timestamps=timestamps,
        origins=Texts(data, origins, agents_end),
        causal_trace_ids=None if traces is None else Texts(data, *traces),
        payloads=Texts(data, *payloads).values(),
    )
    if not columns.origins.are_ascii:
        for origin in columns.origins.values():
            origin_of(origin)
    if not b"".join(columns.payloads).isascii():
        for payload in columns.payloads:
            payload.decode()
    unread = None if parents is None else Texts(data, *parents)
    for texts in (columns.event_types, columns.causal_trace_ids, unread):
        if texts is not None and not texts.are_ascii:
            for one in texts.values():
                one.decode()
    return columns


class _Fields:
    """Goes through all records at once, field by field."""

    def __init__(self, data: bytes, lengths: _Numbers, framing: bytes) -> None:
        self._data = data
        # With what is behind the last record, so that what follows a field can be looked at before it is known to
        # lie in the record.
        self._bytes = np.frombuffer(data, np.uint8)
        self.ends = np.cumsum(lengths)
        self.at = self.ends - lengths
        _expect((lengths > len(framing)).all())
        starts = bytes_at(self._data, self.at, len(framing))
        _expect((starts == np.frombuffer(framing, np.uint8)).all())
        self.at = self.at + len(framing)

    def text(self, most: int | None = None) -> _Span:
        """A string."""
        lengths = self._number()
        _expect(lengths.min() >= 0 and (most is None or lengths.max() <= most))
        begins, self.at = self.at, self.at + lengths
        _expect((self.at <= self.ends).all())
        return _Span(begins, self.at)

    def hexadecimal(self, span: _Span) -> npt.NDArray[np.uint64] | None:
        """The numbers that the texts are, if all are written with sixteen hexadecimal digits."""
        if not (span.ends - span.begins == len(_SIXTEEN)).all():
            return None
        characters = bytes_at(self._data, span.begins, len(_SIXTEEN))
        digits = _DIGITS[characters]
        if (digits == _NO_DIGIT).any():
            return None
        return (digits[:, ::2] << 4 | digits[:, 1::2]).view(">u8")[:, 0].astype(np.uint64)

    def optional_text(self) -> _Span | None:
        """A union of null and a string, an id. Absent ones are empty; None: all are."""
        branches = self._bytes[self.at]
        is_text = branches == _TEXT
        _expect((is_text | (branches == _NULL)).all())
        self.at = self.at + 1
        if not is_text.any():
            return None
        if is_text.all():
            return self.text(ID_CHARACTERS)
        before = self.at
        lengths = np.where(is_text, self._number(), 0)
        begins = np.where(is_text, self.at, before)
        _expect((lengths >= 0).all() and (lengths <= ID_CHARACTERS).all())
        self.at = begins + lengths
        _expect((self.at <= self.ends).all())
        return _Span(begins, self.at)

    def timestamp(self) -> _Numbers:
        """A long, a time that has a `datetime`."""
        eight = bytes_at(self._data, self.at, 8).view("<u8")[:, 0]
        if (eight & _CONTINUED == _EIGHT_BYTES_LONG).all():
            # Every year from 1988 to 2105 is written with eight bytes, seven bits each.
            number = eight & np.uint64(0x7F)
            for place in range(1, 8):
                number |= (eight >> np.uint64(place)) & (np.uint64(0x7F) << np.uint64(7 * place))
            self.at = self.at + 8
            times = _signed(number.view(np.int64))
        else:
            times = self._number()
        _expect((times >= _EARLIEST).all() and (times <= _LATEST).all())
        return times

    def _number(self) -> _Numbers:
        """A zigzag varint, of nine bytes at most. It may go on behind its record; the next text can't."""
        low = self._bytes[self.at]
        at = self.at + 1
        if low.max() < 0x80:
            # As a rule: texts of up to 63 bytes.
            number = low.astype(np.int64)
        else:
            number = (low & 0x7F).astype(np.int64)
            longer = np.flatnonzero(low & 0x80)
            shift = 7
            while longer.size:
                _expect(shift < 63)
                low = self._bytes[at[longer]]
                number[longer] |= (low & 0x7F).astype(np.int64) << shift
                at[longer] += 1
                longer = longer[low >= 0x80]
                shift += 7
        self.at = at
        return _signed(number)


def _numbers_of(ids: list[str]) -> npt.NDArray[np.uint64]:
    return np.fromiter(map(id_number, ids), np.uint64, len(ids))


def _signed(number: _Numbers) -> _Numbers:
    """Of numbers below 2**63."""
    return (number >> 1) ^ -(number & 1)


def _expect(is_so: object) -> None:
    if not is_so:
        raise _Extraordinary
