"""Texts that lie among the bytes of many records: compared there, made into objects only if need be. Pure.

An object for each text of each record costs more than all else that is done with most of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache, reduce
from operator import and_
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["LONGEST", "SPARE", "Rows", "Texts", "are_equal", "bytes_at"]

Numbers: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.uint64]
"""A text in each row, eight bytes a number, zeros behind it."""

_WIDTHS = (32, 64, 128)
LONGEST = _WIDTHS[-1]
"""Bytes of the longest text that is put into rows."""
SPARE = bytes(LONGEST)
"""What has to lie behind the last text."""

_HIGH_BITS = np.uint64(0x8080808080808080)
_FOUR_TIMES_TRUE = np.uint32(0x01010101)


class Texts:
    """One text of each record, in the order of the records.

    Args:
        data: The records, and `SPARE` behind them.
        begins: Where each text begins.
        ends: Where each ends.
    """

    def __init__(self, data: bytes, begins: Numbers, ends: Numbers) -> None:
        self._data = data
        self._begins = begins
        self._ends = ends

    def values(self) -> list[bytes]:
        """Each as an object."""
        data = self._data
        return [data[begin:end] for begin, end in zip(self._begins.tolist(), self._ends.tolist(), strict=True)]

    def value(self, place: int) -> bytes:
        """That of one record."""
        return self._data[self._begins[place] : self._ends[place]]

    @cached_property
    def lengths(self) -> Numbers:
        """In bytes."""
        return self._ends - self._begins

    @cached_property
    def rows(self) -> Rows | None:
        """All of them, or None: one is too long. As wide as has to be."""
        longest = self.lengths.max()
        if longest > LONGEST:
            return None
        width = next(width for width in _WIDTHS if width >= longest)
        return bytes_at(self._data, self._begins, width).view(np.uint64) & _masks(width).take(self.lengths, axis=0)

    @property
    def are_ascii(self) -> bool:
        """Whether all are."""
        if self.rows is None:
            return b"".join(self.values()).isascii()
        return not (self.rows & _HIGH_BITS).any()

    def which_of(self, known: Sequence[bytes]) -> npt.NDArray[np.int8]:
        """Of each the place in `known`, or -1."""
        if self.rows is None:
            return np.array([known.index(one) if one in known else -1 for one in self.values()], np.int8)
        which = np.full(len(self.lengths), -1, np.int8)
        width = self.rows.shape[1] * 8
        for place, one in enumerate(known):
            if len(one) <= width:
                row = np.frombuffer(one.ljust(width, b"\0"), np.uint64)
                which[are_equal(self.rows, row) & (self.lengths == len(one))] = place
        return which


def bytes_at(data: bytes, begins: Numbers, width: int) -> npt.NDArray[np.uint8]:
    """So many bytes from each place on, a row each; there have to be so many."""
    everywhere: npt.NDArray[Any] = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
    return everywhere[begins].view(np.uint8).reshape(-1, width)


def are_equal(rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
    """Of each pair of rows whether they are; several times as fast as `all(axis=1)`."""
    are = (rows == others).view(np.uint32) == _FOUR_TIMES_TRUE
    return reduce(and_, are.T)


@lru_cache
def _masks(width: int) -> Rows:
    """By length, what is to be left of so many bytes."""
    lengths, places = np.arange(width + 1)[:, None], np.arange(width)
    return np.where(places < lengths, 0xFF, 0).astype(np.uint8).view(np.uint64)
