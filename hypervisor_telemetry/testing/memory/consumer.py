"""A consumer of a Kafka in memory: `confluent_kafka.Consumer`'s methods, on one thread and without waiting."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar, cast

import confluent_kafka
from confluent_kafka import (
    OFFSET_INVALID,
    KafkaError,
    KafkaException,
)
from confluent_kafka.admin import ClusterMetadata

from hypervisor_consumers.runtime.kafka.client_types import Consumer, Message
from hypervisor_telemetry.testing.memory.broker import Broker, MemoryMessage, failure
from hypervisor_telemetry.testing.memory.group import NOT_A_MEMBER, Committed, Group, Member, TopicPartition
from hypervisor_telemetry.testing.memory.reader import Reader, Reading

__all__ = ["GroupMetadata", "MemoryConsumer", "committed_partition"]

M = TypeVar("M", bound=Callable[..., Any])

RebalanceCallback: TypeAlias = Callable[[Consumer, list[confluent_kafka.TopicPartition]], object]

_member_numbers = itertools.count(1)


class GroupMetadata(NamedTuple):
    """The group and the member (id, epoch), for `send_offsets_to_transaction()`."""

    group: str
    member: tuple[str, int]


def _locked(method: M) -> M:
    @functools.wraps(method)
    def call(self: MemoryConsumer, *args: Any, **kwargs: Any) -> Any:
        with self._broker.lock:
            if self._is_closed:
                raise RuntimeError("Consumer closed")
            return method(self, *args, **kwargs)

    return cast("M", call)


class MemoryConsumer:
    """A member of its group after `subscribe()`; without it, a reader of the partitions that it is assigned.

    Callbacks are called in `consume()`, `poll()` and `close()`, without the lock. A callback that assigns or
    unassigns nothing has it done for it. Timeouts are accepted and not used: nothing ever waits.
    """

    def __init__(self, broker: Broker, settings: Mapping[str, Any]) -> None:
        if not settings.get("group.id"):
            raise ValueError("Failed to create consumer: group.id must be set")
        self._broker = broker
        self._group_name = str(settings["group.id"])
        self._reader = Reader(broker, self._group_name, settings)
        self._id = f"member-{next(_member_numbers)}"
        self._member: Member | None = None
        self._callbacks: dict[str, RebalanceCallback | None] = {}
        self._assigned: set[TopicPartition] = set()
        self._awaits_assignment = False
        self._callback_assigned = False
        self._is_closed = False

    # Membership

    @_locked
    def subscribe(
        self,
        topics: Sequence[str],
        on_assign: RebalanceCallback | None = None,
        on_revoke: RebalanceCallback | None = None,
        on_lost: RebalanceCallback | None = None,
    ) -> None:
        """Join the group. Partitions are assigned by `MemoryKafka.rebalance()` or `assign_all()`."""
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost or on_revoke}
        if self._member is None:
            self._member = self._group.join(self._id, topics)

    @_locked
    def consumer_group_metadata(self) -> GroupMetadata:
        """Return the group, and this member's epoch of its last heartbeat."""
        member = NOT_A_MEMBER if self._member is None else (self._member.id, self._member.epoch)
        return GroupMetadata(self._group_name, member)

    @_locked
    def memberid(self) -> str | None:
        """Return the member's id; None before `subscribe()`."""
        return None if self._member is None else self._member.id

    @property
    def group_name(self) -> str:
        """The name of its group."""
        return self._group_name

    @property
    def member(self) -> Member | None:
        """The broker's entry of this member; None before `subscribe()`."""
        return self._member

    def close(self) -> None:
        """Give back all partitions and leave the group; a broker that is away doesn't learn of it."""
        with self._broker.lock:
            if self._is_closed:
                return
            event = "lost" if self._is_fenced else "revoke"
            topic_partitions = sorted(self._assigned)
        try:
            if topic_partitions:
                self._call(event, topic_partitions)
        finally:
            with self._broker.lock:
                if self._member is not None and not self._broker.is_away:
                    self._group.remove(self._member)
                self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading

    def consume(self, num_messages: int = 1, timeout: float = -1) -> list[Message]:  # noqa: ARG002 - no waiting
        """Call the callbacks that are due, then return the messages that are there, at most `num_messages`."""
        while (due := self._next_callback()) is not None:
            self._call(*due)
        return self._read(num_messages)

    def poll(self, timeout: float = -1) -> Message | None:
        """Return one message, if there is one."""
        messages = self.consume(1, timeout)
        return messages[0] if messages else None

    @_locked
    def _read(self, limit: int) -> list[Message]:
        return list(self._broker.fetch(lambda: self._reader.read(limit)))

    # Assignment

    @_locked
    def incremental_assign(self, partitions: Sequence[confluent_kafka.TopicPartition]) -> None:
        """Read these partitions as well, from their offsets on."""
        self._callback_assigned = True
        for partition in partitions:
            if _topic_partition(partition) in self._reader.readings:
                reason = f"{partition.topic} [{partition.partition}] is already part of the current assignment"
                raise failure(KafkaError._CONFLICT, reason)
        self._start(partitions)

    @_locked
    def incremental_unassign(self, partitions: Sequence[confluent_kafka.TopicPartition]) -> None:
        """Stop reading these partitions."""
        self._callback_assigned = True
        for partition in partitions:
            if _topic_partition(partition) not in self._reader.readings:
                reason = f"{partition.topic} [{partition.partition}] is not in the current assignment"
                raise failure(KafkaError._INVALID_ARG, reason)
        self._reader.stop(map(_topic_partition, partitions))

    @_locked
    def assign(self, partitions: Sequence[confluent_kafka.TopicPartition]) -> None:
        """Read these partitions and no others."""
        self._callback_assigned = True
        self._reader.readings.clear()
        self._start(partitions)

    @_locked
    def unassign(self) -> None:
        """Read no partitions."""
        self.assign([])

    @_locked
    def assignment(self) -> list[confluent_kafka.TopicPartition]:
        """Return the partitions that are read, with the offsets that they were assigned with."""
        return [
            confluent_kafka.TopicPartition(*topic_partition, reading.start)
            for topic_partition, reading in self._reader.readings.items()
        ]

    def _start(self, partitions: Iterable[confluent_kafka.TopicPartition]) -> None:
        for partition in partitions:
            self._reader.start(_topic_partition(partition), partition.offset)

    @_locked
    def seek(self, partition: confluent_kafka.TopicPartition) -> None:
        """Continue at the partition's offset, as soon as it isn't paused."""
        if _topic_partition(partition) not in self._reader.readings:
            reason = f"Failed to seek to offset {partition.offset}: Local: Erroneous state"
            raise failure(KafkaError._STATE, reason)
        self._start([partition])

    @_locked
    def pause(self, partitions: Sequence[confluent_kafka.TopicPartition]) -> None:
        """Read nothing of these, whether they are assigned now or later, until `resume()`."""
        self._reader.pause(map(_topic_partition, partitions))

    @_locked
    def resume(self, partitions: Sequence[confluent_kafka.TopicPartition]) -> None:
        """Read these again, and report their ends again."""
        self._reader.resume(map(_topic_partition, partitions))

    @_locked
    def position(
        self, partitions: Sequence[confluent_kafka.TopicPartition]
    ) -> list[confluent_kafka.TopicPartition]:
        """Return the offsets after the last record or marker read; OFFSET_INVALID before the first one."""
        not_read = Reading(OFFSET_INVALID)
        readings = self._reader.readings
        return [
            confluent_kafka.TopicPartition(*topic_partition, readings.get(topic_partition, not_read).position)
            for topic_partition in map(_topic_partition, partitions)
        ]

    # Offsets and the cluster

    @_locked
    def committed(
        self,
        partitions: Sequence[confluent_kafka.TopicPartition],
        timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> list[confluent_kafka.TopicPartition]:
        """Return the group's offsets. Under read_committed, offsets of an open transaction time out."""

        def look() -> list[confluent_kafka.TopicPartition]:
            topic_partitions = [_topic_partition(partition) for partition in partitions]
            if self._reader.is_committed_only and any(map(self._group.is_unstable, topic_partitions)):
                raise failure(KafkaError._TIMED_OUT, "Failed to get committed offsets: Local: Timed out")
            committed = self._group.committed
            return [
                committed_partition(topic_partition, committed.get(topic_partition, Committed(OFFSET_INVALID)))
                for topic_partition in topic_partitions
            ]

        return self._broker.request("committed", look)

    @_locked
    def commit(
        self,
        message: MemoryMessage | None = None,
        offsets: Sequence[confluent_kafka.TopicPartition] | None = None,
        asynchronous: bool = True,
    ) -> list[confluent_kafka.TopicPartition] | None:
        """Commit a message's offset, these offsets, or else all positions.

        Asynchronously, errors are not reported.
        """
        if message is not None:
            new = {(str(message.topic()), int(message.partition() or 0)): Committed((message.offset() or 0) + 1)}
        elif offsets is not None:
            new = {
                _topic_partition(partition): Committed(partition.offset, partition.metadata)
                for partition in offsets
            }
        else:
            new = {
                topic_partition: Committed(reading.position)
                for topic_partition, reading in self._reader.readings.items()
                if reading.position >= 0
            }
        try:
            if not new:
                raise failure(KafkaError._NO_OFFSET, "Commit failed: Local: No offset stored")
            self._broker.request("commit", lambda: self._commit(new))
        except KafkaException:
            if asynchronous:
                return None
            raise
        return None if asynchronous else [committed_partition(*item) for item in new.items()]

    def _commit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        if any(self._broker.cluster.log(topic_partition) is None for topic_partition in offsets):
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        self._group.commit(NOT_A_MEMBER if self._member is None else (self._id, self._member.epoch), offsets)

    @_locked
    def get_watermark_offsets(
        self,
        partition: confluent_kafka.TopicPartition,
        timeout: float = -1,  # noqa: ARG002 - no waiting
        cached: bool = False,
    ) -> tuple[int, int]:
        """Return the beginning and the end of a log.

        Cached, they are those of the last read of an assigned partition, and the end is the high watermark. Else
        the end is the last stable offset under read_committed.
        """
        topic_partition = _topic_partition(partition)
        if cached:
            return self._reader.readings.get(topic_partition, Reading(OFFSET_INVALID)).watermarks

        def look() -> tuple[int, int]:
            log = self._broker.cluster.log(topic_partition)
            if log is None:
                raise failure(KafkaError._UNKNOWN_PARTITION, "Failed to get watermark offsets")
            return log.begin, self._reader.end(log)

        return self._broker.request("get_watermark_offsets", look)

    @_locked
    def offsets_for_times(
        self,
        partitions: Sequence[confluent_kafka.TopicPartition],
        timeout: float = -1,  # noqa: ARG002 - no waiting
    ) -> list[confluent_kafka.TopicPartition]:
        """Return the offsets for `OFFSET_BEGINNING` and `OFFSET_END`; other times are not implemented."""
        return self._broker.request(
            "offsets_for_times", lambda: [self._reader.bound(partition) for partition in partitions]
        )

    @_locked
    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata:  # noqa: ARG002 - no waiting
        """Describe all topics, or one."""
        return self._broker.request("list_topics", lambda: self._broker.metadata(topic))

    # Rebalancing

    @property
    def _group(self) -> Group:
        return self._reader.group

    @property
    def _is_fenced(self) -> bool:
        return self._member is not None and self._group.members.get(self._id) is not self._member

    @_locked
    def _next_callback(self) -> tuple[str, list[TopicPartition]] | None:
        if self._member is None or self._broker.is_away:
            return None
        if self._is_fenced:
            if self._assigned:
                return "lost", sorted(self._assigned)
            self._member = self._group.join(self._id, self._member.topics)
        if revoking := self._member.revoking & self._assigned:
            return "revoke", sorted(revoking)
        if self._member.revoking:
            # It is taken away again before this consumer had heard of it.
            self._group.give_back(self._member, self._member.revoking)
        new = self._member.owned.keys() - self._assigned
        if new or self._awaits_assignment:
            return "assign", sorted(new)
        return None

    def _call(self, event: str, topic_partitions: list[TopicPartition]) -> None:
        """Call the callback, do what it left undone, and return revoked partitions to the group."""
        callback = self._callbacks.get(event)
        self._callback_assigned = False
        try:
            if callback is not None:
                callback(
                    self, [confluent_kafka.TopicPartition(*topic_partition) for topic_partition in topic_partitions]
                )
        finally:
            with self._broker.lock:
                if event == "assign":
                    if not self._callback_assigned:
                        self._start(
                            confluent_kafka.TopicPartition(*topic_partition) for topic_partition in topic_partitions
                        )
                    self._assigned.update(topic_partitions)
                    self._awaits_assignment = False
                else:
                    self._reader.stop(topic_partitions)
                    self._assigned.difference_update(topic_partitions)
                    if event == "revoke" and self._member is not None and not self._is_fenced:
                        self._group.give_back(self._member, topic_partitions)
                        # KIP-848: an assignment follows, if need be an empty one.
                        self._awaits_assignment = True


def _topic_partition(partition: confluent_kafka.TopicPartition) -> TopicPartition:
    return partition.topic, partition.partition


def committed_partition(topic_partition: TopicPartition, committed: Committed) -> confluent_kafka.TopicPartition:
    """Return a committed offset in the form that the clients return."""
    if committed.metadata is None:
        return confluent_kafka.TopicPartition(*topic_partition, committed.offset)
    return confluent_kafka.TopicPartition(*topic_partition, committed.offset, committed.metadata)
