"""Which event ids were seen lately in a partition, so that an event that is sent twice counts once. Pure."""

from __future__ import annotations

import hashlib

__all__ = ["IdWindow", "id_number"]


class IdWindow:
    """The ids of at least the last `size` offsets of one partition, at most twice as many.

    What is known at an offset depends on the log alone, never on batches, restarts or which copy reads: offsets
    are cut into stretches of `size`, and known are the ids of the stretch it lies in and of the one before.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._stretch = -1
        self._now: set[int] = set()
        self._before: set[int] = set()

    def is_repeated(self, offset: int, event_id: str) -> bool:
        """Whether the id was seen in the window; it is from now on. Offsets must rise."""
        stretch = offset // self._size
        if stretch != self._stretch:
            # Two sets, not one queue: an id costs one slot, and letting go of the oldest costs nothing.
            self._before = self._now if stretch == self._stretch + 1 else set()
            self._now = set()
            self._stretch = stretch
        number = id_number(event_id)
        if number in self._now:
            return True
        self._now.add(number)
        return number in self._before

    def forget(self, event_id: str) -> None:
        """Take back what `is_repeated` has just taken in: that event was not used, and may come again mended."""
        self._now.discard(id_number(event_id))


def id_number(event_id: str) -> int:
    """An id as a number of 64 bits: the one it is in hexadecimal, for ids of any other form a hash of it."""
    if len(event_id) == 16 and _HEX_DIGITS.issuperset(event_id):
        return int(event_id, 16)
    return int.from_bytes(hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=8).digest())


_HEX_DIGITS = frozenset("0123456789abcdef")
