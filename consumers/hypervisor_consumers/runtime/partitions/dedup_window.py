"""The event ids that were seen lately in a partition, so that an event that is sent twice counts once. Pure."""

from __future__ import annotations

from typing import TypeAlias

from hypervisor_consumers.runtime.decode.event_ids import id_number
from hypervisor_consumers.runtime.partitions.uint64_set import Numbers, Positions, Uint64Set, spread, spread_one

__all__ = ["SEED", "DedupWindow", "first_offset"]

_Undo: TypeAlias = int | Positions | tuple[int, Uint64Set, Uint64Set]
"""The position of an id that was taken in, or of several; or stretch and tables before they were replaced."""

SEED = 0x9E3779B97F4A7C15
"""For ids that nobody chose."""


class DedupWindow:
    """The ids of at least the last `size` offsets of one partition, at most twice as many.

    What is known at an offset depends on the log alone, never on batches, restarts or which copy reads: offsets
    are cut into stretches of `size`, and known are the ids of the stretch it lies in and of the one before. So a
    window is rebuilt by reading the log again from `first_offset`.

    What was taken in since the last `mark` can be undone, for a transaction that is aborted; it costs eight bytes
    per event until then.

    Args:
        size: Of a stretch, in offsets.
        seed: A random number of 64 bits, where strangers choose the ids: it decides where an id lies, so nobody
            else knows which ids would be in each other's way.
    """

    def __init__(self, size: int, seed: int = SEED) -> None:
        self._size = size
        self._multiplier = seed | 1
        self._stretch = -1
        # Two tables, not one queue: an id costs two slots, and letting go of the oldest costs nothing.
        self._now = Uint64Set()
        self._before = Uint64Set()
        self._since_mark: list[_Undo] = []
        self._before_all = 0

    def is_repeated(self, offset: int, event_id: str) -> bool:
        """Whether the id was seen in the window; it is from now on. Offsets must rise."""
        stretch = offset // self._size
        if stretch != self._stretch or not self._now.room:
            self._turn_to(stretch, 1)
        number = spread_one(id_number(event_id), self._multiplier)
        position = self._now.add_one(number)
        if position < 0:
            return True
        self._since_mark.append(position)
        return number in self._before

    def all_new(self, first_offset: int, numbers: Numbers) -> bool:
        """Take in the ids of consecutive offsets, by their `id_number`, if none of them was seen, or none."""
        self._before_all = len(self._since_mark)
        done = 0
        while done < len(numbers):
            stretch = (first_offset + done) // self._size
            until = min(len(numbers), (stretch + 1) * self._size - first_offset)
            self._turn_to(stretch, until - done)
            new = spread(numbers[done:until], self._multiplier)
            new.sort()
            is_new = not ((new[1:] == new[:-1]).any() or self._before.has_any(new))
            positions = self._now.add(new) if is_new else None
            if positions is None:
                self.take_back()
                return False
            self._since_mark.append(positions)
            done = until
        return True

    def take_back(self) -> None:
        """Undo the last `all_new`; nothing else was taken in since."""
        self._undo_to(self._before_all)

    def _turn_to(self, stretch: int, more: int) -> None:
        """Be in this stretch, with room for some more ids."""
        if stretch != self._stretch:
            self._keep_tables()
            self._before = self._now if stretch == self._stretch + 1 else Uint64Set()
            # One stretch holds about as many as the other; to grow again would cost a third of all.
            self._now = Uint64Set(self._before.slots)
            self._stretch = stretch
        if self._now.room < more:
            self._keep_tables()
            self._now = self._now.grown(more, 2 * self._size)

    def _keep_tables(self) -> None:
        # Positions are of the table that an id was put into: to undo goes back to that table first.
        self._since_mark.append((self._stretch, self._now, self._before))

    def forget(self, event_id: str) -> None:
        """Take back what `is_repeated` has just taken in: that event was not used, and may come again mended."""
        number = spread_one(id_number(event_id), self._multiplier)
        last = self._since_mark[-1] if self._since_mark else None
        if isinstance(last, int) and self._now.stands_at(last, number):
            self._undo_to(len(self._since_mark) - 1)
        elif number in self._now:
            self._keep_tables()
            self._now = self._now.without(number)

    def mark(self) -> None:
        """Keep what was taken in up to now, whatever is undone later."""
        self._since_mark.clear()

    def rollback(self) -> None:
        """Be as at the last mark. The offsets since then come again, or others."""
        self._undo_to(0)

    def _undo_to(self, count: int) -> None:
        while len(self._since_mark) > count:
            undo = self._since_mark.pop()
            if isinstance(undo, tuple):
                self._stretch, self._now, self._before = undo
            elif isinstance(undo, int):
                self._now.take_out_one(undo)
            else:
                self._now.take_out(undo)


def first_offset(size: int, committed: int) -> int:
    """From where a log has to be read, up to `committed`, to know what a window knows there that read all of it.

    `committed` is the offset of the next record. That is the beginning of the stretch before its own: between one
    and two times `size` offsets, or all there are.
    """
    return max(0, committed // size - 1) * size
