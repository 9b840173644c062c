"""Which event ids were seen lately in a partition, so that an event that is sent twice counts once. Pure."""

from __future__ import annotations

import hashlib
from typing import TypeAlias

__all__ = ["IdWindow", "first_offset", "id_number"]

_Undo: TypeAlias = int | set[int] | tuple[int, set[int], set[int]]
"""An id or several that were taken in, the complement (`~`) of one that was forgotten, or all that changed with a
stretch."""


class IdWindow:
    """The ids of at least the last `size` offsets of one partition, at most twice as many.

    What is known at an offset depends on the log alone, never on batches, restarts or which copy reads: offsets
    are cut into stretches of `size`, and known are the ids of the stretch it lies in and of the one before. So a
    window is rebuilt by reading the log again from `first_offset`.

    What was taken in since the last `mark` can be undone, for a transaction that is aborted; it costs eight bytes
    per event until then.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._stretch = -1
        self._now: set[int] = set()
        self._before: set[int] = set()
        self._since_mark: list[_Undo] = []
        self._before_all = 0

    def is_repeated(self, offset: int, event_id: str) -> bool:
        """Whether the id was seen in the window; it is from now on. Offsets must rise."""
        stretch = offset // self._size
        if stretch != self._stretch:
            self._move_to(stretch)
        number = id_number(event_id)
        if number in self._now:
            return True
        self._now.add(number)
        self._since_mark.append(number)
        return number in self._before

    def all_new(self, first_offset: int, numbers: list[int]) -> bool:
        """Take in the ids of consecutive offsets, by their `id_number`, if none of them was seen; else none."""
        self._before_all = len(self._since_mark)
        done = 0
        while done < len(numbers):
            stretch = (first_offset + done) // self._size
            if stretch != self._stretch:
                self._move_to(stretch)
            until = min(len(numbers), (stretch + 1) * self._size - first_offset)
            new = set(numbers[done:until])
            if len(new) < until - done or not (self._now.isdisjoint(new) and self._before.isdisjoint(new)):
                self.take_back()
                return False
            self._now |= new
            self._since_mark.append(new)
            done = until
        return True

    def take_back(self) -> None:
        """Undo the last `all_new`; nothing else was taken in since."""
        self._undo_to(self._before_all)

    def _move_to(self, stretch: int) -> None:
        self._since_mark.append((self._stretch, self._now, self._before))
        # Two sets, not one queue: an id costs one slot, and letting go of the oldest costs nothing.
        self._before = self._now if stretch == self._stretch + 1 else set()
        self._now = set()
        self._stretch = stretch

    def forget(self, event_id: str) -> None:
        """Take back what `is_repeated` has just taken in: that event was not used, and may come again mended."""
        number = id_number(event_id)
        if number in self._now:
            self._now.remove(number)
            self._since_mark.append(~number)

    def mark(self) -> None:
        """What was taken in up to now stays."""
        self._since_mark.clear()

    def rollback(self) -> None:
        """Be as at the last mark. The offsets since then come again, or others."""
        self._undo_to(0)

    def _undo_to(self, count: int) -> None:
        while len(self._since_mark) > count:
            undo = self._since_mark.pop()
            if isinstance(undo, tuple):
                self._stretch, self._now, self._before = undo
            elif isinstance(undo, set):
                self._now -= undo
            elif undo >= 0:
                self._now.remove(undo)
            else:
                self._now.add(~undo)


def first_offset(size: int, committed: int) -> int:
    """From where a log has to be read, up to `committed`, to know what a window knows there that read all of it.

    `committed` is the offset of the next record. That is the beginning of the stretch before its own: between one
    and two times `size` offsets, or all there are.
    """
    return max(0, committed // size - 1) * size


def id_number(event_id: str) -> int:
    """An id as a number of 64 bits: the one it is in hexadecimal, for ids of any other form a hash of it."""
    if len(event_id) == 16 and _HEX_DIGITS.issuperset(event_id):
        return int(event_id, 16)
    return int.from_bytes(hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())


_HEX_DIGITS = frozenset("0123456789abcdef")
