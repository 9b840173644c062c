"""Records that wait to be handed to librdkafka together, and what hands them over."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, starmap
from typing import Any, TypeAlias

__all__ = ["SMALL_BYTES", "Gathered", "Record"]

SMALL_BYTES = 512
"""Key and value together of the largest that are gathered. librdkafka refuses none of these for its size: its
`message.max.bytes` is 1,000 at least."""

_MOST = 250
_MANY_PER_SECOND = 200

Record: TypeAlias = tuple[Any, ...]
"""What `confluent_kafka.Producer.produce` is called with, all by position."""


class Gathered:
    """Records in the order they came, 250 at most, and whether gathering is worth it.

    It is from 200 events per second on: handing over a single one may wake a thread of librdkafka, which costs
    several times as much as all the rest of publishing. Whoever calls holds a reentrant lock, and so keeps other
    threads out. It doesn't keep a signal handler out, which may come after any call of the same thread: it may add,
    it may push, and it may raise. No record is lost or handed over twice by that.
    """

    def __init__(self, now: float) -> None:
        self.records: list[Record] = []
        """To append to; replaced whenever some have gone."""
        self.is_pushing = False
        """True only for a signal handler, in the middle of `push`."""
        self.is_on = False
        self.room = 0
        """How many more may be added; whoever adds counts it down."""
        self.was_refused = False
        """Whether one was since the last `decide`. Its publisher learns of that only if it isn't gathered."""
        self._decided_at, self._enqueued_before = now, 0
        self._gone: list[Any] = []

    def push(self, produce: Callable[..., Any]) -> None:
        """Hand over every record. Within `push` nothing happens.

        Raises:
            Exception: What `produce` raised for the record that is now the first one; those before it are gone.
        """
        if self.is_pushing:
            return
        try:
            self.is_pushing = True
            # One call, in which no other code of Python runs: `_gone` grows with each record that was taken.
            self._gone.extend(starmap(produce, islice(self.records, len(self._gone), None)))
        finally:
            try:
                left = self.records[len(self._gone) :]
                self.records, self._gone = left, []  # no call in between
            finally:
                self.is_pushing = False

    def decide(self, now: float, enqueued: int) -> None:
        """Gather from now on, or don't. `now` in seconds; `enqueued` events there were up to now."""
        many = enqueued - self._enqueued_before > _MANY_PER_SECOND * (now - self._decided_at)
        self.is_on = many and not self.was_refused
        self._decided_at, self._enqueued_before, self.was_refused = now, enqueued, False

    def make_room(self, left: int) -> None:
        """For as many as may be gathered, but no more than `left`."""
        self.room = min(_MOST - len(self.records), left) if self.is_on else 0
