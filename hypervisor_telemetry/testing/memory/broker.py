"""How the clients in memory reach their Kafka: one lock, one clock, and the faults that a test asks for."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException
from confluent_kafka.admin import BrokerMetadata, ClusterMetadata, PartitionMetadata, TopicMetadata

from hypervisor_telemetry.testing.memory.group import TopicPartition
from hypervisor_telemetry.testing.memory.log import Cluster, Headers, Record

__all__ = ["CLUSTER_ID", "OPERATIONS", "Broker", "MemoryMessage", "failure"]

T = TypeVar("T")

CLUSTER_ID = "memory"

OPERATIONS = frozenset(
    {
        "abort_transaction",
        "commit",
        "commit_transaction",
        "committed",
        "consume",
        "deliver",
        "describe_cluster",
        "flush",
        "get_watermark_offsets",
        "init_transactions",
        "list_consumer_group_offsets",
        "list_offsets",
        "list_topics",
        "send_offsets_to_transaction",
    }
)
"""What can be made to fail: the clients' methods that ask the broker, and `deliver`, one record on its way."""


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
        """A record, as its reader or its producer gets it."""
        offset = None if error else record.offset
        return cls(*topic_partition, offset, record.value, record.key, record.headers, record.timestamp, error)

    @classmethod
    def event(
        cls, error: KafkaError, topic_partition: TopicPartition | None = None, offset: int | None = None
    ) -> MemoryMessage:
        """An event that a consumer gets in place of a record; its value is the text, as librdkafka has it."""
        topic, partition = topic_partition or (None, None)
        return cls(topic, partition, offset, error.str().encode(), _error=error)

    def topic(self) -> str | None:
        """Its topic."""
        return self._topic

    def partition(self) -> int | None:
        """Its partition."""
        return self._partition

    def offset(self) -> int | None:
        """Its offset; at the end of a partition, where the next record will be."""
        return self._offset

    def key(self) -> bytes | None:
        """Its key."""
        return self._key

    def value(self) -> bytes | None:
        """Its value; of an event, the text."""
        return self._value

    def headers(self) -> Headers | None:
        """Its headers; None, not an empty list, where there are none."""
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        """Which kind of time, and the time in milliseconds since 1970."""
        if self._timestamp is None or self._error is not None:
            return TIMESTAMP_NOT_AVAILABLE, -1
        return TIMESTAMP_CREATE_TIME, self._timestamp

    def error(self) -> KafkaError | None:
        """What is the matter; None: this is a record."""
        return self._error

    def __len__(self) -> int:
        return len(self._value or b"")


class _Fault(NamedTuple):
    error: KafkaError
    before: bool


class Broker:
    """The shared state behind all clients of one `MemoryKafka`. The lock is held by whoever uses `cluster`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.lock = threading.RLock()
        self.cluster = Cluster()
        self.is_away = False
        self._clock = clock
        self._faults: defaultdict[str, deque[_Fault]] = defaultdict(deque)

    def now(self) -> float:
        """Seconds since 1970, by the test's clock."""
        return self._clock()

    def fail_next(self, operation: str, error: KafkaError, *, before: bool) -> None:
        """Let the operation fail once more, after those that wait already."""
        if operation not in OPERATIONS:
            known = ", ".join(sorted(OPERATIONS))
            raise ValueError(f"{operation!r} can't be made to fail; name one of: {known}.")
        self._faults[operation].append(_Fault(error, before))

    def take_fault(self, operation: str) -> _Fault | None:
        """The fault that is meant for this call, if any."""
        faults = self._faults[operation]
        return faults.popleft() if faults else None

    def request(self, operation: str, effect: Callable[[], T], *, retriable: bool = False) -> T:
        """What the broker does for an operation, unless it is away or the operation is made to fail.

        Args:
            operation: One of `OPERATIONS`.
            effect: What happens to the cluster, and the answer.
            retriable: Whether the client may try again, or resume, after a timeout.

        Raises:
            KafkaException: The broker is away, refuses, or the fault of `fail_next`, after or without the effect.
        """
        if self.is_away:
            raise failure(KafkaError._TIMED_OUT, "Local: Timed out", retriable=retriable)
        self.cluster.end_overdue(self.now())
        fault = self.take_fault(operation)
        if fault is not None and fault.before:
            raise KafkaException(fault.error)
        result = effect()
        if fault is not None:
            raise KafkaException(fault.error)
        return result

    def metadata(self, topic: str | None) -> ClusterMetadata:
        """All topics, or the one that is asked for, with its error if there is no such topic."""
        answer = ClusterMetadata()
        node = BrokerMetadata()
        # By attributes: the package's own types say that these are always None.
        vars(answer).update(cluster_id=CLUSTER_ID, controller_id=1)
        vars(node).update(id=1, host="memory", port=0)
        answer.brokers = {1: node}
        for name in self.cluster.topics if topic is None else [topic]:
            about = answer.topics[name] = TopicMetadata()
            about.topic = name
            if name not in self.cluster.topics:
                about.error = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
            for number in range(len(self.cluster.topics.get(name, ()))):
                partition = about.partitions[number] = PartitionMetadata()
                partition.id, partition.leader, partition.replicas, partition.isrs = number, 1, [1], [1]
        return answer


def failure(code: int, reason: str, *, retriable: bool = False, txn_requires_abort: bool = False) -> KafkaException:
    """An error as the clients raise it."""
    error = KafkaError(code, reason, retriable=retriable, txn_requires_abort=txn_requires_abort)
    return KafkaException(error)
