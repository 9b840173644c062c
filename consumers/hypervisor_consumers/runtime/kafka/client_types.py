"""The clients of Kafka as the runtime uses them: confluent_kafka's, or those of the Kafka in memory.

confluent_kafka's own stubs say less: the topic of a message may be None there, as it is for events of the client.
"""

# ruff: noqa: D102 - the methods are confluent_kafka's, and documented there

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import confluent_kafka
from confluent_kafka.admin import ClusterMetadata, ConfigResource

__all__ = ["Admin", "Consumer", "GroupMetadata", "Headers", "Message", "Producer"]

Headers = list[tuple[str, bytes | None]]

GroupMetadata = object
"""A proof of membership: given by a consumer, taken by a producer, opaque to everybody else."""


class Message(Protocol):
    """A record or the end of a partition. An event of the client has an error, and may have no topic."""

    def error(self) -> confluent_kafka.KafkaError | None:
        """None for a record."""
        ...

    def topic(self) -> str:
        """The topic's full name."""
        ...

    def partition(self) -> int:
        """The partition's number."""
        ...

    def offset(self) -> int:
        """The record's offset, or the partition's end."""
        ...

    def key(self) -> bytes | None:
        """The key; None where there is none."""
        ...

    def value(self) -> bytes | None:
        """The value; None for a tombstone."""
        ...

    def headers(self) -> Headers | None:
        """The headers; None where there are none."""
        ...

    def timestamp(self) -> tuple[int, int]:
        """The timestamp's kind, and it in milliseconds since 1970."""
        ...


class Consumer(Protocol):
    """A `confluent_kafka.Consumer`, or what behaves like one. It joins no group before `subscribe()`."""

    def subscribe(
        self,
        topics: list[str],
        *,
        on_assign: Callable[[Consumer, list[confluent_kafka.TopicPartition]], None] = ...,
        on_revoke: Callable[[Consumer, list[confluent_kafka.TopicPartition]], None] = ...,
        on_lost: Callable[[Consumer, list[confluent_kafka.TopicPartition]], None] = ...,
    ) -> None: ...

    def consume(self, num_messages: int = ..., timeout: float = ...) -> list[Message]: ...

    def poll(self, timeout: float = ...) -> Message | None: ...

    def incremental_assign(self, partitions: list[confluent_kafka.TopicPartition]) -> None: ...

    def incremental_unassign(self, partitions: list[confluent_kafka.TopicPartition]) -> None: ...

    def pause(self, partitions: list[confluent_kafka.TopicPartition]) -> None: ...

    def resume(self, partitions: list[confluent_kafka.TopicPartition]) -> None: ...

    def seek(self, partition: confluent_kafka.TopicPartition) -> None: ...

    def commit(
        self, *, offsets: list[confluent_kafka.TopicPartition], asynchronous: bool = ...
    ) -> list[confluent_kafka.TopicPartition] | None: ...

    def committed(
        self, partitions: list[confluent_kafka.TopicPartition], timeout: float = ...
    ) -> list[confluent_kafka.TopicPartition]: ...

    def get_watermark_offsets(
        self, partition: confluent_kafka.TopicPartition, timeout: float = ...
    ) -> tuple[int, int]: ...

    def offsets_for_times(
        self, partitions: list[confluent_kafka.TopicPartition], timeout: float = ...
    ) -> list[confluent_kafka.TopicPartition]: ...

    def list_topics(self, topic: str | None = ..., timeout: float = ...) -> ClusterMetadata: ...

    def consumer_group_metadata(self) -> GroupMetadata: ...

    def close(self) -> None: ...


class Producer(Protocol):
    """A `confluent_kafka.Producer`, or what behaves like one; transactional with a `transactional.id`."""

    def produce(
        self,
        topic: str,
        value: bytes | None = ...,
        key: bytes | None = ...,
        partition: int = ...,
        *,
        headers: Sequence[tuple[str, bytes | None]] | None = ...,
        on_delivery: Callable[[confluent_kafka.KafkaError | None, Message], None] = ...,
    ) -> None: ...

    def poll(self, timeout: float = ...) -> int: ...

    def flush(self, timeout: float = ...) -> int: ...

    def purge(self, in_queue: bool = ..., in_flight: bool = ..., blocking: bool = ...) -> None: ...

    def list_topics(self, topic: str | None = ..., timeout: float = ...) -> ClusterMetadata: ...

    def init_transactions(self, timeout: float = ...) -> None: ...

    def begin_transaction(self) -> None: ...

    def send_offsets_to_transaction(
        self, positions: list[confluent_kafka.TopicPartition], group_metadata: GroupMetadata, timeout: float = ...
    ) -> None: ...

    def commit_transaction(self, timeout: float = ...) -> None: ...

    def abort_transaction(self, timeout: float = ...) -> None: ...


class Admin(Protocol):
    """A `confluent_kafka.admin.AdminClient`, or what behaves like one."""

    def list_topics(self, topic: str | None = ..., timeout: float = ...) -> ClusterMetadata: ...

    def describe_configs(
        self, resources: list[ConfigResource], *, request_timeout: float = ...
    ) -> Mapping[ConfigResource, Future[dict[str, Any]]]: ...
