"""Reading partitions of a Kafka in memory: where each one stands, what is given next, and where its end is."""

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
    """Where reading of one partition stands."""

    start: int
    """What was asked for: an offset, or one of librdkafka's `OFFSET_`s."""
    next_offset: int | None = None
    """None: it isn't known yet where to begin, or it can't be."""
    is_broken: bool = False
    position: int = OFFSET_INVALID
    """After the last record or marker that was passed."""
    end_told: int = OFFSET_INVALID
    watermarks: tuple[int, int] = (OFFSET_INVALID, OFFSET_INVALID)
    """Begin and end of the log, as the last read saw them."""


class Reader:
    """The partitions of one consumer. Whoever calls holds the broker's lock."""

    def __init__(self, broker: Broker, group: str, settings: Mapping[str, Any]) -> None:
        self._broker = broker
        self._group_name = group
        self.is_committed_only = settings.get("isolation.level", "read_committed") == "read_committed"
        self._tells_end = str(settings.get("enable.partition.eof", False)).lower() == "true"
        self._reset = str(settings.get("auto.offset.reset", "largest"))
        self.readings: dict[TopicPartition, Reading] = {}
        self._paused: set[TopicPartition] = set()

    def start(self, topic_partition: TopicPartition, offset: int) -> None:
        """Read from there on: a new partition, or one that is read already."""
        before = self.readings.get(topic_partition, Reading(OFFSET_INVALID))
        start = OFFSET_STORED if offset == OFFSET_INVALID else offset
        reading = self.readings[topic_partition] = Reading(start, watermarks=before.watermarks)
        log = self._broker.cluster.log(topic_partition)
        # "The end" is the one at the time of asking.
        if start == OFFSET_END and log is not None and not self._broker.is_away:
            reading.next_offset = self.end(log)

    def stop(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Read them no more; whether they are paused is remembered, as librdkafka does."""
        for topic_partition in topic_partitions:
            self.readings.pop(topic_partition, None)

    def pause(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Give nothing of these, whether they are read now or later."""
        self._paused.update(topic_partitions)

    def resume(self, topic_partitions: Iterable[TopicPartition]) -> None:
        """Give what there is, and tell the end again."""
        for topic_partition in topic_partitions:
            self._paused.discard(topic_partition)
            if topic_partition in self.readings:
                self.readings[topic_partition].end_told = OFFSET_INVALID

    def read(self, limit: int) -> list[MemoryMessage]:
        """The next messages, partition after partition."""
        messages: list[MemoryMessage] = []
        for topic_partition, reading in self.readings.items():
            if topic_partition not in self._paused:
                self._read_one(topic_partition, reading, messages, limit)
        return messages

    def end(self, log: PartitionLog) -> int:
        """The end of a log for this reader: under read_committed, the last stable offset."""
        return log.stable_end if self.is_committed_only else log.end

    def edge(self, asked: confluent_kafka.TopicPartition) -> confluent_kafka.TopicPartition:
        """With the beginning or the end, as the offset asks for it; as it was for a partition that isn't there."""
        log = self._broker.cluster.log((asked.topic, asked.partition))
        offset = asked.offset
        if offset not in {OFFSET_BEGINNING, OFFSET_END}:
            raise NotImplementedError("The memory Kafka finds no offsets by time; no service asks for them.")
        if log is not None:
            offset = log.begin if offset == OFFSET_BEGINNING else self.end(log)
        return confluent_kafka.TopicPartition(asked.topic, asked.partition, offset)

    @property
    def group(self) -> Group:
        """The group whose offsets count."""
        return self._broker.cluster.group(self._group_name)

    def _read_one(
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
        if self._tells_end and offset >= end and offset != reading.end_told and len(messages) < limit:
            reading.end_told = offset
            reason = f"Reached end of partition at offset {offset}"
            messages.append(
                MemoryMessage.event(KafkaError(KafkaError._PARTITION_EOF, reason), topic_partition, offset)
            )

    def _find_start(
        self, topic_partition: TopicPartition, reading: Reading, log: PartitionLog
    ) -> KafkaError | None:
        """Turn what was asked for into an offset of the log, where that is possible now."""
        if reading.is_broken:
            return None
        offset = reading.next_offset
        if offset is None:
            offset = self._asked_offset(topic_partition, reading.start, log)
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

    def _asked_offset(self, topic_partition: TopicPartition, asked: int, log: PartitionLog) -> int | None:
        if asked == OFFSET_BEGINNING:
            return log.begin
        if asked == OFFSET_END:
            return self.end(log)
        if asked >= 0:
            return asked
        if self.is_committed_only and self.group.is_unstable(topic_partition):
            return None
        committed = self.group.committed.get(topic_partition)
        return OFFSET_INVALID if committed is None else committed.offset
