"""Texts within the bytes of many records: compared in place, made into objects only where needed. Pure.

An object for each text of each record costs more than everything else that is done with most of them.
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
"""One text per row, as numbers of eight bytes, filled up with zeros."""

_WIDTHS = (32, 64, 128)
LONGEST = _WIDTHS[-1]
"""The most bytes of a text that is put into rows."""
SPARE = bytes(LONGEST)
"""The bytes that have to lie behind the last text."""

_HIGH_BITS = np.uint64(0x8080808080808080)
_FOUR_TIMES_TRUE = np.uint32(0x01010101)


class Texts:
    """One text of each record, in the order of the records.

    Args:
        data: The records, and `SPARE` behind them.
        begins: The index of each text's first byte.
        ends: The index behind each text's last byte.
    """

    def __init__(self, data: bytes, begins: Numbers, ends: Numbers) -> None:
        self._data = data
        self._begins = begins
        self._ends = ends

    def values(self) -> list[bytes]:
        """All texts as objects."""
        data = self._data
        return [data[begin:end] for begin, end in zip(self._begins.tolist(), self._ends.tolist(), strict=True)]

    def value(self, index: int) -> bytes:
        """The text of one record."""
        return self._data[self._begins[index] : self._ends[index]]

    @cached_property
    def lengths(self) -> Numbers:
        """The lengths in bytes."""
        return self._ends - self._begins

    @cached_property
    def rows(self) -> Rows | None:
        """All texts, no wider than needed; None if one is longer than `LONGEST`."""
        longest = self.lengths.max()
        if longest > LONGEST:
            return None
        width = next(width for width in _WIDTHS if width >= longest)
        return bytes_at(self._data, self._begins, width).view(np.uint64) & _masks(width).take(self.lengths, axis=0)

    @property
    def are_ascii(self) -> bool:
        """Whether all texts are ASCII."""
        if self.rows is None:
            return b"".join(self.values()).isascii()
        return not (self.rows & _HIGH_BITS).any()

    def index_in(self, known: Sequence[bytes]) -> npt.NDArray[np.int8]:
        """The index of each text in `known`, or -1."""
        if self.rows is None:
            return np.array([known.index(text) if text in known else -1 for text in self.values()], np.int8)
        indexes = np.full(len(self.lengths), -1, np.int8)
        width = self.rows.shape[1] * 8
        for index, text in enumerate(known):
            if len(text) <= width:
                row = np.frombuffer(text.ljust(width, b"\0"), np.uint64)
                indexes[are_equal(self.rows, row) & (self.lengths == len(text))] = index
        return indexes


def bytes_at(data: bytes, begins: Numbers, width: int) -> npt.NDArray[np.uint8]:
    """The `width` bytes from each of the indexes on, one row each; `data` has to have so many."""
    everywhere: npt.NDArray[Any] = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
    return everywhere[begins].view(np.uint8).reshape(-1, width)


def are_equal(rows: Rows, others: Rows) -> npt.NDArray[np.bool_]:
    """Whether the rows of each pair are equal; several times as fast as `all(axis=1)`."""
    are = (rows == others).view(np.uint32) == _FOUR_TIMES_TRUE
    return reduce(and_, are.T)


@lru_cache
def _masks(width: int) -> Rows:
    """For each length of a text, the mask that keeps its bytes of a row."""
    lengths, indexes = np.arange(width + 1)[:, None], np.arange(width)
    return np.where(indexes < lengths, 0xFF, 0).astype(np.uint8).view(np.uint64)
