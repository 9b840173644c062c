"""The logs of partitions in memory, and the transactions that write to them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from confluent_kafka import KafkaError, KafkaException

from hypervisor_telemetry.testing.memory.group import Committed, Group, TopicPartition

__all__ = ["Cluster", "Headers", "Kind", "PartitionLog", "Producer", "ProducerId", "Record", "Transaction"]

Headers: TypeAlias = list[tuple[str, bytes | None]]


class Kind(Enum):
    """The kind of a record, which decides who reads it.

    An open record becomes committed or aborted when its transaction ends.
    """

    PLAIN = "plain"
    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"
    COMMIT_MARKER = "commit marker"
    ABORT_MARKER = "abort marker"

    @property
    def is_marker(self) -> bool:
        """Whether it is a control record, which has an offset and is given to no reader."""
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
        """The last stable offset: the first offset of an open transaction, else the end."""
        return min((records[0].offset for records in self._open.values()), default=self.end)

    def at(self, offset: int) -> Record:
        """The record of an offset between `begin` and `end`."""
        return self.records[offset - self.begin]

    def append(self, record: Record, transaction: str | None = None) -> None:
        """Append a record at the next offset, as a part of the transaction if one is named."""
        record.offset = self.end
        if transaction is not None:
            record.kind = Kind.OPEN
            self._open.setdefault(transaction, []).append(record)
        self.records.append(record)
        self.end += 1

    def end_transaction(self, transaction: str, *, commit: bool, timestamp: int) -> None:
        """Commit or abort the transaction's records, and append its control record."""
        for record in self._open.pop(transaction, []):
            record.kind = Kind.COMMITTED if commit else Kind.ABORTED
        marker = Kind.COMMIT_MARKER if commit else Kind.ABORT_MARKER
        self.append(Record(self.end, marker, timestamp=timestamp))


class ProducerId(NamedTuple):
    """The coordinator's name for a transactional producer. A producer of an older epoch is fenced."""

    transactional_id: str
    epoch: int


@dataclass(slots=True)
class Transaction:
    """An open transaction: its beginning in seconds since 1970, and the places that it has written to."""

    began: float
    topic_partitions: set[TopicPartition] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Producer:
    """The coordinator's entry of one transactional id; `timeout` in seconds."""

    timeout: float
    epoch: int = 0
    transaction: Transaction | None = None


class Cluster:
    """Topics, groups and transactional producers. Every method is one step of the broker; times are in seconds."""

    def __init__(self) -> None:
        self.topics: dict[str, list[PartitionLog]] = {}
        self._groups: dict[str, Group] = {}
        self.producers: dict[str, Producer] = {}
        """The transactional producers, by transactional id."""

    def log(self, topic_partition: TopicPartition) -> PartitionLog | None:
        """Return the log of a partition, None where there is no such partition."""
        topic, partition = topic_partition
        logs = self.topics.get(topic, [])
        return logs[partition] if 0 <= partition < len(logs) else None

    def group(self, name: str) -> Group:
        """Return the group; it is made at its first mention."""
        return self._groups.setdefault(name, Group())

    def new_epoch(self, transactional_id: str, timeout: float, now: float) -> ProducerId:
        """Fence the producers that had this id before, and abort their open transaction."""
        producer = self.producers.setdefault(transactional_id, Producer(timeout))
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
        # Before the group is asked, as in the client: the transaction of a refused member has begun.
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

    def end_overdue(self, now: float) -> None:
        """Abort the transactions that are open for longer than their timeout, and fence their producers."""
        for transactional_id, producer in self.producers.items():
            if producer.transaction is not None and now - producer.transaction.began > producer.timeout:
                self._end(transactional_id, producer, commit=False, now=now)
                producer.epoch += 1

    def _end(self, transactional_id: str, producer: Producer, *, commit: bool, now: float) -> None:
        transaction, producer.transaction = producer.transaction, None
        if transaction is None:
            return
        for topic_partition in sorted(transaction.topic_partitions):
            if (log := self.log(topic_partition)) is not None:
                log.end_transaction(transactional_id, commit=commit, timestamp=int(now * 1000))
        for group in transaction.groups:
            self.group(group).end_pending(transactional_id, commit=commit)

    def _transaction(self, producer: ProducerId, now: float) -> Transaction:
        known = self._unfenced(producer)
        if known.transaction is None:
            known.transaction = Transaction(began=now)
        return known.transaction

    def _unfenced(self, producer: ProducerId) -> Producer:
        known = self.producers[producer.transactional_id]
        if known.epoch != producer.epoch:
            reason = "This instance has been fenced by a newer instance"
            raise KafkaException(KafkaError(KafkaError._FENCED, reason, fatal=True))
        return known
