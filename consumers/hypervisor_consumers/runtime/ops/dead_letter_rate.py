"""Whether the records that come are bad so often that somebody has to look. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["DeadLetterRate"]

LAST = 1000
"""How many of the last records the ratio is taken over, at least."""


class DeadLetterRate:
    """Too many dead letters: a share of the last 1,000 records, or so many in a row.

    Args:
        ratio: The share, 0 to 1, from which on it is a flood.
        run: How many in a row are one.
    """

    def __init__(self, ratio: float, run: int) -> None:
        self._ratio = ratio
        self._run_limit = run
        self._batches: deque[tuple[int, int]] = deque()
        self._all = self._bad = self._run = 0

    def batch(self, records: int, bad: int, bad_at_end: int) -> None:
        """A batch was read, so many bad ones in it, so many of them in a row at its end."""
        self._run = self._run + bad if bad == records else bad_at_end
        self._batches.append((records, bad))
        self._all += records
        self._bad += bad
        while self._all - self._batches[0][0] >= LAST:
            old, old_bad = self._batches.popleft()
            self._all -= old
            self._bad -= old_bad

    @property
    def sentence(self) -> str:
        """What is the matter; empty if nothing is."""
        if self._run >= self._run_limit:
            return f"The last {self._run} records could not be used; they are in the dead letters."
        # A handful of records tells nothing about a share.
        if self._bad and self._all >= LAST / 10 and self._bad >= self._ratio * self._all:
            return f"{self._bad} of the last {self._all} records could not be used; they are in the dead letters."
        return ""
