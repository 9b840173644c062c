"""The health of a service process: alive, ready, degraded. Probes and people are told this."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

__all__ = ["Health"]

STALLED_AFTER_SECONDS = 30.0
"""Time without a turn of the loop after which `/healthz` fails."""


class Health:
    """The state of one service process. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_turn = clock()
        self._is_ready = False
        self._troubles: dict[str, tuple[str, float]] = {}

    def turned(self) -> None:
        """Note that the loop went round once more."""
        self._last_turn = self._clock()

    @property
    def is_alive(self) -> bool:
        """Whether the loop turned in the last 30 s, whatever Kafka does."""
        return self._clock() - self._last_turn < STALLED_AFTER_SECONDS

    def became_ready(self) -> None:
        """Note that the first assignment is restored. It stays so: later restores don't take the service away."""
        self._is_ready = True

    @property
    def is_ready(self) -> bool:
        """Whether the first assignment was restored."""
        return self._is_ready

    def trouble(self, subject: str, sentence: str, *, lasting: float = math.inf) -> None:
        """Say that something the service needs doesn't work, for `lasting` seconds at most; it goes on.

        A trouble whose end nobody notices is said for a while only.
        """
        with self._lock:
            self._troubles[subject] = (sentence, self._clock() + lasting)

    def better(self, subject: str) -> None:
        """Say no more of that trouble: it is over."""
        with self._lock:
            self._troubles.pop(subject, None)

    def is_in_trouble(self, subject: str) -> bool:
        """Whether that trouble is told now."""
        with self._lock:
            _, until = self._troubles.get(subject, ("", -math.inf))
        return self._clock() < until

    @property
    def troubles(self) -> list[str]:
        """The troubles of now, a sentence each; Kafka's first, where the others come from."""
        now = self._clock()
        with self._lock:
            troubles = sorted(self._troubles.items(), key=lambda item: item[0] != "kafka")
            return [sentence for _, (sentence, until) in troubles if now < until]
