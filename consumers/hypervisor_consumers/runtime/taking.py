"""Taking what was read: batches at once where they can be, else record by record, in the order of the offsets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from confluent_kafka import TopicPartition

from hypervisor_consumers.runtime.backoff import Backoff
from hypervisor_consumers.runtime.batches import each
from hypervisor_consumers.runtime.columns import columns_of
from hypervisor_consumers.runtime.flood import FloodWatch
from hypervisor_consumers.runtime.health import Health
from hypervisor_consumers.runtime.kafka import any_headers, headers_of
from hypervisor_consumers.runtime.processor import Place, Processor, Record
from hypervisor_consumers.runtime.watch import BrokerWatch
from hypervisor_schemas.codec import EventDecoder
from hypervisor_schemas.dead_letters import replay_for, replays_output
from hypervisor_schemas.errors import RecordError, RegistryUnavailable
from hypervisor_schemas.limited_log import LimitedLog

__all__ = ["Taker"]

log = logging.getLogger(__name__)

WORTH_IT = 20
"""Records of one partition from which on taking them together is faster."""


class Taker:
    """Decodes what was read of live partitions, and hands it to the processor.

    A record that can't be used goes there as a dead letter, is logged (the first of each kind at once, with its
    place), and stops nothing. For a registry that doesn't answer, the partition is paused and sought back.

    Args:
        service: The service's name, as replayed dead letters know it.
        row_topics: Topics that hold rows of public tables, not events.
    """

    def __init__(
        self,
        *,
        service: str,
        row_topics: Collection[str],
        processor: Processor,
        decoder: EventDecoder,
        health: Health,
        flood: FloodWatch,
        watch: BrokerWatch,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._row_topics = frozenset(row_topics)
        self._processor = processor
        self._decoder = decoder
        self._health = health
        self._flood = flood
        self._watch = watch
        self._clock = clock
        self._limited = LimitedLog(log)
        self._consumer: Any = None
        self._positions: dict[Place, int] = {}
        """Of the live partitions with events: the offset that has to come next."""
        self._doubted: dict[Place, int] = {}
        self._waits: dict[Place, Backoff] = {}

    def start(self, consumer: Any) -> None:
        """Remember who reads."""
        self._consumer = consumer

    def begin(self, place: Place, offset: int) -> None:
        """The partition is read from here on."""
        self._positions[place] = offset

    def forget(self, place: Place) -> None:
        """The partition went."""
        self._positions.pop(place, None)
        self._doubted.pop(place, None)
        self._end_wait(place)

    def read_again(self, place: Place, offset: int) -> None:
        """Go back to an offset."""
        self._end_wait(place)
        self._positions[place] = offset
        self._consumer.seek(TopicPartition(*place, offset))

    @property
    def waiting(self) -> set[Place]:
        """The partitions that are paused for the registry."""
        return {place for place, wait in self._waits.items() if wait.is_pausing}

    def due(self) -> list[Place]:
        """Those of them that are to be tried again now; they are not waiting any more."""
        now = self._clock()
        places = [place for place, wait in self._waits.items() if wait.is_pausing and now >= wait.until]
        for place in places:
            self._waits[place].is_pausing = False
        return places

    def take(self, place: Place, messages: Sequence[Any]) -> None:
        """Take what was read of one live partition, its end included."""
        self._take_each(place, self._take_together(place, messages))

    def _take_together(self, place: Place, messages: Sequence[Any]) -> Sequence[Any]:
        """Take the events of a batch at once, if it can be done; several times as fast. Returns what is left."""
        can_be = self._processor.takes_columns and place in self._positions and place not in self._waits
        batch = messages if messages[-1].error() is None else messages[:-1]  # without the log's end
        if not can_be or len(batch) < WORTH_IT or not self._take_batch(place, batch):
            return messages
        self._health.better(place.topic)
        self._positions[place] += len(batch)
        self._flood.batch(len(batch), 0, 0)
        return messages[len(batch) :]

    def _take_batch(self, place: Place, batch: Sequence[Any]) -> bool:
        first = self._positions[place]
        if batch[0].offset() != first or batch[-1].offset() != first + len(batch) - 1:
            return False
        # An event of the client in between has a value, too, but none that begins as a record does.
        values = list(each("value", batch))
        try:
            framing = self._decoder.framing_of(values[0])
        except (RecordError, RegistryUnavailable):
            return False
        columns = None if framing is None else columns_of(values, framing)
        if columns is None or any_headers(batch):
            return False
        published = np.fromiter(map(_second, each("timestamp", batch)), np.int64, len(batch))
        return bool((published > 0).all()) and self._processor.apply_columns(place, first, columns, published)

    def _take_each(self, place: Place, batch: Sequence[Any]) -> None:
        if not batch:
            return
        self._health.better(place.topic)
        taken = bad = bad_at_end = 0
        is_row = place.topic in self._row_topics
        for message in batch:
            offset = message.offset()
            if not is_row and not self._follows(place, offset):
                break
            if message.error() is not None:
                self._processor.advanced(place, offset)
                continue
            record = _record_of(place, message)
            try:
                is_bad = not (self._take_row(record) if is_row else self._take_event(record))
            except RegistryUnavailable as error:
                self._wait_with(place, record.offset, error)
                break
            taken += 1
            if not is_row:
                self._positions[place] = offset + 1
            bad += is_bad
            bad_at_end = bad_at_end + 1 if is_bad else 0
            if self._waits:
                self._end_wait(place)
        if taken and not is_row:
            self._flood.batch(taken, bad, bad_at_end)

    def _follows(self, place: Place, offset: int) -> bool:
        """Whether this is what has to come next. A gap is believed when the log was asked twice.

        Offsets without a record are rare: markers of transactions, what retention took away. A client that began to
        read at a wrong place looks the same, and its records would be lost without a trace in the account.
        """
        expected = self._positions[place]
        if offset > expected and self._doubted.pop(place, None) != expected:
            self._doubted[place] = expected
        elif offset >= expected:
            begin = self._watch.begins.get(place, 0)
            if begin > expected:
                self._processor.lost(place, min(begin, offset))
            self._positions[place] = offset
            return True
        log.info("%s %d goes on at offset %d, %d was expected; it is read again", *place, offset, expected)
        self._consumer.seek(TopicPartition(*place, expected))
        return False

    def _take_event(self, record: Record) -> bool:
        """Returns whether the record could be used."""
        receiver = replay_for(record.headers)
        if receiver is not None and receiver != self._service:
            self._processor.ignore(record)
            return True
        try:
            if receiver is not None and replays_output(record.headers):
                self._processor.redeliver(record)
            else:
                self._processor.apply(record, self._decoder.decode(record.value))
        except RecordError as error:
            self._processor.reject(record, error)
            self._say_bad(record, error, "It is in the dead letters")
            return False
        return True

    def _take_row(self, record: Record) -> bool:
        try:
            self._processor.row(record)
        except RecordError as error:
            self._say_bad(record, error, "A row was passed over")
            return False
        return True

    def _say_bad(self, record: Record, error: RecordError, what: str) -> None:
        self._limited.log(
            logging.WARNING,
            error.reason,
            "A record can't be used (%s), topic %s, partition %d, offset %d: %s %s.",
            error.reason,
            *record.place,
            record.offset,
            error,
            what,
        )

    def _wait_with(self, place: Place, offset: int, error: Exception) -> None:
        """Stop at this record and try it again after a while."""
        sentence = f"{error} Partitions with records that need it wait."
        self._health.trouble("registry", sentence)
        self._limited.log(logging.WARNING, "registry", "%s", sentence)
        wait = self._waits.setdefault(place, Backoff(self._clock()))
        wait.again(self._clock())
        self._consumer.seek(TopicPartition(*place, offset))
        self._consumer.pause([TopicPartition(*place)])

    def _end_wait(self, place: Place) -> None:
        if self._waits.pop(place, None) is not None and not self._waits:
            self._health.better("registry")


_second = itemgetter(1)


def _record_of(place: Place, message: Any) -> Record:
    return Record(
        place, message.offset(), message.key(), message.value(), headers_of(message), message.timestamp()[1]
    )
