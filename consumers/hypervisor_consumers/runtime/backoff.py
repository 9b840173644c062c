"""Waiting before another try, each time twice as long. Pure."""

from __future__ import annotations

__all__ = ["Backoff"]

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
"""Seconds."""


class Backoff:
    """Times are in seconds, by whichever clock."""

    def __init__(self, now: float) -> None:
        self.until = now
        """When to try again."""
        self.is_pausing = False
        """For whoever tries to note whether it waits."""
        self._seconds = _FIRST_WAIT

    def again(self, now: float) -> None:
        """It failed once more."""
        self.until = now + self._seconds
        self.is_pausing = True
        self._seconds = min(2 * self._seconds, _LONGEST_WAIT)
