"""The text of many series of whole numbers, in one piece that is written over where numbers change. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["NONE", "KeptLines", "Numbers"]

Numbers: TypeAlias = npt.NDArray[np.int64]

NONE = int(np.iinfo(np.int64).min)
"""Stands for a number that is not there."""


class KeptLines:
    """A line for each number that there is. From one scrape to the next, most of them stay as they are.

    Lines for themselves would lie all over the memory; to collect them would take longer than all the rest.

    Args:
        start: What the line at a place begins with: name and labels.
    """

    def __init__(self, start: Callable[[int], str]) -> None:
        self.text = bytearray()
        self._start = start
        self._numbers: Numbers = np.zeros(0, np.int64)
        self._ends: Numbers = np.zeros(0, np.int64)
        """Of each place, where its line ends in the text."""

    def __len__(self) -> int:
        """How many lines there are."""
        return int(np.count_nonzero(self._numbers != NONE))

    @property
    def places(self) -> int:
        """How many places there are."""
        return len(self._numbers)

    def add_places(self, count: int) -> None:
        """More places, behind the others, without a number."""
        self._numbers = np.append(self._numbers, np.full(count, NONE))
        self._ends = np.append(self._ends, np.full(count, len(self.text)))

    def drop_places(self, places: Sequence[int]) -> None:
        """Take out these places (which rise); those behind them move up."""
        self.put(np.array(places, np.int64), np.full(len(places), NONE))
        self._numbers = np.delete(self._numbers, places)
        self._ends = np.delete(self._ends, places)

    def put(self, places: Numbers, numbers: Numbers) -> None:
        """Write these numbers at these places (which rise); each is `NONE` or not negative."""
        old = self._numbers[places]
        differ = np.flatnonzero(numbers != old)
        if not differ.size:
            return
        places, old, numbers = places[differ], old[differ], numbers[differ]
        self._numbers[places] = numbers
        sizes = _digits(numbers)
        fits = (_digits(old) == sizes) & (old != NONE) & (numbers != NONE)
        self._write_over(self._ends[places[fits]] - len(_TAIL), numbers[fits], sizes[fits])
        if not fits.all():
            self._write_anew(places[~fits], numbers[~fits])

    def _write_over(self, ends: Numbers, numbers: Numbers, sizes: Numbers) -> None:
        """As many digits as there were, which end here: most numbers, at once."""
        text = np.frombuffer(self.text, np.uint8)
        while ends.size:
            ends = ends - 1
            text[ends] = _ZERO + numbers % 10
            longer = sizes > 1
            ends, numbers, sizes = ends[longer], numbers[longer] // 10, sizes[longer] - 1

    def _write_anew(self, places: Numbers, numbers: Numbers) -> None:
        longer = np.zeros(len(self._ends), np.int64)
        begins = np.where(places > 0, self._ends[places - 1], 0)
        old, text, done = memoryview(self.text), bytearray(), 0
        for place, begin, end, number in zip(
            places.tolist(), begins.tolist(), self._ends[places].tolist(), numbers.tolist(), strict=True
        ):
            line = b"" if number == NONE else f"{self._start(place)} {number}.0\n".encode()
            longer[place] = len(line) - (end - begin)
            if begin > done:
                text += old[done:begin]
            text += line
            done = end
        text += old[done:]
        self.text = text
        self._ends += np.cumsum(longer)


_TAIL = b".0\n"
_ZERO = ord("0")
_POWERS = 10 ** np.arange(1, 19)


def _digits(numbers: Numbers) -> Numbers:
    return 1 + np.searchsorted(_POWERS, numbers, side="right")
