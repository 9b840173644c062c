"""Small records that wait to go into librdkafka's queue together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, starmap
from typing import Any, TypeAlias

__all__ = ["SMALL_BYTES", "Record", "RecordBatch"]

SMALL_BYTES = 512
"""Records whose key and value together are larger are not batched. librdkafka refuses none of the others for its
size: its `message.max.bytes` is 1,000 at least."""

_MAX_RECORDS = 250
_MIN_EVENTS_PER_SECOND = 200

Record: TypeAlias = tuple[Any, ...]
"""The positional arguments of `confluent_kafka.Producer.produce`."""


class RecordBatch:
    """Up to 250 records in the order they came, and the decision whether batching is worth it.

    It is worth it from 200 events per second on: handing over a single record may wake a thread of librdkafka,
    which costs several times as much as all the rest of publishing.

    The caller holds a reentrant lock, which keeps other threads out. It doesn't keep out a signal handler, which
    may run after any call of the same thread: it may add records, it may push, and it may raise. No record is lost
    or handed over twice by that.
    """

    def __init__(self, now: float) -> None:
        self.records: list[Record] = []
        """The list to append to. It is replaced whenever records have been handed over."""
        self.is_pushing = False
        """True only for a signal handler in the middle of `push`."""
        self.is_on = False
        self.capacity_left = 0
        """The number of records that may still be added. The caller counts it down for each one it adds."""
        self.was_refused = False
        """Whether a record was refused since the last `decide`. The publisher learns of that only for records that
        are not batched."""
        self._decided_at, self._enqueued_before = now, 0
        self._handed_over: list[Any] = []

    def push(self, produce: Callable[..., Any]) -> None:
        """Hand over every record. Inside another `push` it does nothing.

        Raises:
            Exception: What `produce` raised for the record that is now the first one; those before it are gone.
        """
        if self.is_pushing:
            return
        try:
            self.is_pushing = True
            # One call, in which no other Python code runs: `_handed_over` grows with each record that was taken.
            self._handed_over.extend(starmap(produce, islice(self.records, len(self._handed_over), None)))
        finally:
            try:
                rest = self.records[len(self._handed_over) :]
                self.records, self._handed_over = rest, []  # no call in between
            finally:
                self.is_pushing = False

    def decide(self, now: float, enqueued: int) -> None:
        """Decide whether to batch from now on. `now` is in seconds; `enqueued` counts all events so far."""
        is_busy = enqueued - self._enqueued_before > _MIN_EVENTS_PER_SECOND * (now - self._decided_at)
        self.is_on = is_busy and not self.was_refused
        self._decided_at, self._enqueued_before, self.was_refused = now, enqueued, False

    def limit_capacity(self, queue_capacity: int) -> None:
        """Allow as many records as a batch may hold, but no more than `queue_capacity`; none if batching is off."""
        self.capacity_left = min(_MAX_RECORDS - len(self.records), queue_capacity) if self.is_on else 0
