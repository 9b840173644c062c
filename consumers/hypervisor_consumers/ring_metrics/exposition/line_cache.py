"""The text of many series, kept from scrape to scrape and overwritten where numbers change. Pure.

Rows are immutable: a row is replaced, not changed. So the same object has the same text as at the scrape before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import is_not
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from hypervisor_consumers.ring_metrics.fold.state import AgentSession

__all__ = ["NO_NUMBER", "Changes", "LineCache", "Numbers", "RowTracker"]

R = TypeVar("R")

Numbers: TypeAlias = npt.NDArray[np.int64]

NO_NUMBER = int(np.iinfo(np.int64).min)
"""Stands for a number that is missing."""

_ENDING = ".0\n"
_ZERO = ord("0")
_POWERS_OF_TEN = 10 ** np.arange(1, 19)


class Changes(NamedTuple):
    """Indexes into the lists of a `RowTracker`, ascending."""

    gone: list[int]
    """Indexes, before the update, of rows that are gone. The rows behind them have moved up."""
    changed: list[int]
    """Indexes, after the update, of rows that are new or were replaced."""


class RowTracker(Generic[R]):
    """The rows of a table at the last update, each with an index; new rows are appended."""

    def __init__(self) -> None:
        self.keys: list[AgentSession] = []
        self.rows: list[R] = []

    def update(self, table: Mapping[AgentSession, R]) -> Changes:
        """Take over the rows of the table."""
        keys, rows = list(table), list(table.values())
        before, known = self.rows, len(self.keys)
        gone: list[int] = []
        # A table is in the order in which its keys came. Comparing lists is cheap where both hold the same objects.
        if (keys if len(keys) == known else keys[:known]) != self.keys:
            gone = self._gone(keys)
            is_gone = set(gone)
            before = [row for index, row in enumerate(before) if index not in is_gone]
        changed = [*compress(range(len(before)), map(is_not, rows, before)), *range(len(before), len(rows))]
        self.keys, self.rows = keys, rows
        return Changes(gone, changed)

    def _gone(self, keys: list[AgentSession]) -> list[int]:
        gone, at = [], 0
        for index, key in enumerate(self.keys):
            if at < len(keys) and keys[at] == key:
                at += 1
            else:
                gone.append(index)
        return gone


class LineCache:
    """One text that has a line for each series with a number. From scrape to scrape most lines stay the same.

    Texts of single lines would lie all over memory; collecting them would take longer than everything else.

    Args:
        start: Returns the beginning of the line with this index: name and labels.
    """

    def __init__(self, start: Callable[[int], str]) -> None:
        self.text = bytearray()
        self._start = start
        self._numbers: Numbers = np.zeros(0, np.int64)
        self._ends: Numbers = np.zeros(0, np.int64)
        """By index, the end of the line in the text."""

    def __len__(self) -> int:
        """The number of lines in the text."""
        return int(np.count_nonzero(self._numbers != NO_NUMBER))

    @property
    def size(self) -> int:
        """The number of indexes."""
        return len(self._numbers)

    def extend(self, count: int) -> None:
        """Append `count` indexes without a number."""
        self._numbers = np.append(self._numbers, np.full(count, NO_NUMBER))
        self._ends = np.append(self._ends, np.full(count, len(self.text)))

    def delete(self, indexes: Sequence[int]) -> None:
        """Remove these indexes (ascending); those behind them move up."""
        self.put(np.array(indexes, np.int64), np.full(len(indexes), NO_NUMBER))
        self._numbers = np.delete(self._numbers, indexes)
        self._ends = np.delete(self._ends, indexes)

    def put(self, indexes: Numbers, numbers: Numbers) -> None:
        """Set the numbers at these indexes (ascending); each is `NO_NUMBER` or not negative."""
        old = self._numbers[indexes]
        differ = np.flatnonzero(numbers != old)
        if not differ.size:
            return
        indexes, old, numbers = indexes[differ], old[differ], numbers[differ]
        self._numbers[indexes] = numbers
        sizes = _digits(numbers)
        fits = (_digits(old) == sizes) & (old != NO_NUMBER) & (numbers != NO_NUMBER)
        self._overwrite(self._ends[indexes[fits]] - len(_ENDING), numbers[fits], sizes[fits])
        if not fits.all():
            self._rewrite(indexes[~fits], numbers[~fits])

    def _overwrite(self, ends: Numbers, numbers: Numbers, sizes: Numbers) -> None:
        """Write numbers over others with as many digits, which end at `ends`: the usual case, all at once."""
        text = np.frombuffer(self.text, np.uint8)
        while ends.size:
            ends = ends - 1
            text[ends] = _ZERO + numbers % 10
            has_more = sizes > 1
            ends, numbers, sizes = ends[has_more], numbers[has_more] // 10, sizes[has_more] - 1

    def _rewrite(self, indexes: Numbers, numbers: Numbers) -> None:
        """Copy the text, with these lines made anew."""
        growth = np.zeros(len(self._ends), np.int64)
        begins = np.where(indexes > 0, self._ends[indexes - 1], 0)
        old, text, done = memoryview(self.text), bytearray(), 0
        for index, begin, end, number in zip(
            indexes.tolist(), begins.tolist(), self._ends[indexes].tolist(), numbers.tolist(), strict=True
        ):
            line = b"" if number == NO_NUMBER else f"{self._start(index)} {number}{_ENDING}".encode()
            growth[index] = len(line) - (end - begin)
            if begin > done:
                text += old[done:begin]
            text += line
            done = end
        text += old[done:]
        self.text = text
        self._ends += np.cumsum(growth)


def _digits(numbers: Numbers) -> Numbers:
    return 1 + np.searchsorted(_POWERS_OF_TEN, numbers, side="right")
