"""The clock of a pipeline in a test: it stands still until the test advances it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

__all__ = ["Clock"]


class Clock:
    """The time of a pipeline. It stands still until `advance` is called.

    Args:
        start: The time at the beginning, UTC without a time zone; by default the beginning of this second.
    """

    def __init__(self, start: datetime | None = None) -> None:
        if start is not None and start.tzinfo is None:
            start = start.replace(tzinfo=UTC)
        self._seconds = float(int(time.time())) if start is None else start.timestamp()

    def __call__(self) -> float:
        """Return the seconds since 1970."""
        return self._seconds

    def now(self) -> datetime:
        """Return the time in UTC, for the timestamps of events."""
        return datetime.fromtimestamp(self._seconds, UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"A clock can't be advanced by {seconds:g} seconds; give 0 or more.")
        self._seconds += seconds
