"""What has to be done for the index beside writing and answering: what is too old goes, a little at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.errors import StoreUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["Housekeeping"]

log = logging.getLogger(__name__)

_LOOK_EVERY = 10.0
_BETWEEN_BATCHES = 0.05
"""Seconds for whoever writes: there is one writer at a time in a SQLite file."""
_TICK = 0.5


class Housekeeping:
    """Runs on a thread of its own. `sleep` takes seconds."""

    def __init__(self, store: EventStore, sleep: Callable[[float], None] = time.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._limited = RateLimitedLog(log)

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Until it is told to stop."""
        while not should_stop():
            try:
                removed = self._store.expire()
            except StoreUnavailable as error:
                self._limited.log(logging.WARNING, "expire", "Old events can't be removed now: %s", error)
                removed = 0
            if removed:
                self._sleep(_BETWEEN_BATCHES)
                continue
            for _ in range(int(_LOOK_EVERY / _TICK)):
                if should_stop():
                    return
                self._sleep(_TICK)
