"""A Kafka in memory, for tests of services without a broker: deterministic, and every step is the test's.

It has no threads and never waits. It behaves as confluent_kafka with a real Kafka does, as far as both pass the
same tests (`tests/contract/`). What happens by itself there is done by hand here: time
(`clock`), who gets which partitions (`rebalance`), retention (`expire`), the end of a session (`fence`), an outage
(`away`, `back`), and calls that fail before or after they took effect (`fail_next`).
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import confluent_kafka
from confluent_kafka import (
    OFFSET_INVALID,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Node,
)
from confluent_kafka.admin import ClusterMetadata, DescribeClusterResult, ListOffsetsResultInfo, OffsetSpec

from hypervisor_telemetry.testing.memory.broker import CLUSTER_ID, Broker, failure
from hypervisor_telemetry.testing.memory.consumer import MemoryConsumer, committed_partition
from hypervisor_telemetry.testing.memory.group import Committed, TopicPartition
from hypervisor_telemetry.testing.memory.log import Kind, PartitionLog, Record
from hypervisor_telemetry.testing.memory.producer import HeadersArgument, MemoryProducer, as_bytes, as_headers

__all__ = ["MemoryAdmin", "MemoryKafka"]

T = TypeVar("T")

_TIMED_OUT = KafkaError(KafkaError._TIMED_OUT, "Local: Timed out", retriable=True)


class MemoryKafka:
    """Implements `runtime.kafka.Kafka`; what the clients share is in it. Any thread may use any of them.

    Args:
        clock: Seconds since 1970: timestamps of records, timeouts of transactions.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._broker = Broker(clock)

    def consumer(self, settings: Mapping[str, Any]) -> MemoryConsumer:
        """Honours group.id, isolation.level, enable.partition.eof and auto.offset.reset."""
        return MemoryConsumer(self._broker, settings)

    def producer(self, settings: Mapping[str, Any]) -> MemoryProducer:
        """Honours transactional.id, transaction.timeout.ms and message.max.bytes."""
        return MemoryProducer(self._broker, settings)

    def admin(self, settings: Mapping[str, Any]) -> MemoryAdmin:  # noqa: ARG002 - it has none that matter here
        """Honours no settings."""
        return MemoryAdmin(self._broker)

    # The log

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic, or add partitions to one."""
        with self._broker.lock:
            logs = self._broker.cluster.topics.setdefault(name, [])
            if partitions < len(logs):
                raise ValueError(f"{name} has {len(logs)} partitions; a topic never gets fewer.")
            logs.extend(PartitionLog() for _ in range(partitions - len(logs)))

    def append(
        self,
        topic: str,
        partition: int,
        value: str | bytes | None,
        key: str | bytes | None = None,
        *,
        headers: HeadersArgument | None = None,
        timestamp: int | None = None,
    ) -> int:
        """Write one record as an agent does, without a transaction. Returns its offset."""
        with self._broker.lock:
            made = int(self._broker.now() * 1000) if timestamp is None else timestamp
            record = Record(-1, Kind.PLAIN, as_bytes(value), as_bytes(key), as_headers(headers), made)
            self._log(topic, partition).append(record)
            return record.offset

    def log(self, topic: str, partition: int) -> list[Record]:
        """A copy of all records that are left, control records and aborted ones too."""
        with self._broker.lock:
            self._broker.cluster.end_overdue(self._broker.now())
            return [copy.copy(record) for record in self._log(topic, partition).records]

    def expire(self, topic: str, partition: int, before: int) -> None:
        """Delete the records before this offset, as retention does."""
        with self._broker.lock:
            self._log(topic, partition).expire(before)

    def _log(self, topic: str, partition: int) -> PartitionLog:
        log = self._broker.cluster.log((topic, partition))
        if log is None:
            raise ValueError(f"There is no {topic} [{partition}]; call create_topic() first.")
        return log

    # Groups

    def rebalance(self, target: Mapping[MemoryConsumer, Iterable[TopicPartition]]) -> None:
        """Say who shall have which partitions; other members of the same groups shall have none.

        As with KIP-848, an owner is asked to give back first, in its next `consume()`; a new owner gets nothing
        before that, and then in its own next `consume()`.
        """
        with self._broker.lock:
            by_group: defaultdict[str, dict[str, set[TopicPartition]]] = defaultdict(dict)
            for consumer, topic_partitions in target.items():
                if consumer.member is None:
                    raise ValueError("A consumer gets partitions only after subscribe().")
                shall_have = {(topic, partition) for topic, partition in topic_partitions}
                others = by_group[consumer.group_name]
                if any(shall_have & theirs for theirs in others.values()):
                    raise ValueError("Two members of a group can't have the same partition.")
                others[consumer.member.id] = shall_have
            for group, members in by_group.items():
                self._broker.cluster.group(group).assign(members)

    def fence(self, consumer: MemoryConsumer) -> None:
        """End the consumer's session: others may have its partitions at once.

        It learns of it, by `on_lost`, in its next `consume()`, and joins again. Its metadata are stale from now on.
        """
        with self._broker.lock:
            if consumer.member is None:
                raise ValueError("A consumer is a member only after subscribe().")
            self._broker.cluster.group(consumer.group_name).remove(consumer.member)

    # Faults

    def forget(self, *topic_partitions: TopicPartition, groups: Iterable[str] = ()) -> None:
        """Let the open transactions end without these partitions and groups: what is there stays open.

        So does a real coordinator that starts while they have no leader (KAFKA-20734).
        """
        with self._broker.lock:
            self._broker.cluster.forget(topic_partitions, groups)

    def fail_next(self, operation: str, error: KafkaError = _TIMED_OUT, *, before: bool) -> None:
        """Let an operation fail once, for whichever client calls it next; several wait in line.

        Args:
            operation: One of `memory_broker.OPERATIONS`: a client's method, or `deliver` for one record that a
                producer sends. `flush` takes no error: it answers that records are left.
            error: By default a timeout, after which `init_`, `commit_` and `abort_transaction` may be resumed.
            before: Whether it fails before it had any effect, or after it took effect (an unknown outcome).
        """
        with self._broker.lock:
            self._broker.fail_next(operation, error, before=before)

    def away(self) -> None:
        """The broker doesn't answer: what asks it times out, and nothing is read."""
        with self._broker.lock:
            self._broker.is_away = True

    def back(self) -> None:
        """The broker answers again."""
        with self._broker.lock:
            self._broker.is_away = False


