"""A Kafka in memory: deterministic, without threads, and it never waits.

It behaves as confluent_kafka with a real Kafka does, as far as both pass the same tests (`tests/contract/`). Two
things that a real one does by itself are done by hand here: time (`clock`), and the assignment of partitions to the
members of a group (`rebalance`). There is no retention and no compaction, and no session of a member ever ends.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from hypervisor_telemetry.testing.memory.admin import MemoryAdmin
from hypervisor_telemetry.testing.memory.broker import Broker
from hypervisor_telemetry.testing.memory.consumer import MemoryConsumer
from hypervisor_telemetry.testing.memory.group import TopicPartition
from hypervisor_telemetry.testing.memory.log import Kind, PartitionLog, Record
from hypervisor_telemetry.testing.memory.producer import HeadersArgument, MemoryProducer, as_bytes, as_headers
from hypervisor_telemetry.testing.memory.prompt_producer import PromptProducer

__all__ = ["MemoryKafka"]


class MemoryKafka:
    """A `ClientFactory` whose clients share one broker in memory. Any thread may use any of them.

    Args:
        clock: Seconds since 1970: timestamps of records, timeouts of transactions.
        broker: The broker to use; a new one by default.
    """

    def __init__(self, clock: Callable[[], float] = time.time, broker: Broker | None = None) -> None:
        self._broker = Broker(clock) if broker is None else broker

    def consumer(self, settings: Mapping[str, Any]) -> MemoryConsumer:
        """Make a consumer, by group.id, isolation.level, enable.partition.eof and auto.offset.reset."""
        return MemoryConsumer(self._broker, settings)

    def producer(self, settings: Mapping[str, Any]) -> MemoryProducer:
        """Make a producer, by transactional.id, transaction.timeout.ms and message.max.bytes."""
        return MemoryProducer(self._broker, settings)

    def prompt_producer(self, settings: Mapping[str, Any]) -> PromptProducer:
        """Make a producer for a client that serves it from a thread of its own."""
        return PromptProducer(self._broker, settings)

    def admin(self, settings: Mapping[str, Any]) -> MemoryAdmin:  # noqa: ARG002 - none of them matters here
        """Make an admin client; it uses no settings."""
        return MemoryAdmin(self._broker)

    @property
    def activity(self) -> int:
        """The number of messages given to readers and of records written: it stands still when nothing happens."""
        return self._broker.activity

    # The log

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic, or add partitions to one."""
        with self._broker.lock:
            logs = self._broker.cluster.topics.setdefault(name, [])
            if partitions < len(logs):
                raise ValueError(f"{name} has {len(logs)} partitions; a topic never gets fewer.")
            logs.extend(PartitionLog() for _ in range(partitions - len(logs)))

    def partition_count(self, topic: str) -> int:
        """Return the number of partitions of a topic.

        Raises:
            ValueError: There is no such topic.
        """
        with self._broker.lock:
            logs = self._broker.cluster.topics.get(topic)
            if logs is None:
                raise ValueError(f"There is no topic {topic}; call create_topic() first.")
            return len(logs)

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
        """Write one record without a transaction, as an agent does. Returns its offset."""
        with self._broker.lock:
            timestamp_ms = int(self._broker.now() * 1000) if timestamp is None else timestamp
            record = Record(-1, Kind.PLAIN, as_bytes(value), as_bytes(key), as_headers(headers), timestamp_ms)
            self._log(topic, partition).append(record)
            self._broker.activity += 1
            return record.offset

    def log(self, topic: str, partition: int) -> list[Record]:
        """Return a copy of all records that are left, control records and aborted ones included."""
        with self._broker.lock:
            self._broker.cluster.end_overdue(self._broker.now())
            return [copy.copy(record) for record in self._log(topic, partition).records]

    def end(self, topic: str, partition: int) -> int:
        """Return the offset after the last record, uncommitted ones included."""
        with self._broker.lock:
            return self._log(topic, partition).end

    def _log(self, topic: str, partition: int) -> PartitionLog:
        log = self._broker.cluster.log((topic, partition))
        if log is None:
            raise ValueError(f"There is no {topic} [{partition}]; call create_topic() first.")
        return log

    # Groups

    def rebalance(self, target: Mapping[MemoryConsumer, Iterable[TopicPartition]]) -> None:
        """Assign partitions to members; other members of the same groups are to have none.

        As with KIP-848, an owner is asked to give back first, in its next `consume()`. A new owner gets nothing
        before that, and then in its own next `consume()`.

        Raises:
            ValueError: A consumer didn't subscribe, or two members of a group would have the same partition.
        """
        with self._broker.lock:
            by_group: defaultdict[str, dict[str, set[TopicPartition]]] = defaultdict(dict)
            for consumer, topic_partitions in target.items():
                if consumer.member is None:
                    raise ValueError("A consumer gets partitions only after subscribe().")
                assigned = {(topic, partition) for topic, partition in topic_partitions}
                members = by_group[consumer.group_name]
                if any(assigned & of_other for of_other in members.values()):
                    raise ValueError("Two members of a group can't have the same partition.")
                members[consumer.member.id] = assigned
            for group, members in by_group.items():
                self._broker.cluster.group(group).assign(members)

    def assign_all(self, group: str) -> None:
        """Assign every partition of its topics to the only member of a group, from its next `consume()` on.

        Raises:
            ValueError: The group has no member, or several.
        """
        with self._broker.lock:
            members = self._broker.cluster.group(group).members
            if len(members) != 1:
                raise ValueError(f"The group {group} has {len(members)} members, not one.")
            [member] = members.values()
            partitions = {(topic, n) for topic in member.topics for n in range(self.partition_count(topic))}
            self._broker.cluster.group(group).assign({member.id: partitions})
