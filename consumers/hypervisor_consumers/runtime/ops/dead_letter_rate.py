"""The share of records that become dead letters, and whether it is a flood that somebody has to look at. Pure."""

from __future__ import annotations

from collections import deque

__all__ = ["DeadLetterRate"]

MIN_RECORDS = 1000
"""The ratio is taken over so many of the last records, at least."""


class DeadLetterRate:
    """Tells a flood of dead letters: a share of the last 1,000 records, or so many in a row.

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
        """Count a batch that was read: its records, the bad ones, and how many of those are in a row at its end."""
        self._run = self._run + bad if bad == records else bad_at_end
        self._batches.append((records, bad))
        self._all += records
        self._bad += bad
        while self._all - self._batches[0][0] >= MIN_RECORDS:
            old, old_bad = self._batches.popleft()
            self._all -= old
            self._bad -= old_bad

    @property
    def sentence(self) -> str:
        """A sentence about the flood; empty if there is none."""
        if self._run >= self._run_limit:
            return f"The last {self._run} records could not be used; they are in the dead letters."
        # A handful of records tells nothing about a share.
        if self._bad and self._all >= MIN_RECORDS / 10 and self._bad >= self._ratio * self._all:
            return f"{self._bad} of the last {self._all} records could not be used; they are in the dead letters."
        return ""
