"""The two Kafkas of the contract, the one in memory and a real one, and the steps of a test on either."""

from __future__ import annotations

import logging
import secrets
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from confluent_kafka import (
    OFFSET_INVALID,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import NewTopic, OffsetSpec

from hypervisor_consumers.runtime.kafka.client_factory import LibrdkafkaClientFactory
from tests.support.faulty_kafka import FaultyKafka
from tests.support.service_processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory

COMMITTED, UNCOMMITTED = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Backend(ABC):
    """One Kafka for all tests of a module, with the steps that have no common interface."""

    settings: Mapping[str, Any] = {}
    patience = 1.0

    def __init__(self, kafka: ClientFactory) -> None:
        self.kafka = kafka
        self.admin = kafka.admin(self.settings)
        self.transactions = kafka.producer(
            {**self.settings, "transactional.id": f"contract-{secrets.token_hex(4)}"}
        )
        self.transactions.init_transactions(30)
        self.plain = kafka.producer(self.settings)

    @abstractmethod
    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic; returns when it can be written and read."""

    @abstractmethod
    def expire(self, topic: str, before: int) -> None:
        """Delete the records before an offset of its partition 0, as retention does."""

    @abstractmethod
    def rebalance(self, target: Mapping[Any, Iterable[tuple[str, int]]]) -> None:
        """Assign these partitions. The real one balances by itself, when members join and leave."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """Let time pass; with the real one it passes by itself."""


class InMemory(Backend):
    def __init__(self) -> None:
        self.clock = Clock()
        self.memory = FaultyKafka(self.clock)
        super().__init__(self.memory)

    def create_topic(self, name: str, partitions: int) -> None:
        self.memory.create_topic(name, partitions)

    def expire(self, topic: str, before: int) -> None:
        self.memory.expire(topic, 0, before)

    def rebalance(self, target: Mapping[Any, Iterable[tuple[str, int]]]) -> None:
        self.memory.rebalance(target)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


class Real(Backend):
    patience = 15.0

    def __init__(self, bootstrap_servers: str) -> None:
        # A fenced producer says so on stderr, unless its lines go elsewhere.
        quiet = logging.getLogger("tests.contract.librdkafka")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        self.settings = {"bootstrap.servers": bootstrap_servers, "logger": quiet}
        super().__init__(LibrdkafkaClientFactory())

    def create_topic(self, name: str, partitions: int) -> None:
        self.admin.create_topics([NewTopic(name, partitions, 1)])[name].result(10)

        topic_partitions = [TopicPartition(name, number) for number in range(partitions)]

        def answers() -> bool:
            found = self.admin.list_topics(name, timeout=10).topics[name]
            ends = self.admin.list_offsets(dict.fromkeys(topic_partitions, OffsetSpec.latest()), request_timeout=10)
            return found.error is None and not any(end.exception(10) for end in ends.values())

        # It exists before the metadata show it, and they show it before its partitions can be asked.
        eventually(answers, bool, self.patience)

    def expire(self, topic: str, before: int) -> None:
        [deleted] = self.admin.delete_records([TopicPartition(topic, 0, before)]).values()
        deleted.result(10)

    def rebalance(self, target: Mapping[Any, Iterable[tuple[str, int]]]) -> None:
        """Do nothing: it does so when members join and leave."""

    def pass_time(self, seconds: float) -> None:
        """Do nothing: it passes."""


class World:
    """A topic and a group of its own for one test."""

    def __init__(self, backend: Backend, stack: ExitStack) -> None:
        self.backend = backend
        self._stack = stack
        name = f"contract.{secrets.token_hex(4)}"
        self.topic, self.group = name, name
        self.chronicle: list[tuple[Member, str]] = []
        backend.create_topic(name, 3)

    def consumer(self, **settings: Any) -> Any:
        consumer = self.backend.kafka.consumer(
            {
                **self.backend.settings,
                "group.id": self.group,
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # As librdkafka is set by itself, an end or a leader is found half a second late.
                "fetch.wait.max.ms": 20,
                "fetch.queue.backoff.ms": 20,
                "retry.backoff.ms": 20,
                "topic.metadata.refresh.fast.interval.ms": 20,
                **{name.replace("_", "."): value for name, value in settings.items()},
            }
        )
        self._stack.callback(consumer.close)
        return consumer

    def reader(self, offset: int = 0, **settings: Any) -> Any:
        """A consumer without a group that reads partition 0."""
        consumer = self.consumer(**settings)
        consumer.incremental_assign([self.topic_partition(0, offset)])
        return consumer

    def member(self) -> Member:
        return Member(self, self.consumer(group_protocol="consumer", group_remote_assignor="range"))

    def producer(self, name: str, **settings: Any) -> Any:
        producer = self.backend.kafka.producer(
            {
                **self.backend.settings,
                "transactional.id": f"{self.topic}.{name}",
                **{name.replace("_", "."): value for name, value in settings.items()},
            }
        )
        producer.init_transactions(30)
        return producer

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """The shared producer in a transaction; it is aborted if the block leaves it open."""
        producer = self.backend.transactions
        producer.begin_transaction()
        try:
            yield producer
        finally:
            with suppress(KafkaException):
                producer.abort_transaction(10)

    def write(self, producer: Any, *values: bytes, partition: int = 0) -> None:
        for value in values:
            producer.produce(self.topic, value, partition=partition)
        assert producer.flush(10) == 0

    def append(self, *values: bytes, partition: int = 0) -> None:
        """Write records without a transaction."""
        self.write(self.backend.plain, *values, partition=partition)

    def topic_partition(self, partition: int = 0, offset: int = OFFSET_INVALID) -> TopicPartition:
        return TopicPartition(self.topic, partition, offset)

    def end(self, isolation: IsolationLevel = COMMITTED, partition: int = 0) -> int:
        return self.offset(OffsetSpec.latest(), isolation, partition)

    def offset(self, spec: OffsetSpec, isolation: IsolationLevel = COMMITTED, partition: int = 0) -> int:
        asked = {self.topic_partition(partition): spec}
        answer = self.backend.admin.list_offsets(asked, isolation_level=isolation, request_timeout=10)
        offset: int = answer[self.topic_partition(partition)].result(10).offset
        return offset

    def group_offsets(self, *partitions: int, require_stable: bool = True) -> list[int | str]:
        """The group's offset of each partition, or the name of the error."""
        asked = ConsumerGroupTopicPartitions(
            self.group, [self.topic_partition(partition) for partition in partitions]
        )
        answer = self.backend.admin.list_consumer_group_offsets(
            [asked], require_stable=require_stable, request_timeout=10
        )
        found = {one.partition: one for one in answer[self.group].result(10).topic_partitions}
        wanted = [found[partition] for partition in partitions]
        return [one.offset if one.error is None else one.error.name() for one in wanted]

    def read(self, consumer: Any, until: Callable[[list[Any]], object]) -> list[Any]:
        """Read until it is enough: (offset, value) of each record, and ("end", offset) of each end."""
        seen: list[Any] = []
        deadline = time.monotonic() + self.backend.patience
        while not until(seen):
            assert time.monotonic() < deadline, f"not enough after {self.backend.patience:g} seconds: {seen}"
            seen += [summary(message) for message in consumer.consume(100, 0.05)]
        return seen

    def read_to_end(self, consumer: Any) -> list[Any]:
        return self.read(consumer, lambda seen: seen and seen[-1][0] == "end")

    def wait(self, look: Callable[[], Any], right: Any) -> None:
        eventually(look, lambda seen: seen == right, self.backend.patience)


class Member:
    """A consumer that subscribed, and the callbacks that it got."""

    def __init__(self, world: World, consumer: Any) -> None:
        self.world = world
        self.consumer = consumer
        self.callbacks: list[tuple[str, list[int]]] = []
        consumer.subscribe(
            [world.topic],
            on_assign=lambda consumer, topic_partitions: self._note(
                "assign", consumer.incremental_assign, topic_partitions
            ),
            on_revoke=lambda consumer, topic_partitions: self._note(
                "revoke", consumer.incremental_unassign, topic_partitions
            ),
            on_lost=lambda consumer, topic_partitions: self._note(
                "lost", consumer.incremental_unassign, topic_partitions
            ),
        )

    def _note(self, event: str, answer: Callable[[Any], None], topic_partitions: list[TopicPartition]) -> None:
        self.callbacks.append((event, sorted(topic_partition.partition for topic_partition in topic_partitions)))
        self.world.chronicle.append((self, event))
        answer(topic_partitions)

    @property
    def owned(self) -> set[int]:
        return {topic_partition.partition for topic_partition in self.consumer.assignment()}

    @property
    def metadata(self) -> Any:
        return self.consumer.consumer_group_metadata()


def summary(message: Any) -> Any:
    error = message.error()
    if error is None:
        return message.offset(), message.value()
    if error.code() == KafkaError._PARTITION_EOF:
        return "end", message.offset()
    return error.name(), message.offset()


def settle(world: World, *members: Member, counts: tuple[int, ...]) -> None:
    """Wait until each member has so many partitions; the real one decides which."""
    numbers = iter(range(sum(counts)))
    world.backend.rebalance(
        {
            member.consumer: [(world.topic, next(numbers)) for _ in range(count)]
            for member, count in zip(members, counts, strict=True)
        }
    )

    def turn() -> list[int]:
        for member in members:
            member.consumer.consume(100, 0.01)
        return sorted(len(member.owned) for member in members)

    eventually(turn, lambda seen: seen == sorted(counts), world.backend.patience)


def refusal(call: Callable[[], object]) -> KafkaError:
    with pytest.raises(KafkaException) as caught:
        call()
    error: KafkaError = caught.value.args[0]
    return error


class Moved(NamedTuple):
    """Two members: `first` had all three partitions, then `second` got some."""

    world: World
    first: Member
    second: Member
    stale: Any
    """The group metadata of `first` from before the rebalance."""
