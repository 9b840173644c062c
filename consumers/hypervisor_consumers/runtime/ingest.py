"""Taking what was read: batches at once where they can be, else record by record, in the order of the offsets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter
from typing import Any

import confluent_kafka
import numpy as np

from hypervisor_consumers.runtime.decode.batch_decoder import columns_of
from hypervisor_consumers.runtime.kafka.broker_monitor import BrokerMonitor
from hypervisor_consumers.runtime.kafka.client_factory import any_headers, headers_of
from hypervisor_consumers.runtime.kafka.message_grouping import each
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.processor import Processor, Record, TopicPartition
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.dead_letters import replay_for, replays_output
from hypervisor_schemas.errors import RecordError, RegistryUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import EventDecoder

__all__ = ["RecordIngest"]

log = logging.getLogger(__name__)

WORTH_IT = 20
"""Records of one partition from which on taking them together is faster."""


class RecordIngest:
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
        dead_letter_rate: DeadLetterRate,
        broker_monitor: BrokerMonitor,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._row_topics = frozenset(row_topics)
        self._processor = processor
        self._decoder = decoder
        self._health = health
        self._dead_letter_rate = dead_letter_rate
        self._broker_monitor = broker_monitor
        self._clock = clock
        self._limited = RateLimitedLog(log)
        self._consumer: Any = None
        self._positions: dict[TopicPartition, int] = {}
        """Of the live partitions with events: the offset that has to come next."""
        self._doubted: dict[TopicPartition, int] = {}
        self._waits: dict[TopicPartition, Backoff] = {}

    def start(self, consumer: Any) -> None:
        """Remember who reads."""
        self._consumer = consumer

    def begin(self, topic_partition: TopicPartition, offset: int) -> None:
        """The partition is read from here on."""
        self._positions[topic_partition] = offset

    def forget(self, topic_partition: TopicPartition) -> None:
        """The partition went."""
        self._positions.pop(topic_partition, None)
        self._doubted.pop(topic_partition, None)
        self._end_wait(topic_partition)

    def read_again(self, topic_partition: TopicPartition, offset: int) -> None:
        """Go back to an offset."""
        self._end_wait(topic_partition)
        self._positions[topic_partition] = offset
        self._consumer.seek(confluent_kafka.TopicPartition(*topic_partition, offset))

    @property
    def waiting(self) -> set[TopicPartition]:
        """The partitions that are paused for the registry."""
        return {topic_partition for topic_partition, wait in self._waits.items() if wait.is_pausing}

    def due(self) -> list[TopicPartition]:
        """Those of them that are to be tried again now; they are not waiting any more."""
        now = self._clock()
        topic_partitions = [
            topic_partition
            for topic_partition, wait in self._waits.items()
            if wait.is_pausing and now >= wait.until
        ]
        for topic_partition in topic_partitions:
            self._waits[topic_partition].is_pausing = False
        return topic_partitions

    def take(self, topic_partition: TopicPartition, messages: Sequence[Any]) -> None:
        """Take what was read of one live partition, its end included."""
        self._take_each(topic_partition, self._take_together(topic_partition, messages))

    def _take_together(self, topic_partition: TopicPartition, messages: Sequence[Any]) -> Sequence[Any]:
        """Take the events of a batch at once, if it can be done; several times as fast. Returns what is left."""
        can_be = (
            self._processor.takes_columns
            and topic_partition in self._positions
            and topic_partition not in self._waits
        )
        batch = messages if messages[-1].error() is None else messages[:-1]  # without the log's end
        if not can_be or len(batch) < WORTH_IT or not self._take_batch(topic_partition, batch):
            return messages
        self._health.better(topic_partition.topic)
        self._positions[topic_partition] += len(batch)
        self._dead_letter_rate.batch(len(batch), 0, 0)
        return messages[len(batch) :]

    def _take_batch(self, topic_partition: TopicPartition, batch: Sequence[Any]) -> bool:
        first = self._positions[topic_partition]
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
        return bool((published > 0).all()) and self._processor.apply_columns(
            topic_partition, first, columns, published
        )

    def _take_each(self, topic_partition: TopicPartition, batch: Sequence[Any]) -> None:
        if not batch:
            return
        self._health.better(topic_partition.topic)
        taken = bad = bad_at_end = 0
        is_row = topic_partition.topic in self._row_topics
        for message in batch:
            offset = message.offset()
            if not is_row and not self._follows(topic_partition, offset):
                break
            if message.error() is not None:
                self._processor.advanced(topic_partition, offset)
                continue
            record = _record_of(topic_partition, message)
            try:
                is_bad = not (self._take_row(record) if is_row else self._take_event(record))
            except RegistryUnavailable as error:
                self._wait_with(topic_partition, record.offset, error)
                break
            taken += 1
            if not is_row:
                self._positions[topic_partition] = offset + 1
            bad += is_bad
            bad_at_end = bad_at_end + 1 if is_bad else 0
            if self._waits:
                self._end_wait(topic_partition)
        if taken and not is_row:
            self._dead_letter_rate.batch(taken, bad, bad_at_end)

    def _follows(self, topic_partition: TopicPartition, offset: int) -> bool:
        """Whether this is what has to come next. A gap is believed when the log was asked twice.

        Offsets without a record are rare: markers of transactions, what retention took away. A client that began to
        read at a wrong place looks the same, and its records would be lost without a trace in the account.
        """
        expected = self._positions[topic_partition]
        if offset > expected and self._doubted.pop(topic_partition, None) != expected:
            self._doubted[topic_partition] = expected
        elif offset >= expected:
            begin = self._broker_monitor.begins.get(topic_partition, 0)
            if begin > expected:
                self._processor.lost(topic_partition, min(begin, offset))
            self._positions[topic_partition] = offset
            return True
        log.info(
            "%s %d goes on at offset %d, %d was expected; it is read again", *topic_partition, offset, expected
        )
        self._consumer.seek(confluent_kafka.TopicPartition(*topic_partition, expected))
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
            *record.topic_partition,
            record.offset,
            error,
            what,
        )

    def _wait_with(self, topic_partition: TopicPartition, offset: int, error: Exception) -> None:
        """Stop at this record and try it again after a while."""
        sentence = f"{error} Partitions with records that need it wait."
        self._health.trouble("registry", sentence)
        self._limited.log(logging.WARNING, "registry", "%s", sentence)
        wait = self._waits.setdefault(topic_partition, Backoff(self._clock()))
        wait.again(self._clock())
        self._consumer.seek(confluent_kafka.TopicPartition(*topic_partition, offset))
        self._consumer.pause([confluent_kafka.TopicPartition(*topic_partition)])

    def _end_wait(self, topic_partition: TopicPartition) -> None:
        if self._waits.pop(topic_partition, None) is not None and not self._waits:
            self._health.better("registry")


_second = itemgetter(1)


def _record_of(topic_partition: TopicPartition, message: Any) -> Record:
    return Record(
        topic_partition,
        message.offset(),
        message.key(),
        message.value(),
        headers_of(message),
        message.timestamp()[1],
    )
