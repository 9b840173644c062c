"""Waiting before another try, each time twice as long. Pure."""

from __future__ import annotations

__all__ = ["Backoff"]

_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0
"""Seconds."""

MOST_ASKED_FOR = 300.0
"""Seconds that the other side may ask for."""


class Backoff:
    """Times are in seconds, by whichever clock."""

    def __init__(self, now: float) -> None:
        self.until = now
        """When to try again."""
        self.is_pausing = False
        """For whoever tries to note whether it waits."""
        self._seconds = _FIRST_WAIT

    def again(self, now: float, *, at_least: float = 0.0, spread: float = 1.0) -> None:
        """It failed once more.

        Args:
            now: In seconds.
            at_least: Seconds that the other side asks for; no more than `MOST_ASKED_FOR` are given.
            spread: From 0 to 1, by chance: so that many who failed together don't come together.
        """
        self.until = now + max(min(at_least, MOST_ASKED_FOR), self._seconds * (1 + spread) / 2)
        self.is_pausing = True
        self._seconds = min(2 * self._seconds, _LONGEST_WAIT)
