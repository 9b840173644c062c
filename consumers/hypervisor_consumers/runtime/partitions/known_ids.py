"""The event ids that a partition knows, and how they are restored. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hypervisor_consumers.runtime.partitions.dedup_window import DedupWindow, first_offset

if TYPE_CHECKING:
    from hypervisor_consumers.runtime.partitions.uint64_set import Numbers

__all__ = ["KnownIds"]


class KnownIds:
    """The ids in a dedup window; those of dead letters are not among them, and may come again.

    Args:
        size: Of the window, in offsets.
        seed: As `DedupWindow` has it.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._rejected: set[int] = set()
        self.window = DedupWindow(size, seed)

    def begin(self, rejected: Iterable[int]) -> None:
        """Know no ids; `rejected`: the offsets of dead letters."""
        self.window = DedupWindow(self._size, self._seed)
        self._rejected = set(rejected)

    def first_offset(self, next_offset: int) -> int:
        """The offset from which the source has to be read, up to `next_offset`, to know the same ids."""
        return first_offset(self._size, next_offset)

    def know(self, offset: int, event_id: str) -> None:
        """Know the id of an event that is read again, unless it was a dead letter."""
        if offset not in self._rejected:
            self.window.is_repeated(offset, event_id)
            self.window.mark()

    def know_all(self, first_offset: int, id_numbers: Numbers) -> bool:
        """Know the ids of events of consecutive offsets that are read again.

        False, and nothing happened, if one was a dead letter or a duplicate: `know` is for each of them.
        """
        rejected = self._rejected
        if rejected and not rejected.isdisjoint(range(first_offset, first_offset + len(id_numbers))):
            return False
        if not self.window.all_new(first_offset, id_numbers):
            return False
        self.window.mark()
        return True
