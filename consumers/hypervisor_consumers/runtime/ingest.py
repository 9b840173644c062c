"""Handing what was read to the processor: batches at once where they can be, else record by record, in order."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import confluent_kafka
import numpy as np

from hypervisor_consumers.runtime.decode.batch_decoder import columns_of
from hypervisor_consumers.runtime.kafka.client_factory import any_headers, headers_of
from hypervisor_consumers.runtime.kafka.client_types import Consumer, Message
from hypervisor_consumers.runtime.kafka.message_grouping import each
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment
from hypervisor_consumers.runtime.processor import BatchProcessor, Processor, Roles
from hypervisor_consumers.runtime.records import Record, TopicPartition
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.dead_letters import replay_for, replays_output
from hypervisor_schemas.errors import RecordError, RegistryUnavailable, UndecodableRecord
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import EventDecoder

__all__ = ["RecordIngest"]

log = logging.getLogger(__name__)

WORTH_IT = 20
"""Records of one partition from which on taking them together is faster."""


class RecordIngest:
    """Decodes what was read of a partition, and hands it to the processor.

    A record that can't be used goes there as a dead letter, is logged (the first of each kind at once, with its
    position), and stops nothing. For a registry that doesn't answer, the partition is paused and sought back.

    Args:
        service: The service's name, as replayed dead letters know it.
        processor: Takes events.
        roles: The roles that the service has besides.
        assignment: The partitions of this copy.
    """

    def __init__(
        self,
        *,
        service: str,
        processor: Processor,
        roles: Roles,
        assignment: Assignment[Any],
        decoder: EventDecoder,
        health: Health,
        dead_letter_rate: DeadLetterRate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._processor = processor
        self._roles = roles
        self._assignment = assignment
        self._decoder = decoder
        self._health = health
        self._dead_letter_rate = dead_letter_rate
        self._clock = clock
        self._limited = RateLimitedLog(log)
        self._consumer: Consumer | None = None

    def start(self, consumer: Consumer) -> None:
        """Seek and pause by this consumer."""
        self._consumer = consumer

    def forget(self, partitions: Iterable[AssignedPartition[Any]]) -> None:
        """Wait for nothing any more of partitions that are not read now."""
        for partition in partitions:
            self._end_wait(partition)

    def read_again(self, partition: AssignedPartition[Any], offset: int) -> None:
        """Go back to an offset."""
        self._end_wait(partition)
        partition.position = offset
        self._seek(partition)

    def due(self) -> list[AssignedPartition[Any]]:
        """The partitions that waited for the registry and are to be tried again now; they wait no more."""
        now = self._clock()
        due = [
            one for one in self._assignment if (wait := one.schema_wait) and wait.is_pausing and now >= wait.until
        ]
        for one in due:
            if one.schema_wait is not None:
                one.schema_wait.is_pausing = False
        return due

    def take(self, partition: AssignedPartition[Any], messages: Sequence[Message]) -> None:
        """Take what was read of one partition, its end included."""
        self._take_each(partition, self._take_together(partition, messages))

    def _take_together(self, partition: AssignedPartition[Any], messages: Sequence[Message]) -> Sequence[Message]:
        """Take the events of a batch at once, if it can be done; several times as fast. Returns what is left."""
        batches = self._roles.batches
        batch = messages if messages[-1].error() is None else messages[:-1]  # without the log's end
        if batches is None or partition.is_table or partition.schema_wait or len(batch) < WORTH_IT:
            return messages
        if not self._take_batch(batches, partition, batch):
            return messages
        self._health.better(partition.topic_partition.topic)
        partition.read_up_to(partition.position + len(batch))
        self._dead_letter_rate.batch(len(batch), 0, 0)
        return messages[len(batch) :]

    def _take_batch(
        self, batches: BatchProcessor, partition: AssignedPartition[Any], batch: Sequence[Message]
    ) -> bool:
        first = partition.position
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
        published_ms = np.fromiter(map(_second, each("timestamp", batch)), np.int64, len(batch))
        if not (published_ms > 0).all():
            return False
        return batches.apply_columns(partition.topic_partition, first, columns, published_ms)

    def _take_each(self, partition: AssignedPartition[Any], batch: Sequence[Message]) -> None:
        if not batch:
            return
        self._health.better(partition.topic_partition.topic)
        taken = bad = bad_at_end = 0
        for message in batch:
            offset = message.offset()
            if not partition.is_table and not self._follows(partition, offset):
                break
            if message.error() is not None:
                self._processor.advanced(partition.topic_partition, offset)
                continue
            record = _record_of(partition.topic_partition, message)
            try:
                is_bad = not (self._take_row(record) if partition.is_table else self._take_event(record))
            except RegistryUnavailable as error:
                self._wait_with(partition, error)
                break
            taken += 1
            partition.read_up_to(offset + 1)
            bad += is_bad
            bad_at_end = bad_at_end + 1 if is_bad else 0
            if partition.schema_wait is not None:
                self._end_wait(partition)
        if taken and not partition.is_table:
            self._dead_letter_rate.batch(taken, bad, bad_at_end)

    def _follows(self, partition: AssignedPartition[Any], offset: int) -> bool:
        """Whether this offset has to come next, as far as the partition believes the gap before it.

        Markers of transactions, aborted records and what retention took away leave gaps. A client that began to
        read at a wrong offset looks the same, and its records would be lost without a trace in the account.
        """
        expected = partition.position
        if offset == expected or (offset > expected and partition.is_gap_believed()):
            begin = partition.log_start
            if begin > expected:
                self._processor.lost(partition.topic_partition, min(begin, offset))
            partition.position = offset
            return True
        log.info(
            "%s %d goes on at offset %d, %d was expected; it is read again",
            *partition.topic_partition,
            offset,
            expected,
        )
        self._seek(partition)
        return False

    def _take_event(self, record: Record) -> bool:
        """Returns whether the record could be used."""
        receiver = replay_for(record.headers)
        if receiver is not None and receiver != self._service:
            self._processor.ignore(record)
            return True
        try:
            if receiver is not None and replays_output(record.headers):
                self._redeliver(record)
            else:
                self._processor.apply(record, self._decoder.decode(record.value))
        except RecordError as error:
            self._processor.reject(record, error)
            self._say_bad(record, error, "It is in the dead letters")
            return False
        return True

    def _redeliver(self, record: Record) -> None:
        if self._roles.outputs is None:
            raise UndecodableRecord("This service has no outputs that could be delivered again.")
        self._roles.outputs.redeliver(record)

    def _take_row(self, record: Record) -> bool:
        if self._roles.table is None:
            raise AssertionError(f"{record.topic_partition} is read, and nobody takes its rows")
        try:
            self._roles.table.row(record)
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

    def _wait_with(self, partition: AssignedPartition[Any], error: Exception) -> None:
        """Stop at the record that comes next, and try it again after a while."""
        sentence = f"{error} Partitions with records that need it wait."
        self._health.trouble("registry", sentence)
        self._limited.log(logging.WARNING, "registry", "%s", sentence)
        if partition.schema_wait is None:
            partition.schema_wait = Backoff(self._clock())
        partition.schema_wait.again(self._clock())
        self._seek(partition)
        self._reader().pause([confluent_kafka.TopicPartition(*partition.topic_partition)])

    def _end_wait(self, partition: AssignedPartition[Any]) -> None:
        if partition.schema_wait is not None:
            partition.schema_wait = None
            if not any(one.schema_wait for one in self._assignment):
                self._health.better("registry")

    def _seek(self, partition: AssignedPartition[Any]) -> None:
        partition.read_is_interrupted()
        self._reader().seek(confluent_kafka.TopicPartition(*partition.topic_partition, partition.position))

    def _reader(self) -> Consumer:
        if self._consumer is None:
            raise AssertionError("start() comes first")
        return self._consumer


_second = itemgetter(1)


def _record_of(topic_partition: TopicPartition, message: Message) -> Record:
    return Record(
        topic_partition,
        message.offset(),
        message.key(),
        message.value(),
        headers_of(message),
        message.timestamp()[1],
    )
