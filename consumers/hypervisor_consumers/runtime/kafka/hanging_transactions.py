"""Transactions that Kafka will never end by itself (KIP-664 calls them hanging), and how they are ended.

A coordinator that starts while partitions have no leader takes them for deleted and ends a transaction without them
(KAFKA-20734, not mended in 4.3). What was written there stays open for ever, and nobody who reads what is committed
comes past it. Kafka ends by producer what is open in a partition, so the next abort of the same producer in the
same partition ends that too: as aborted, even if the rest was committed. From this follow three rules:

* A producer that replaces another aborts once wherever that one wrote (`sweep`).
* The first record of each partition in a transaction says who wrote it (`WRITER`), so that whoever restores can end
  what a dead copy left open, in its name (`find_writer`, then `end_found`).
* An abort may undo the commit before it. So the commit after an abort writes the last record of each key once more
  (`partitions.pending`), and whoever restores takes the state's word for what is counted, not the offset's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.client_config import reader_settings
from hypervisor_consumers.runtime.kafka.client_errors import call, text_of, timed_out
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory, headers_of
from hypervisor_consumers.runtime.kafka.client_types import Producer
from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["WRITER", "HangingTransactions"]

log = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 5.0

WRITER = "transactional.id"
"""The header of the first record of a transaction in a partition, unless it has headers of its own."""

_SWEPT = b"swept"
"""The key of records that are aborted whatever happens; a compacted topic takes none without a key."""


class _Found(NamedTuple):
    transactional_id: str
    topic_partition: TopicPartition


class HangingTransactions:
    """Finds and ends the hanging transactions of other copies, and those of this one's former producers.

    `find_writer` is for the restorer's thread, all else for the loop's.
    """

    def __init__(self, clients: ClientFactory, consumer: Mapping[str, Any], producer: Mapping[str, Any]) -> None:
        self._clients = clients
        self._reader_settings = {**reader_settings(consumer), "isolation.level": "read_uncommitted"}
        self._producer_settings = producer
        self._lock = threading.Lock()
        self._found: list[_Found] = []
        self._written: set[TopicPartition] = set()
        """Every partition that was ever written to: records of a producer that was replaced may lie open there."""
        self.is_swept = True
        """Whether nothing of a former producer can lie open."""

    def find_writer(self, topic_partition: TopicPartition, offset: int, within_seconds: float) -> bool:
        """Find out who wrote the record at `offset`, open as it is; `end_found` ends it.

        False: the record doesn't say so, or Kafka doesn't give it.
        """
        reader = self._clients.consumer(self._reader_settings)
        try:
            reader.incremental_assign([confluent_kafka.TopicPartition(*topic_partition, offset)])
            messages = reader.consume(1, timeout=within_seconds)
        finally:
            reader.close()
        records = [message for message in messages if message.error() is None and message.offset() == offset]
        writer = dict(headers_of(records[0]) or ()).get(WRITER) if records else None
        if writer is None:
            return False
        try:
            found = _Found(writer.decode(), topic_partition)
        except UnicodeDecodeError:
            return False  # a stranger's header
        with self._lock:
            self._found.append(found)
        return True

    def has_found(self) -> bool:
        """Whether there is something to end."""
        return bool(self._found)

    def end_found(self, also: Collection[TopicPartition]) -> None:
        """End what was found, in the name of its writer, which is fenced if it is still there.

        Args:
            also: Other partitions that the same producers may have written to.
        """
        with self._lock:
            found, self._found = self._found, []
        by_writer: dict[str, set[TopicPartition]] = {}
        for writer, topic_partition in found:
            by_writer.setdefault(writer, set(also)).add(topic_partition)
        for writer, topic_partitions in by_writer.items():
            try:
                producer = self._clients.producer({**self._producer_settings, "transactional.id": writer})
                call(producer.init_transactions, CALL_TIMEOUT_SECONDS)
                _abort_in(producer, topic_partitions)
            except KafkaException as error:
                log.warning("A transaction of %s could not be ended: %s.", writer, text_of(error))
            else:
                log.warning("A transaction of %s, that Kafka had forgotten to end, is ended.", writer)

    def writes_to(self, topic_partition: TopicPartition) -> None:
        """Remember that this process writes to a partition."""
        self._written.add(topic_partition)

    def producer_is_replaced(self) -> None:
        """Note that the next producer has to `sweep`."""
        self.is_swept = not self._written

    def sweep(self, producer: Producer) -> None:
        """Abort once wherever the former producer wrote.

        Raises:
            KafkaException: It could not be begun everywhere, or not be ended.
        """
        if not self.is_swept:
            _abort_in(producer, self._written)
            self.is_swept = True


def _abort_in(producer: Producer, topic_partitions: Iterable[TopicPartition]) -> None:
    """Begin a transaction in these partitions, and abort it.

    Raises:
        KafkaException: It could not be begun everywhere, or not be ended.
    """
    producer.begin_transaction()
    try:
        for topic, partition in topic_partitions:
            producer.produce(topic, value=None, key=_SWEPT, partition=partition)
        if call(producer.flush, CALL_TIMEOUT_SECONDS):
            raise timed_out()
    finally:
        call(producer.abort_transaction, CALL_TIMEOUT_SECONDS)
