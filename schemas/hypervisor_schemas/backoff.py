"""Waiting before another try, each time twice as long. Pure."""

from __future__ import annotations

__all__ = ["MOST_ASKED_FOR", "Backoff"]

MOST_ASKED_FOR = 300.0
"""The most seconds that the other side is granted when it asks for a wait."""


class Backoff:
    """The waits between tries that fail: each is twice as long as the one before, up to the longest.

    Args:
        now: The time in seconds, by the clock that `again` gets times of; a first try may come at once.
        first_seconds: The first wait.
        longest_seconds: The longest wait.
    """

    def __init__(self, now: float = 0.0, *, first_seconds: float = 0.2, longest_seconds: float = 5.0) -> None:
        self.until = now
        """The time of the next try."""
        self.is_pausing = False
        """A note for the caller: whether it waits for that time."""
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._seconds = first_seconds

    def again(self, now: float, *, at_least: float = 0.0, spread: float = 1.0) -> None:
        """Note that it failed once more, and when to try again.

        Args:
            now: The time in seconds.
            at_least: Seconds that the other side asks for; no more than `MOST_ASKED_FOR` are granted.
            spread: A random number from 0 to 1, so that many who failed together don't come together.
        """
        self.until = now + max(min(at_least, MOST_ASKED_FOR), self.next_seconds() * (1 + spread) / 2)
        self.is_pausing = True

    def next_seconds(self) -> float:
        """The length of the next wait; the one after it is twice as long."""
        seconds, self._seconds = self._seconds, min(2 * self._seconds, self._longest_seconds)
        return seconds

    def reset(self) -> None:
        """Note that it succeeded: the next wait is the first one again."""
        self._seconds = self._first_seconds

    def exhaust(self) -> None:
        """Make the next wait the longest: what failed won't mend soon."""
        self._seconds = self._longest_seconds
