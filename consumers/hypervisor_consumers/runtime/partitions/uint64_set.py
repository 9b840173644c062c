"""An exact set of 64-bit numbers, eight bytes a slot, that takes a whole batch at once. Pure.

A number lies in its row of eight slots, a line of a processor's cache; where that was full, in the next. Its
uppermost bits name its row, so numbers have to be spread evenly: see `spread`. The rows of a whole batch are looked
at in one step of numpy, then those behind full ones; the last few numbers go one by one.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Numbers", "Positions", "Uint64Set", "spread", "spread_one"]

Numbers: TypeAlias = npt.NDArray[np.uint64]
Positions: TypeAlias = npt.NDArray[np.intp]

_ROW = 8
_SMALLEST = 64
_FEW = 16
"""Down to so few numbers, one by one is faster than a step of numpy."""

_HALF = np.uint64(32)
_ALL_BITS = 2**64 - 1


def spread(numbers: Numbers, multiplier: int) -> Numbers:
    """Other numbers for these, one for one, that lie evenly if `multiplier` is odd and random.

    Once isn't enough: a stranger can choose numbers that stay close together whatever they are multiplied by.
    """
    by = np.uint64(multiplier)
    first = numbers * by
    first ^= first >> _HALF
    first *= by
    return first


def spread_one(number: int, multiplier: int) -> int:
    """As `spread`."""
    first = number * multiplier & _ALL_BITS
    return (first ^ first >> 32) * multiplier & _ALL_BITS


class Uint64Set:
    """Numbers are added, and taken out in the opposite order; `room` says for how many more there is place.

    It is never more than half full, so nearly every number lies in its own row.

    Args:
        slots: How many, rounded up to whole rows.
    """

    __slots__ = ("_held", "_held_one", "_rows", "_size", "_slots", "_slots_one", "room", "slots")

    def __init__(self, slots: int = _SMALLEST) -> None:
        self._size = -(-slots // _ROW)
        """In rows."""
        self.slots = self._size * _ROW
        self.room = self.slots // 2
        """The capacity that is left, in numbers."""
        # 0 is a free slot. The number 0 has a place of its own, the last, and stands there as 1.
        spare = np.zeros(self.slots + _ROW, np.uint64)
        begin = -spare.ctypes.data % (_ROW * 8) // 8  # of a line of the cache
        self._slots = spare[begin : begin + self.slots + 1]
        self._rows = self._slots[:-1].reshape(-1, _ROW)
        self._held_one = bytearray(self._size)
        """Of each row, how many slots are taken; these are the first ones."""
        # The same once more: numpy is for many, and several times slower for one.
        self._held = np.frombuffer(self._held_one, np.uint8)
        self._slots_one = self._slots.data

    def grown(self, more: int, most: int) -> Uint64Set:
        """A copy with place for `more`, twice as large, but of no more than `most` slots if that will do."""
        return self._copy(max(min(2 * self.slots, most), self.slots - 2 * self.room + 2 * more))

    def without(self, number: int) -> Uint64Set:
        """A copy without a number that may have been added at any time."""
        return self._copy(self.slots, number)

    def _copy(self, slots: int, without: int | None = None) -> Uint64Set:
        table = Uint64Set(slots)
        numbers = self._slots[:-1]
        numbers = numbers[numbers != 0]
        if without:
            numbers = numbers[numbers != np.uint64(without)]
        numbers.sort()
        table._put(numbers)
        if self._slots_one[-1] and without != 0:
            table.add_one(0)
        return table

    def __contains__(self, number: int) -> bool:
        if not number:
            return self._slots_one[-1] != 0
        row = (number >> 32) * self._size >> 32
        while True:
            held = self._held_one[row]
            if held and number in self._slots_one[row * _ROW : row * _ROW + held].tolist():
                return True
            if held < _ROW:
                return False
            row = row + 1 if row + 1 < self._size else 0

    def add_one(self, number: int) -> int:
        """Add a number; there is room. Returns its position, or -1: it is there already."""
        if not number:
            return self._add_zero()
        row = (number >> 32) * self._size >> 32
        while True:
            held = self._held_one[row]
            if held and number in self._slots_one[row * _ROW : row * _ROW + held].tolist():
                return -1
            if held < _ROW:
                self._slots_one[row * _ROW + held] = number
                self._held_one[row] = held + 1
                self.room -= 1
                return row * _ROW + held
            row = row + 1 if row + 1 < self._size else 0

    def _add_zero(self) -> int:
        if self._slots_one[-1]:
            return -1
        self._slots_one[-1] = 1
        self.room -= 1
        return self.slots

    def has_any(self, numbers: Numbers) -> bool:
        """Whether one of these is there. They are sorted: so are the places in memory where they may be."""
        if numbers.size and not numbers[0]:
            if 0 in self:
                return True
            numbers = numbers[1:]
        at = self._row_of(numbers)
        while numbers.size > _FEW:
            # One slot of each row first: the processor waits for many of such at a time, not so for whole rows.
            last = self._slots.take(at * _ROW + (_ROW - 1))
            if (self._rows.take(at, axis=0) == numbers[:, None]).any():
                return True
            go_on = last.nonzero()[0]
            numbers, at = numbers[go_on], (at[go_on] + 1) % self._size
        return any(map(self.__contains__, numbers.tolist()))

    def add(self, numbers: Numbers) -> Positions | None:
        """Add all of these, sorted and each of them once; there is room. Returns their positions.

        None: one is there already, and none was added.
        """
        return None if self.has_any(numbers) else self._put(numbers)

    def _put(self, numbers: Numbers) -> Positions:
        done: list[Positions] = []
        one_by_one: list[int] = []
        if numbers.size and not numbers[0]:
            one_by_one, numbers = [0], numbers[1:]
        at = self._row_of(numbers)
        while numbers.size > _FEW:
            taken = self._held[at]
            can_be = taken < _ROW
            can_be[1:] &= at[1:] != at[:-1]  # one number into each row at a time
            into, behind = at[can_be], taken[can_be]
            positions = into * _ROW + behind
            self._slots[positions] = numbers[can_be]
            self._held[into] = behind + 1
            self.room -= len(positions)
            done.append(positions)
            go_on = (~can_be).nonzero()[0]
            numbers, at = numbers[go_on], at[go_on] + (taken[go_on] == _ROW)
            # Those behind the last row have to go to the first: the rows would not be sorted any more.
            inside = np.searchsorted(at, self._size)
            one_by_one += numbers[inside:].tolist()
            numbers, at = numbers[:inside], at[:inside]
        one_by_one += numbers.tolist()
        done.append(np.fromiter(map(self.add_one, one_by_one), np.intp, len(one_by_one)))
        return np.concatenate(done)

    def stands_at(self, position: int, number: int) -> bool:
        """Whether `add_one` has put this number there."""
        return self._slots_one[position] == (number or 1) and (position == self.slots) == (not number)

    def take_out(self, positions: Positions) -> None:
        """Undo what was added last, by its positions."""
        self._slots[positions] = 0
        self.room += len(positions)
        rows = positions[positions < self.slots] // _ROW
        self._held[rows] = np.count_nonzero(self._rows[rows], axis=1)

    def take_out_one(self, position: int) -> None:
        """Undo what was added last, by its position."""
        self._slots_one[position] = 0
        self.room += 1
        if position < self.slots:
            self._held_one[position // _ROW] -= 1

    def _row_of(self, numbers: Numbers) -> Positions:
        return ((numbers >> _HALF) * np.uint64(self._size) >> _HALF).astype(np.intp)
