"""Removes events that are older than the retention, a few at a time, while the index is written and queried."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.errors import StoreUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["remove_expired"]

log = logging.getLogger(__name__)

_CHECK_SECONDS = 10.0
_BATCH_PAUSE_SECONDS = 0.05
"""The pause between two batches. It lets the ingest write: a SQLite file has one writer at a time."""
_STOP_CHECK_SECONDS = 0.5


def remove_expired(
    store: EventStore, should_stop: Callable[[], bool], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Remove expired events until `should_stop`; runs on a thread of its own. `sleep` takes seconds."""
    limited_log = RateLimitedLog(log)
    while not should_stop():
        try:
            removed = store.expire()
        except StoreUnavailable as error:
            limited_log.log(logging.WARNING, "expire", "Old events can't be removed now: %s", error)
            removed = 0
        if removed:
            sleep(_BATCH_PAUSE_SECONDS)
            continue
        for _ in range(int(_CHECK_SECONDS / _STOP_CHECK_SECONDS)):
            if should_stop():
                return
            sleep(_STOP_CHECK_SECONDS)