class _Unstable(confluent_kafka.TopicPartition):
    """A partition with an error; the C class's own can't be set."""

    error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)


class MemoryAdmin:
    """`confluent_kafka.admin.AdminClient`'s questions; every future is done when it is given."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:  # noqa: ARG002 - no waiting
        """All topics, or one."""
        with self._broker.lock:
            return self._broker.request("list_topics", lambda: self._broker.metadata(topic))

    def describe_cluster(self, **_: object) -> Future[DescribeClusterResult]:
        """One node, its own controller."""
        node = Node(1, "memory", 0)
        with self._broker.lock:
            return self._answer("describe_cluster", lambda: DescribeClusterResult(node, [node], CLUSTER_ID))

    def list_offsets(
        self,
        topic_partition_offsets: Mapping[confluent_kafka.TopicPartition, OffsetSpec],
        isolation_level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
        request_timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> dict[confluent_kafka.TopicPartition, Future[ListOffsetsResultInfo]]:
        """Where partitions begin or end; under READ_COMMITTED the end is the last stable offset."""
        is_committed_only = isolation_level is IsolationLevel.READ_COMMITTED
        with self._broker.lock:
            try:
                self._broker.request("list_offsets", lambda: None)
            except KafkaException as error:
                return {topic_partition: _failed(error) for topic_partition in topic_partition_offsets}
            return {
                topic_partition: self._offset(topic_partition, spec._value, is_committed_only)
                for topic_partition, spec in topic_partition_offsets.items()
            }

    def _offset(
        self, topic_partition: confluent_kafka.TopicPartition, spec: int, is_committed_only: bool
    ) -> Future[ListOffsetsResultInfo]:
        log = self._broker.cluster.log((topic_partition.topic, topic_partition.partition))
        if log is None:
            return _failed(failure(KafkaError._NOENT, "Failed to query partition leaders: No leaders found"))
        end = log.stable_end if is_committed_only else log.end
        if spec == OffsetSpec.earliest()._value:
            return _done(ListOffsetsResultInfo(log.begin, -1, 0))
        if spec == OffsetSpec.latest()._value:
            return _done(ListOffsetsResultInfo(end, -1, 0))
        records = [record for record in log.records if not record.kind.is_marker and record.offset < end]
        if spec == OffsetSpec.max_timestamp()._value:
            found = max(records, key=lambda record: record.timestamp, default=None)
        else:
            found = next((record for record in records if record.timestamp >= spec), None)
        if found is None:
            return _done(ListOffsetsResultInfo(-1, -1, -1))
        return _done(ListOffsetsResultInfo(found.offset, found.timestamp, 0))

    def list_consumer_group_offsets(
        self,
        list_consumer_group_offsets_request: Sequence[ConsumerGroupTopicPartitions],
        require_stable: bool = False,
        request_timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> dict[str, Future[ConsumerGroupTopicPartitions]]:
        """A group's offsets; with `require_stable`, where an open transaction holds one, an error instead."""
        with self._broker.lock:
            return {
                asked.group_id: self._answer(
                    "list_consumer_group_offsets",
                    lambda: self._offsets(asked, require_stable),  # noqa: B023 - called at once
                )
                for asked in list_consumer_group_offsets_request
            }

    def _offsets(self, asked: ConsumerGroupTopicPartitions, require_stable: bool) -> ConsumerGroupTopicPartitions:
        group = self._broker.cluster.group(asked.group_id)
        partitions = asked.topic_partitions
        topic_partitions = (
            sorted(group.committed) if partitions is None else [(one.topic, one.partition) for one in partitions]
        )
        found: list[confluent_kafka.TopicPartition] = []
        for topic_partition in topic_partitions:
            if require_stable and group.is_unstable(topic_partition):
                found.append(_Unstable(*topic_partition))
            else:
                found.append(
                    committed_partition(
                        topic_partition, group.committed.get(topic_partition, Committed(OFFSET_INVALID))
                    )
                )
        return ConsumerGroupTopicPartitions(asked.group_id, found)

    def _answer(self, operation: str, effect: Callable[[], T]) -> Future[T]:
        try:
            return _done(self._broker.request(operation, effect))
        except KafkaException as error:
            return _failed(error)


def _done(result: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(result)
    return future


def _failed(error: KafkaException) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
