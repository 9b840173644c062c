"""The broker that the clients in memory share: one lock, one clock, and the messages that they are given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException
from confluent_kafka.admin import BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata

from hypervisor_telemetry.testing.memory.group import TopicPartition
from hypervisor_telemetry.testing.memory.log import Cluster, Headers, Record

__all__ = ["CLUSTER_ID", "Broker", "MemoryMessage", "failure"]

T = TypeVar("T")

CLUSTER_ID = "memory"


@dataclass(frozen=True, slots=True)
class MemoryMessage:
    """The methods of `confluent_kafka.Message`, which can't be made by hand in every version."""

    _topic: str | None
    _partition: int | None
    _offset: int | None
    _value: bytes | None
    _key: bytes | None = None
    _headers: Headers | None = None
    _timestamp: int | None = None
    _error: KafkaError | None = None

    @classmethod
    def of(cls, topic_partition: TopicPartition, record: Record, error: KafkaError | None = None) -> MemoryMessage:
        """Make the message of a record, for its reader or for its producer's delivery report."""
        offset = None if error else record.offset
        return cls(*topic_partition, offset, record.value, record.key, record.headers, record.timestamp, error)

    @classmethod
    def event(
        cls, error: KafkaError, topic_partition: TopicPartition | None = None, offset: int | None = None
    ) -> MemoryMessage:
        """Make an event of the client in place of a record. Its value is the error's text, as with librdkafka."""
        topic, partition = topic_partition or (None, None)
        return cls(topic, partition, offset, error.str().encode(), _error=error)

    def topic(self) -> str:
        """The topic. It is None for an event of the client, against the type, as in confluent_kafka."""
        return cast("str", self._topic)

    def partition(self) -> int:
        """The partition; None like the topic, for an event of the client."""
        return cast("int", self._partition)

    def offset(self) -> int:
        """The offset; of an end of partition, that of the next record. None for a record that was not delivered."""
        return cast("int", self._offset)

    def key(self) -> bytes | None:
        """The key."""
        return self._key

    def value(self) -> bytes | None:
        """The value; of an event, the error's text."""
        return self._value

    def headers(self) -> Headers | None:
        """The headers; None, not an empty list, where there are none."""
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        """The kind of timestamp, and the timestamp in milliseconds since 1970."""
        if self._timestamp is None or self._error is not None:
            return TIMESTAMP_NOT_AVAILABLE, -1
        return TIMESTAMP_CREATE_TIME, self._timestamp

    def error(self) -> KafkaError | None:
        """The error of an event; None: this is a record."""
        return self._error

    def __len__(self) -> int:
        return len(self._value or b"")


class Broker:
    """The shared state behind all clients of one `MemoryKafka`. Hold the lock while you use `cluster`.

    Args:
        clock: Seconds since 1970.
        cluster: Topics, groups and transactions; a new one by default.
    """

    is_away = False
    """Whether it answers no client now. A broker that can be away is a subclass."""

    def __init__(self, clock: Callable[[], float], cluster: Cluster | None = None) -> None:
        self.lock = threading.RLock()
        self.cluster = Cluster() if cluster is None else cluster
        self.activity = 0
        """The number of messages given to readers and of records written: it stands still when nothing happens."""
        self._clock = clock

    def now(self) -> float:
        """Seconds since 1970, by the clock."""
        return self._clock()

    def request(self, operation: str, effect: Callable[[], T], *, retriable: bool = False) -> T:  # noqa: ARG002 - for subclasses
        """Carry out an operation, and return the broker's answer.

        Args:
            operation: The client's method that asks, or `deliver` for one record on its way.
            effect: The change to the cluster; returns the answer.
            retriable: Whether the client may try again, or resume, after a timeout.

        Raises:
            KafkaException: The broker refuses, or doesn't answer.
        """
        self.cluster.end_overdue(self.now())
        return effect()

    def fetch(self, read: Callable[[], Sequence[MemoryMessage]]) -> Sequence[MemoryMessage]:
        """Return the messages that `read` finds in the cluster."""
        messages = self.request("consume", read)
        self.activity += len(messages)
        return messages

    def metadata(self, topic: str | None) -> ClusterMetadata:
        """Describe all topics, or the named one; one that doesn't exist carries an error."""
        metadata = ClusterMetadata()
        node = BrokerMetadata()
        # Through `vars`: the package's own types say that these are always None.
        vars(metadata).update(cluster_id=CLUSTER_ID, controller_id=1)
        vars(node).update(id=1, host="memory", port=0)
        metadata.brokers = {1: node}
        for name in self.cluster.topics if topic is None else [topic]:
            described = metadata.topics[name] = TopicMetadata()
            described.topic = name
            if name not in self.cluster.topics:
                described.error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
            for number in range(len(self.cluster.topics.get(name, ()))):
                partition = described.partitions[number] = PartitionMetadata()
                partition.id, partition.leader, partition.replicas, partition.isrs = number, 1, [1], [1]
        return metadata


def failure(code: int, reason: str, *, retriable: bool = False, txn_requires_abort: bool = False) -> KafkaException:
    """Return an error in the form in which the clients raise it."""
    error = KafkaError(code, reason, retriable=retriable, txn_requires_abort=txn_requires_abort)
    return KafkaException(error)
