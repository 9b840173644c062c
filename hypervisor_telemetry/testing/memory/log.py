"""What a Kafka keeps, in memory: the partitions' logs, and the transactions that write to them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from confluent_kafka import KafkaError, KafkaException

from hypervisor_telemetry.testing.memory.group import Committed, Group, TopicPartition

__all__ = ["Cluster", "Headers", "Kind", "PartitionLog", "ProducerId", "Record"]

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Kind(Enum):
    """What a record is to a reader. An open one becomes committed or aborted when its transaction ends."""

    PLAIN = "plain"
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    COMMIT_MARKER = "commit marker"
    ABORT_MARKER = "abort marker"

    @property
    def is_marker(self) -> bool:
        """Whether it is a control record: it has an offset, and no reader gets it."""
        return self in {Kind.COMMIT_MARKER, Kind.ABORT_MARKER}


@dataclass(slots=True)
class Record:
    """One offset of a log. `timestamp` is in milliseconds since 1970."""

    offset: int
    kind: Kind
    value: bytes | None = None
    key: bytes | None = None
    headers: Headers | None = None
    timestamp: int = 0


class PartitionLog:
    """The records of one partition, from `begin` to just before `end`."""

    def __init__(self) -> None:
        self.begin = 0
        self.end = 0
        """The high watermark."""
        self.records: list[Record] = []
        self._open: dict[str, list[Record]] = {}

    @property
    def stable_end(self) -> int:
        """The last stable offset: the first one of an open transaction, else the end."""
        return min((records[0].offset for records in self._open.values()), default=self.end)

    def at(self, offset: int) -> Record:
        """The record of an offset between `begin` and `end`."""
        return self.records[offset - self.begin]

    def append(self, record: Record, transaction: str | None = None) -> None:
        """Give the record the next offset; as a part of the transaction, if one is named."""
        record.offset = self.end
        if transaction is not None:
            record.kind = Kind.OPEN
            self._open.setdefault(transaction, []).append(record)
        self.records.append(record)
        self.end += 1

    def end_transaction(self, transaction: str, *, commit: bool, timestamp: int) -> None:
        """Decide about the transaction's records, and write its control record."""
        for record in self._open.pop(transaction, []):
            record.kind = Kind.COMMITTED if commit else Kind.ABORTED
        marker = Kind.COMMIT_MARKER if commit else Kind.ABORT_MARKER
        self.append(Record(self.end, marker, timestamp=timestamp))

    def expire(self, before: int) -> None:
        """Retention: what is before this offset is gone; at most everything."""
        before = min(before, self.end)
        if before > self.begin:
            del self.records[: before - self.begin]
            self.begin = before


class ProducerId(NamedTuple):
    """A transactional producer, as the coordinator knows it: an older epoch is fenced."""

    transactional_id: str
    epoch: int


@dataclass(slots=True)
class _Transaction:
    began: float
    topic_partitions: set[TopicPartition] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Producer:
    timeout: float
    epoch: int = 0
    transaction: _Transaction | None = None


class Cluster:
    """Topics, groups and transactional producers. Every method is one step of the broker; times are in seconds."""

    def __init__(self) -> None:
        self.topics: dict[str, list[PartitionLog]] = {}
        self._groups: dict[str, Group] = {}
        self._producers: dict[str, _Producer] = {}

    def log(self, topic_partition: TopicPartition) -> PartitionLog | None:
        """The log of a partition, None where there is no such partition."""
        topic, partition = topic_partition
        logs = self.topics.get(topic, [])
        return logs[partition] if 0 <= partition < len(logs) else None

    def group(self, name: str) -> Group:
        """The group, a new one at its first mention."""
        return self._groups.setdefault(name, Group())

    def new_epoch(self, transactional_id: str, timeout: float, now: float) -> ProducerId:
        """Fence the producers that had this id before; what they left open is aborted."""
        producer = self._producers.setdefault(transactional_id, _Producer(timeout))
        self._end(transactional_id, producer, commit=False, now=now)
        producer.timeout = timeout
        producer.epoch += 1
        return ProducerId(transactional_id, producer.epoch)

    def write(
        self, topic_partition: TopicPartition, record: Record, producer: ProducerId | None, now: float
    ) -> None:
        """Append to an existing partition, in the producer's transaction if it is transactional.

        Raises:
            KafkaException: The producer is fenced.
        """
        log = self.log(topic_partition)
        if log is None:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))
        if producer is None:
            log.append(record)
            return
        self._transaction(producer, now).topic_partitions.add(topic_partition)
        log.append(record, producer.transactional_id)

    def add_offsets(
        self,
        producer: ProducerId,
        group: str,
        member: tuple[str, int],
        offsets: Mapping[TopicPartition, Committed],
        now: float,
    ) -> None:
        """Make group offsets a part of the producer's transaction.

        Raises:
            KafkaException: The producer is fenced, or the member (id and epoch) is not the group's any more.
        """
        # Before the group is asked, as the client does: a refused member's transaction has begun.
        self._transaction(producer, now).groups.add(group)
        for topic_partition in offsets:
            if self.log(topic_partition) is None:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, txn_requires_abort=True))
        self.group(group).add_pending(producer.transactional_id, member, offsets)

    def end(self, producer: ProducerId, *, commit: bool, now: float) -> None:
        """Commit or abort the producer's transaction; nothing happens if it has none.

        Raises:
            KafkaException: The producer is fenced.
        """
        self._end(producer.transactional_id, self._unfenced(producer), commit=commit, now=now)

    def forget(self, topic_partitions: Iterable[TopicPartition], groups: Iterable[str]) -> None:
        """Take these out of the open transactions, as if they had been deleted."""
        for producer in self._producers.values():
            if producer.transaction is not None:
                producer.transaction.topic_partitions.difference_update(topic_partitions)
                producer.transaction.groups.difference_update(groups)

    def end_overdue(self, now: float) -> None:
        """Abort what is open for longer than its timeout. Its producer is fenced by that, as by a successor."""
        for transactional_id, producer in self._producers.items():
            if producer.transaction is not None and now - producer.transaction.began > producer.timeout:
                self._end(transactional_id, producer, commit=False, now=now)
                producer.epoch += 1

    def _end(self, transactional_id: str, producer: _Producer, *, commit: bool, now: float) -> None:
        transaction, producer.transaction = producer.transaction, None
        if transaction is None:
            return
        for topic_partition in sorted(transaction.topic_partitions):
            if (log := self.log(topic_partition)) is not None:
                log.end_transaction(transactional_id, commit=commit, timestamp=int(now * 1000))
        for group in transaction.groups:
            self.group(group).end_pending(transactional_id, commit=commit)

    def _transaction(self, producer: ProducerId, now: float) -> _Transaction:
        known = self._unfenced(producer)
        if known.transaction is None:
            known.transaction = _Transaction(began=now)
        return known.transaction

    def _unfenced(self, producer: ProducerId) -> _Producer:
        known = self._producers[producer.transactional_id]
        if known.epoch != producer.epoch:
            reason = "This instance has been fenced by a newer instance"
            raise KafkaException(KafkaError(KafkaError._FENCED, reason, fatal=True))
        return known
