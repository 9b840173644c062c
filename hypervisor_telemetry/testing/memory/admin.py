"""An admin client of a Kafka in memory: `confluent_kafka.admin.AdminClient`'s methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from confluent_kafka.admin import (
    ClusterMetadata,
    ConfigResource,
    DescribeClusterResult,
    ListOffsetsResultInfo,
    OffsetSpec,
)

from hypervisor_telemetry.testing.memory.broker import CLUSTER_ID, Broker, failure
from hypervisor_telemetry.testing.memory.consumer import committed_partition
from hypervisor_telemetry.testing.memory.group import Committed

__all__ = ["MemoryAdmin"]

T = TypeVar("T")


class _Unstable(confluent_kafka.TopicPartition):
    """A partition with an error, which can't be set in the C class."""

    error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)


class MemoryAdmin:
    """`confluent_kafka.admin.AdminClient`'s requests; every future is done when it is returned."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:  # noqa: ARG002 - no waiting
        """Describe all topics, or one."""
        with self._broker.lock:
            return self._broker.request("list_topics", lambda: self._broker.metadata(topic))

    def describe_cluster(self, **_: object) -> Future[DescribeClusterResult]:
        """Describe the only node, which is its own controller."""
        node = Node(1, "memory", 0)
        with self._broker.lock:
            return self._answer("describe_cluster", lambda: DescribeClusterResult(node, [node], CLUSTER_ID))

    def describe_configs(
        self,
        resources: Sequence[ConfigResource],
        request_timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> dict[ConfigResource, Future[dict[str, Any]]]:
        """Return the settings of topics, groups or brokers: none, all have their defaults."""
        return {resource: _done({}) for resource in resources}

    def list_offsets(
        self,
        topic_partition_offsets: Mapping[confluent_kafka.TopicPartition, OffsetSpec],
        isolation_level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
        request_timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> dict[confluent_kafka.TopicPartition, Future[ListOffsetsResultInfo]]:
        """Return offsets of partitions; under READ_COMMITTED the end is the last stable offset."""
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
        """Return a group's offsets; with `require_stable`, an error for one that an open transaction holds."""
        with self._broker.lock:
            return {
                request.group_id: self._answer(
                    "list_consumer_group_offsets",
                    lambda: self._offsets(request, require_stable),  # noqa: B023 - called at once
                )
                for request in list_consumer_group_offsets_request
            }

    def _offsets(self, request: ConsumerGroupTopicPartitions, require_stable: bool) -> ConsumerGroupTopicPartitions:
        group = self._broker.cluster.group(request.group_id)
        requested = request.topic_partitions
        topic_partitions = (
            sorted(group.committed)
            if requested is None
            else [(partition.topic, partition.partition) for partition in requested]
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
        return ConsumerGroupTopicPartitions(request.group_id, found)

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
