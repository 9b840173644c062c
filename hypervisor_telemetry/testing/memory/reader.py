"""Reading partitions of a Kafka in memory: positions, the next messages, and the ends of logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import confluent_kafka
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    KafkaError,
)

from hypervisor_telemetry.testing.memory.broker import Broker, MemoryMessage
from hypervisor_telemetry.testing.memory.group import Group, TopicPartition
from hypervisor_telemetry.testing.memory.log import Kind, PartitionLog

__all__ = ["Reader", "Reading"]

_EARLIEST = {"smallest", "earliest", "beginning"}
_LATEST = {"largest", "latest", "end"}


@dataclass(slots=True)
class Reading:
    """The state of reading one partition."""

    start: int
    """The offset that it was assigned with: a number, or one of librdkafka's `OFFSET_`s."""
    next_offset: int | None = None
    """None: the offset to begin at isn't known yet, or can't be."""
    is_broken: bool = False
    position: int = OFFSET_INVALID
    """The offset after the last record or marker that was read."""
    reported_end: int = OFFSET_INVALID
    watermarks: tuple[int, int] = (OFFSET_INVALID, OFFSET_INVALID)
    """The beginning and the end of the log at the last read."""


class Reader:
    """The partitions of one consumer. Callers hold the broker's lock."""

    def __init__(self, broker: Broker, group: str, settings: Mapping[str, Any]) -> None:
        self._broker = broker
        self._group_name = group
        self.is_committed_only = settings.get("isolation.level", "read_committed") == "read_committed"
        self._emits_eof = str(settings.get("enable.partition.eof", False)).lower() == "true"
        self._reset = str(settings.get("auto.offset.reset", "largest"))
        self.readings: dict[TopicPartition, Reading] = {}
        self._paused: set[TopicPartition] = set()

    def start(self, topic_partition: TopicPartition, offset: int) -> None:
        """Read from this offset on: a new partition, or one that is read already."""
        before = self.readings.get(topic_partition, Reading(OFFSET_INVALID))
        start = OFFSET_STORED if offset == OFFSET_INVALID else offset
        reading = self.readings[topic_partition] = Reading(start, watermarks=before.watermarks)
        log = self._broker.cluster.log(topic_partition)
        # The end is the one at the time of the call.
        if start == OFFSET_END and log is not None and not self._broker.is_away:
            reading.next_offset = self.end(log)

    def stop(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Stop reading these. Paused ones stay paused, as in librdkafka."""
        for topic_partition in topic_partitions:
            self.readings.pop(topic_partition, None)

    def pause(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Read nothing of these, whether they are read now or later."""
        self._paused.update(topic_partitions)

    def resume(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Read these again, and report their ends again."""
        for topic_partition in topic_partitions:
            self._paused.discard(topic_partition)
            if topic_partition in self.readings:
                self.readings[topic_partition].reported_end = OFFSET_INVALID

    def read(self, limit: int) -> list[MemoryMessage]:
        """Return the next messages, partition after partition."""
        messages: list[MemoryMessage] = []
        for topic_partition, reading in self.readings.items():
            if topic_partition not in self._paused:
                self._read_partition(topic_partition, reading, messages, limit)
        return messages

    def end(self, log: PartitionLog) -> int:
        """Return the end of a log for this reader: under read_committed, the last stable offset."""
        return log.stable_end if self.is_committed_only else log.end

    def bound(self, partition: confluent_kafka.TopicPartition) -> confluent_kafka.TopicPartition:
        """Return the partition with the number for its `OFFSET_BEGINNING` or `OFFSET_END`.

        A partition that doesn't exist is returned unchanged.
        """
        log = self._broker.cluster.log((partition.topic, partition.partition))
        offset = partition.offset
        if offset not in {OFFSET_BEGINNING, OFFSET_END}:
            # Loud, not wrong: services ask for beginnings and ends alone, and no user reaches this.
            raise NotImplementedError("The memory Kafka finds no offsets by time; no service asks for them.")
        if log is not None:
            offset = log.begin if offset == OFFSET_BEGINNING else self.end(log)
        return confluent_kafka.TopicPartition(partition.topic, partition.partition, offset)

    @property
    def group(self) -> Group:
        """The consumer's group."""
        return self._broker.cluster.group(self._group_name)

    def _read_partition(
        self, topic_partition: TopicPartition, reading: Reading, messages: list[MemoryMessage], limit: int
    ) -> None:
        log = self._broker.cluster.log(topic_partition)
        if log is None or len(messages) >= limit:
            return
        error = self._find_start(topic_partition, reading, log)
        if error is not None:
            messages.append(
                MemoryMessage.event(error, topic_partition, reading.start if reading.start >= 0 else None)
            )
        offset = reading.next_offset
        if offset is None:
            return
        reading.watermarks = (log.begin, log.end)
        end = self.end(log)
        while offset < end and len(messages) < limit:
            record = log.at(offset)
            offset += 1
            if not record.kind.is_marker:
                if record.kind is Kind.ABORTED and self.is_committed_only:
                    continue
                messages.append(MemoryMessage.of(topic_partition, record))
            reading.position = offset
        reading.next_offset = offset
        if self._emits_eof and offset >= end and offset != reading.reported_end and len(messages) < limit:
            reading.reported_end = offset
            reason = f"Reached end of partition at offset {offset}"
            messages.append(
                MemoryMessage.event(KafkaError(KafkaError._PARTITION_EOF, reason), topic_partition, offset)
            )

    def _find_start(
        self, topic_partition: TopicPartition, reading: Reading, log: PartitionLog
    ) -> KafkaError | None:
        """Set `next_offset`, where that is possible now; return the error if it never will be."""
        if reading.is_broken:
            return None
        offset = reading.next_offset
        if offset is None:
            offset = self._start_offset(topic_partition, reading.start, log)
            if offset is None:
                return None
        if not log.begin <= offset <= log.end:
            if self._reset in _EARLIEST:
                offset = log.begin
            elif self._reset in _LATEST:
                offset = self.end(log)
            else:
                reading.start, reading.next_offset, reading.is_broken = offset, None, True
                reason = "Local: No offset stored" if offset < 0 else "Broker: Offset out of range"
                return KafkaError(KafkaError._AUTO_OFFSET_RESET, reason)
        reading.next_offset = offset
        return None

    def _start_offset(self, topic_partition: TopicPartition, start: int, log: PartitionLog) -> int | None:
        if start == OFFSET_BEGINNING:
            return log.begin
        if start == OFFSET_END:
            return self.end(log)
        if start >= 0:
            return start
        if self.is_committed_only and self.group.is_unstable(topic_partition):
            return None
        committed = self.group.committed.get(topic_partition)
        return OFFSET_INVALID if committed is None else committed.offset
