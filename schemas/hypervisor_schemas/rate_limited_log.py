"""Logging at a limited rate, so that a flood of errors doesn't become a flood of log lines."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from weakref import WeakSet

__all__ = ["RateLimitedLog"]

_OTHER_KINDS = "everything else"


class RateLimitedLog:
    """Logs the first message of each kind at once, then at most one per `interval` seconds.

    The next message that is logged says how many were left out. At most `max_kinds` kinds are distinguished; later
    ones share one. It is safe in threads, in signal handlers and after a fork, and an error of the logger is never
    raised.
    """

    def __init__(
        self,
        logger: logging.Logger,
        interval: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        max_kinds: int = 1000,
    ) -> None:
        self._logger = logger
        self._interval = interval
        self._clock = clock
        self._max_kinds = max_kinds
        self._next: dict[str, float] = {}
        self._left_out: dict[str, int] = {}
        self._new_lock()
        _logs.add(self)

    def _new_lock(self) -> None:
        # Reentrant: a signal handler may log while its own thread is inside.
        self._lock = threading.RLock()

    def log(self, level: int, kind: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Log `message % args`, with the traceback of `error` if there is one, or count it as left out."""
        now = self._clock()
        with self._lock:
            if kind not in self._next and len(self._next) >= self._max_kinds:
                kind = _OTHER_KINDS
            if now < self._next.get(kind, now):
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                return
            self._next[kind] = now + self._interval
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            message, args = f"{message} (and %d more like it since)", (*args, left_out)
        # Outside the lock: a log handler may be slow, and may log here itself. A broken handler must not break the
        # code that logs.
        with suppress(Exception):
            self._logger.log(level, message, *args, exc_info=error)


_logs: WeakSet[RateLimitedLog] = WeakSet()


def _unlock_after_fork() -> None:
    # Another thread of the parent may have held a lock at the fork; in the child nothing would ever release it.
    for log in _logs:
        log._new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
