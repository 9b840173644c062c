"""What the runtime relies on in a Kafka: each test runs on the one in memory and on a real one.

Below them, what only the one in memory can be made to do.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import NewTopic, OffsetSpec

from hypervisor_consumers.runtime.kafka import RealKafka
from hypervisor_consumers.runtime.memory_kafka import MemoryKafka
from tests.services import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hypervisor_consumers.runtime.kafka import Kafka

COMMITTED, UNCOMMITTED = IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Backend(ABC):
    """One Kafka for all tests of this module, and what has no common interface."""

    settings: Mapping[str, Any] = {}
    patience = 1.0

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.admin = kafka.admin(self.settings)
        self.transactions = kafka.producer(
            {**self.settings, "transactional.id": f"contract-{secrets.token_hex(4)}"}
        )
        self.transactions.init_transactions(30)
        self.plain = kafka.producer(self.settings)

    @abstractmethod
    def create_topic(self, name: str, partitions: int) -> None:
        """Returns when it can be written and read."""

    @abstractmethod
    def expire(self, topic: str, before: int) -> None:
        """Retention deletes what is before an offset of its partition 0."""

    @abstractmethod
    def rebalance(self, target: Mapping[Any, Iterable[tuple[str, int]]]) -> None:
        """Each consumer shall have these; the real one balances by itself, when members come and go."""

    @abstractmethod
    def pass_time(self, seconds: float) -> None:
        """The real one's passes by itself."""


class InMemory(Backend):
    def __init__(self) -> None:
        self.clock = Clock()
        self.memory = MemoryKafka(self.clock)
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
        super().__init__(RealKafka())

    def create_topic(self, name: str, partitions: int) -> None:
        self.admin.create_topics([NewTopic(name, partitions, 1)])[name].result(10)

        places = [TopicPartition(name, number) for number in range(partitions)]

        def answers() -> bool:
            found = self.admin.list_topics(name, timeout=10).topics[name]
            ends = self.admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()), request_timeout=10)
            return found.error is None and not any(end.exception(10) for end in ends.values())

        # It is made before the broker tells of it, and told of before its partitions can be asked.
        eventually(answers, bool, self.patience)

    def expire(self, topic: str, before: int) -> None:
        [deleted] = self.admin.delete_records([TopicPartition(topic, 0, before)]).values()
        deleted.result(10)

    def rebalance(self, target: Mapping[Any, Iterable[tuple[str, int]]]) -> None:
        """It does so when members come and go."""

    def pass_time(self, seconds: float) -> None:
        """It passes."""


class World:
    """A topic and a group of one test's own."""

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
        consumer.incremental_assign([self.place(0, offset)])
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
        """The shared producer in a transaction; what the block leaves open is aborted."""
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
        """Plain records."""
        self.write(self.backend.plain, *values, partition=partition)

    def place(self, partition: int = 0, offset: int = OFFSET_INVALID) -> TopicPartition:
        return TopicPartition(self.topic, partition, offset)

    def end(self, isolation: IsolationLevel = COMMITTED, partition: int = 0) -> int:
        return self.offset(OffsetSpec.latest(), isolation, partition)

    def offset(self, spec: OffsetSpec, isolation: IsolationLevel = COMMITTED, partition: int = 0) -> int:
        asked = {self.place(partition): spec}
        answer = self.backend.admin.list_offsets(asked, isolation_level=isolation, request_timeout=10)
        offset: int = answer[self.place(partition)].result(10).offset
        return offset

    def group_offsets(self, *partitions: int, require_stable: bool = True) -> list[int | str]:
        """The group's offset of each partition, or the name of the error."""
        asked = ConsumerGroupTopicPartitions(self.group, [self.place(partition) for partition in partitions])
        answer = self.backend.admin.list_consumer_group_offsets(
            [asked], require_stable=require_stable, request_timeout=10
        )
        found = {one.partition: one for one in answer[self.group].result(10).topic_partitions}
        wanted = [found[partition] for partition in partitions]
        return [one.offset if one.error is None else one.error.name() for one in wanted]

    def read(self, consumer: Any, until: Callable[[list[Any]], object]) -> list[Any]:
        """(offset, value) of each record and ("end", offset) of each end, until it is enough."""
        seen: list[Any] = []
        deadline = time.monotonic() + self.backend.patience
        while not until(seen):
            assert time.monotonic() < deadline, f"not enough after {self.backend.patience:g} seconds: {seen}"
            seen += [told(message) for message in consumer.consume(100, 0.05)]
        return seen

    def read_to_end(self, consumer: Any) -> list[Any]:
        return self.read(consumer, lambda seen: seen and seen[-1][0] == "end")

    def wait(self, look: Callable[[], Any], right: Any) -> None:
        eventually(look, lambda seen: seen == right, self.backend.patience)


class Member:
    """A consumer that subscribed, and what its callbacks were told."""

    def __init__(self, world: World, consumer: Any) -> None:
        self.world = world
        self.consumer = consumer
        self.told: list[tuple[str, list[int]]] = []
        consumer.subscribe(
            [world.topic],
            on_assign=lambda consumer, places: self._note("assign", consumer.incremental_assign, places),
            on_revoke=lambda consumer, places: self._note("revoke", consumer.incremental_unassign, places),
            on_lost=lambda consumer, places: self._note("lost", consumer.incremental_unassign, places),
        )

    def _note(self, event: str, answer: Callable[[Any], None], places: list[TopicPartition]) -> None:
        self.told.append((event, sorted(place.partition for place in places)))
        self.world.chronicle.append((self, event))
        answer(places)

    @property
    def owned(self) -> set[int]:
        return {place.partition for place in self.consumer.assignment()}

    @property
    def metadata(self) -> Any:
        return self.consumer.consumer_group_metadata()


def told(message: Any) -> Any:
    error = message.error()
    if error is None:
        return message.offset(), message.value()
    if error.code() == KafkaError._PARTITION_EOF:
        return "end", message.offset()
    return error.name(), message.offset()


def settle(world: World, *members: Member, counts: tuple[int, ...]) -> None:
    """Let the members have so many partitions each; which, the real one decides."""
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


@pytest.fixture(scope="module", params=["memory", pytest.param("real", marks=pytest.mark.kafka)])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "memory":
        return InMemory()
    return Real(request.getfixturevalue("kafka").bootstrap_servers)


@pytest.fixture
def world(backend: Backend) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(backend, stack)


class Moved(NamedTuple):
    """Two members: `first` had all three partitions, then `second` got some."""

    world: World
    first: Member
    second: Member
    stale: Any
    """The metadata of `first` from before."""


@pytest.fixture(scope="module")
def moved(backend: Backend) -> Iterator[Moved]:
    with ExitStack() as stack:
        world = World(backend, stack)
        first = world.member()
        settle(world, first, counts=(3,))
        stale = first.metadata
        second = world.member()
        settle(world, first, second, counts=(1, 2))
        yield Moved(world, first, second, stale)


# What readers see


def test_an_open_transaction_is_read_only_uncommitted(world: World) -> None:
    with world.transaction() as producer:
        world.write(producer, b"a")
        assert world.read_to_end(world.reader()) == [("end", 0)]
        assert world.read_to_end(world.reader(isolation_level="read_uncommitted")) == [(0, b"a"), ("end", 1)]


def test_a_committed_transaction_is_read_and_its_marker_has_an_offset(world: World) -> None:
    reader = world.reader()
    with world.transaction() as producer:
        world.write(producer, b"a", b"b")
        producer.commit_transaction(10)
    assert world.read(reader, lambda seen: ("end", 3) in seen)[-3:] == [(0, b"a"), (1, b"b"), ("end", 3)]
    assert reader.position([world.place()])[0].offset == 3


def test_an_aborted_transaction_is_read_only_uncommitted_and_its_marker_has_an_offset(world: World) -> None:
    with world.transaction() as producer:
        world.write(producer, b"a")
    world.append(b"plain")
    world.wait(world.end, 3)
    assert world.read_to_end(world.reader()) == [(2, b"plain"), ("end", 3)]
    uncommitted = world.reader(isolation_level="read_uncommitted")
    assert world.read_to_end(uncommitted) == [(0, b"a"), (2, b"plain"), ("end", 3)]


def test_what_comes_after_an_open_transaction_waits_for_its_end(world: World) -> None:
    reader = world.reader()
    with world.transaction() as producer:
        world.write(producer, b"open")
        world.append(b"plain")
        assert world.read_to_end(reader) == [("end", 0)]
    assert world.read_to_end(reader) == [(1, b"plain"), ("end", 3)]


def test_the_end_is_told_each_time_it_is_reached(world: World) -> None:
    reader = world.reader()
    assert world.read_to_end(reader) == [("end", 0)]
    for number in range(2):
        world.append(b"more")
        assert world.read_to_end(reader) == [(number, b"more"), ("end", number + 1)]


def test_the_end_moves_past_transactions_that_leave_nothing_to_read(world: World) -> None:
    reader = world.reader()
    world.append(b"a")
    world.read(reader, lambda seen: ("end", 1) in seen)
    with world.transaction() as producer:
        world.write(producer, b"never seen")
    assert world.read(reader, lambda seen: ("end", 3) in seen)[-1] == ("end", 3)
    assert reader.position([world.place()])[0].offset == 3


def test_a_message_tells_what_was_produced(world: World) -> None:
    headers = [("reason", b"why"), ("reason", b""), ("none", None)]
    world.backend.plain.produce(world.topic, b"v", b"k", 0, headers=headers, timestamp=1_000)
    world.backend.plain.produce(world.topic, None, partition=0)
    world.backend.plain.produce(world.topic, "text", "key", partition=0, headers={"a": "b"})
    assert world.backend.plain.flush(10) == 0
    reader = world.reader()
    messages: list[Any] = []
    world.wait(lambda: messages.extend(reader.consume(10, 0.05)) or len(messages), 4)
    full, empty, texts, end = messages
    assert (full.topic(), full.partition(), full.offset(), full.error()) == (world.topic, 0, 0, None)
    assert (full.key(), full.value(), full.headers(), full.timestamp()) == (b"k", b"v", headers, (1, 1_000))
    assert (empty.key(), empty.value(), empty.headers()) == (None, None, None)
    assert (texts.key(), texts.value(), texts.headers()) == (b"key", b"text", [("a", b"b")])
    assert (end.topic(), end.partition(), end.key(), end.timestamp()) == (world.topic, 0, None, (0, -1))


def test_retention_moves_the_beginning(world: World) -> None:
    world.append(b"0", b"1", b"2")
    world.backend.expire(world.topic, 2)
    assert world.offset(OffsetSpec.earliest()) == 2
    assert world.end() == 3
    assert world.read_to_end(world.reader(0)) == [(2, b"2"), ("end", 3)]
    assert world.read_to_end(world.reader(0, auto_offset_reset="latest")) == [("end", 3)]
    strict = world.reader(0, auto_offset_reset="error")
    assert world.read(strict, bool) == [("_AUTO_OFFSET_RESET", 0)]


# Ends and offsets, asked for


def test_the_uncommitted_end_is_beyond_the_last_stable_one(world: World) -> None:
    with world.transaction() as producer:
        world.append(b"plain")
        world.write(producer, b"a")
        assert (world.end(UNCOMMITTED), world.end(COMMITTED)) == (2, 1)
        producer.commit_transaction(10)
    world.wait(lambda: (world.end(UNCOMMITTED), world.end(COMMITTED)), (3, 3))


def test_watermarks_cached_are_the_logs_and_asked_for_the_last_stable_ones(world: World) -> None:
    with world.transaction() as producer:
        world.write(producer, b"a")
        reader = world.reader()
        assert reader.get_watermark_offsets(world.place(1), cached=True) == (OFFSET_INVALID, OFFSET_INVALID)
        world.read_to_end(reader)
        assert reader.get_watermark_offsets(world.place(), cached=True) == (0, 1)
        assert reader.get_watermark_offsets(world.place(), timeout=10) == (0, 0)


def test_a_partition_that_is_not_there_has_no_offsets(world: World) -> None:
    assert refusal(lambda: world.end(partition=7)).code() == KafkaError._NOENT


def test_topics_are_listed_with_their_partitions(world: World) -> None:
    found = world.backend.admin.list_topics(world.topic, timeout=10).topics[world.topic]
    assert (sorted(found.partitions), found.error) == ([0, 1, 2], None)
    unknown = world.consumer().list_topics("no-such-topic", timeout=10).topics["no-such-topic"]
    assert (unknown.partitions, unknown.error.code()) == ({}, KafkaError.UNKNOWN_TOPIC_OR_PART)


def test_the_cluster_describes_itself(world: World) -> None:
    assert len(world.backend.admin.describe_cluster(request_timeout=10).result(10).nodes) == 1


# Group offsets in transactions


def test_sending_offsets_does_not_flush(world: World) -> None:
    producer = world.producer("lazy", linger_ms=10_000)
    producer.begin_transaction()
    producer.produce(world.topic, b"late", partition=0)
    producer.send_offsets_to_transaction([world.place(0, 5)], world.consumer().consumer_group_metadata(), 10)
    assert len(producer) == 1
    assert world.end(UNCOMMITTED) == 0
    producer.commit_transaction(10)
    assert world.end(UNCOMMITTED) > 0


def test_offsets_of_an_open_transaction_are_unstable_and_hold_once_it_commits(world: World) -> None:
    nobody = world.consumer().consumer_group_metadata()
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(0, 5)], nobody, 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0), [5])
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(0, 7)], nobody, 10)
        assert world.group_offsets(0, 1) == ["UNSTABLE_OFFSET_COMMIT", OFFSET_INVALID]
        assert world.group_offsets(0, 1, require_stable=False) == [5, OFFSET_INVALID]
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0, 1), [7, OFFSET_INVALID])


def test_offsets_of_an_aborted_transaction_are_dropped(world: World) -> None:
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(0, 5)], world.consumer().consumer_group_metadata(), 10)
    world.wait(lambda: world.group_offsets(0), [OFFSET_INVALID])


def test_a_consumer_waits_for_an_open_transactions_offsets_if_it_reads_committed(world: World) -> None:
    world.append(*(b"0", b"1", b"2"))
    strict, lax = world.reader(OFFSET_INVALID), world.consumer(isolation_level="read_uncommitted")
    world.read_to_end(strict)
    assert strict.commit(offsets=[world.place(0, 1)], asynchronous=False)[0].offset == 1
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(0, 2)], strict.consumer_group_metadata(), 10)
        assert refusal(lambda: strict.committed([world.place()], timeout=0.2)).code() == KafkaError._TIMED_OUT
        assert [one.offset for one in lax.committed([world.place()], timeout=10)] == [1]
        waiting = world.reader(OFFSET_INVALID)
        assert waiting.consume(10, 0.1) == []
        producer.commit_transaction(10)
    assert world.read_to_end(waiting) == [(2, b"2"), ("end", 3)]


def test_offsets_keep_their_metadata(world: World) -> None:
    consumer = world.consumer()
    with world.transaction() as producer:
        producer.send_offsets_to_transaction(
            [TopicPartition(world.topic, 0, 5, "note")], consumer.consumer_group_metadata(), 10
        )
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0), [5])
    assert consumer.committed([world.place()], timeout=10)[0].metadata == "note"


# Who may send offsets


def test_a_member_that_left_is_refused_and_only_abort_helps(world: World) -> None:
    member = world.member()
    settle(world, member, counts=(3,))
    metadata = member.metadata
    member.consumer.close()
    with world.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([world.place(0, 1)], metadata, 10))
        assert (error.code(), error.txn_requires_abort()) == (KafkaError.UNKNOWN_MEMBER_ID, True)
        assert (error.fatal(), error.retriable()) == (False, False)
        assert refusal(lambda: producer.commit_transaction(10)).code() == KafkaError.UNKNOWN_MEMBER_ID
        assert refusal(lambda: producer.produce(world.topic, b"x", partition=0)).code() == KafkaError._STATE
        producer.abort_transaction(10)
        producer.begin_transaction()
    world.wait(lambda: world.group_offsets(0), [OFFSET_INVALID])


def test_an_earlier_epoch_is_refused_except_for_what_is_owned_since_then(moved: Moved) -> None:
    world, stale = moved.world, moved.stale
    kept, lost = min(moved.first.owned), min(moved.second.owned)
    with world.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([world.place(lost, 1)], stale, 10))
        assert (error.code(), error.txn_requires_abort()) == (KafkaError.ILLEGAL_GENERATION, True)
    with world.transaction() as producer:
        both = [world.place(kept, 1), world.place(lost, 1)]
        error = refusal(lambda: producer.send_offsets_to_transaction(both, stale, 10))
        assert error.code() == KafkaError.ILLEGAL_GENERATION
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(kept, 1)], stale, 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(kept), [1])


def test_a_live_members_offsets_are_taken_for_partitions_that_it_does_not_own(moved: Moved) -> None:
    world = moved.world
    theirs = min(moved.first.owned)
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(theirs, 4)], moved.second.metadata, 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(theirs), [4])


def test_who_never_was_a_member_may_send_offsets_but_not_commit_them(world: World) -> None:
    member = world.member()
    settle(world, member, counts=(3,))
    stranger = world.consumer()
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([world.place(0, 4)], stranger.consumer_group_metadata(), 10)
        producer.commit_transaction(10)
    world.wait(lambda: world.group_offsets(0), [4])
    error = refusal(lambda: stranger.commit(offsets=[world.place(0, 5)], asynchronous=False))
    assert error.code() == KafkaError.UNKNOWN_MEMBER_ID
    assert member.consumer.commit(offsets=[world.place(0, 6)], asynchronous=False)[0].error is None
    assert world.group_offsets(0) == [6]


# Producers


def test_a_producer_is_fenced_by_the_next_one_with_its_id(world: World) -> None:
    old = world.producer("same")
    old.begin_transaction()
    world.write(old, b"lost")
    old.send_offsets_to_transaction([world.place(0, 9)], world.consumer().consumer_group_metadata(), 10)
    world.producer("same")
    assert world.read_to_end(world.reader()) == [("end", 2)]
    world.wait(lambda: world.group_offsets(0), [OFFSET_INVALID])
    for call in (old.commit_transaction, old.abort_transaction, old.begin_transaction, old.init_transactions):
        error = refusal(call)
        assert (error.code(), error.fatal(), error.txn_requires_abort()) == (KafkaError._FENCED, True, False)
    error = refusal(lambda: old.produce(world.topic, b"x", partition=0))
    assert (error.code(), error.fatal()) == (KafkaError._FATAL, False)


def test_a_fenced_producers_records_do_not_reach_the_log(world: World) -> None:
    old = world.producer("same")
    old.begin_transaction()
    world.write(old, b"lost")
    world.producer("same")
    old.produce(world.topic, b"too late", partition=0)
    assert refusal(lambda: old.flush(10)).code() == KafkaError._FENCED
    assert len(old) == 0
    assert world.end(UNCOMMITTED) == 2


def test_a_fenced_producer_that_writes_nothing_does_not_learn_of_it(world: World) -> None:
    old = world.producer("same")
    world.producer("same")
    old.begin_transaction()
    old.commit_transaction(10)
    old.begin_transaction()
    old.send_offsets_to_transaction([], world.consumer().consumer_group_metadata(), 10)
    old.produce(world.topic, b"x", partition=0)
    assert refusal(lambda: old.commit_transaction(10)).code() == KafkaError._FENCED


def test_a_transaction_that_is_open_too_long_is_aborted_and_its_producer_fenced(world: World) -> None:
    producer = world.producer("slow", transaction_timeout_ms=1000, message_timeout_ms=1000)
    producer.begin_transaction()
    world.write(producer, b"lost")
    world.backend.pass_time(1.1)
    world.wait(lambda: world.end(COMMITTED), 2)
    error = refusal(lambda: producer.commit_transaction(10))
    assert (error.code(), error.fatal()) == (KafkaError._FENCED, True)


def test_calls_out_of_order_are_refused(world: World) -> None:
    producer = world.backend.kafka.producer({**world.backend.settings, "transactional.id": world.topic})
    assert refusal(producer.begin_transaction).code() == KafkaError._STATE
    nobody = world.consumer().consumer_group_metadata()
    shared = world.backend.transactions
    for call in (
        lambda: shared.commit_transaction(10),
        lambda: shared.abort_transaction(10),
        lambda: shared.init_transactions(10),
        lambda: shared.send_offsets_to_transaction([world.place(0, 1)], nobody, 10),
        lambda: shared.produce(world.topic, b"x", partition=0),
    ):
        assert refusal(call).code() == KafkaError._STATE
    with world.transaction():
        assert refusal(shared.begin_transaction).code() == KafkaError._STATE
    assert refusal(world.backend.plain.begin_transaction).code() == KafkaError._NOT_CONFIGURED


def test_a_commit_flushes_and_reports_what_was_delivered(world: World) -> None:
    reports: list[tuple[Any, int, bytes]] = []
    with world.transaction() as producer:
        producer.produce(
            world.topic,
            b"a",
            partition=1,
            on_delivery=lambda error, message: reports.append((error, message.offset(), message.value())),
        )
        producer.commit_transaction(10)
    assert reports == [(None, 0, b"a")]
    world.wait(lambda: world.end(partition=1), 2)


def test_a_transaction_with_a_record_that_was_not_delivered_can_only_be_aborted(world: World) -> None:
    reports: list[int] = []
    with world.transaction() as producer:
        producer.produce(world.topic, b"a", partition=0, on_delivery=lambda error, _: reports.append(error.code()))
        producer.purge()
        producer.poll(0)
        assert reports == [KafkaError._PURGE_QUEUE]
        error = refusal(lambda: producer.commit_transaction(10))
        assert (error.code(), error.txn_requires_abort()) == (KafkaError._INCONSISTENT, True)
        assert refusal(producer.begin_transaction).code() == KafkaError._INCONSISTENT
        producer.abort_transaction(10)


def test_an_abort_drops_what_was_buffered(world: World) -> None:
    producer = world.producer("lazy", linger_ms=10_000)
    producer.begin_transaction()
    reports: list[int] = []
    producer.produce(world.topic, b"a", partition=0, on_delivery=lambda error, _: reports.append(error.code()))
    producer.abort_transaction(10)
    assert reports == [KafkaError._PURGE_QUEUE]
    assert world.end(UNCOMMITTED) == 0


def test_a_transaction_with_nothing_in_it_leaves_nothing(world: World) -> None:
    with world.transaction() as producer:
        producer.commit_transaction(10)
    with world.transaction() as producer:
        producer.send_offsets_to_transaction([], world.consumer().consumer_group_metadata(), 10)
        producer.commit_transaction(10)
    assert world.end(UNCOMMITTED) == 0


def test_a_record_that_is_too_large_or_for_no_partition_is_refused_at_once(world: World) -> None:
    world.append(b"so that the producer knows the topic")
    plain = world.backend.plain
    error = refusal(lambda: plain.produce(world.topic, bytes(1_100_000), partition=0))
    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE
    assert refusal(lambda: plain.produce(world.topic, b"x", partition=3)).code() == KafkaError._UNKNOWN_PARTITION


# Assignment by hand


def test_reading_begins_where_the_assignment_says(world: World) -> None:
    world.append(b"0", b"1", b"2")
    reader = world.consumer()
    reader.commit(offsets=[world.place(0, 2)], asynchronous=False)
    begins = {0: 0, 1: 1, OFFSET_BEGINNING: 0, OFFSET_END: 3, OFFSET_INVALID: 2, OFFSET_STORED: 2, 99: 0}
    for offset, first in begins.items():
        reader.incremental_assign([world.place(0, offset)])
        expected = [(number, b"%d" % number) for number in range(first, 3)]
        assert world.read_to_end(reader) == [*expected, ("end", 3)], offset
        assert reader.position([world.place()])[0].offset == (3 if expected else OFFSET_INVALID)
        reader.incremental_unassign([world.place()])


def test_without_a_committed_offset_the_reset_policy_decides(world: World) -> None:
    world.append(b"0")
    assert world.read_to_end(world.reader(OFFSET_INVALID)) == [(0, b"0"), ("end", 1)]
    assert world.read_to_end(world.reader(OFFSET_INVALID, auto_offset_reset="latest")) == [("end", 1)]
    strict = world.reader(OFFSET_INVALID, auto_offset_reset="error")
    assert world.read(strict, bool)[0][0] == "_AUTO_OFFSET_RESET"


def test_partitions_come_and_go_one_by_one(world: World) -> None:
    world.append(b"0")
    world.append(b"1", partition=1)
    reader = world.reader(0)
    assert world.read_to_end(reader) == [(0, b"0"), ("end", 1)]
    assert refusal(lambda: reader.incremental_assign([world.place(0, 0)])).code() == KafkaError._CONFLICT
    assert refusal(lambda: reader.incremental_unassign([world.place(1)])).code() == KafkaError._INVALID_ARG
    assert refusal(lambda: reader.seek(world.place(1, 0))).code() == KafkaError._STATE
    reader.incremental_unassign([world.place(0)])
    reader.incremental_assign([world.place(1, 0)])
    world.append(b"nobody reads it")
    assert world.read_to_end(reader) == [(0, b"1"), ("end", 1)]
    assert [place.partition for place in reader.assignment()] == [1]
    reader.unassign()
    assert reader.assignment() == []
    reader.assign([world.place(0, 1)])
    assert world.read_to_end(reader) == [(1, b"nobody reads it"), ("end", 2)]


def test_seek_goes_back_and_the_end_is_told_again(world: World) -> None:
    world.append(b"0", b"1")
    reader = world.reader(0)
    world.read_to_end(reader)
    for _ in range(2):
        reader.seek(world.place(0, 1))
        assert world.read_to_end(reader) == [(1, b"1"), ("end", 2)]


def test_a_paused_partition_gives_nothing_until_it_is_resumed(world: World) -> None:
    reader = world.reader(0)
    world.read_to_end(reader)
    reader.pause([world.place()])
    world.append(b"0")
    assert reader.consume(10, 0.1) == []
    reader.resume([world.place()])
    assert world.read_to_end(reader) == [(0, b"0"), ("end", 1)]
    reader.pause([world.place()])
    reader.resume([world.place()])
    assert world.read_to_end(reader) == [("end", 1)]


def test_a_pause_outlives_the_assignment(world: World) -> None:
    world.append(b"0")
    reader = world.reader(0)
    world.read_to_end(reader)
    reader.pause([world.place()])
    reader.incremental_unassign([world.place()])
    reader.incremental_assign([world.place(0, 0)])
    assert reader.consume(10, 0.1) == []
    reader.resume([world.place()])
    assert world.read_to_end(reader) == [(0, b"0"), ("end", 1)]


def test_a_partition_that_came_paused_is_read_from_where_it_is_sought_to(world: World) -> None:
    # From an absolute offset: a late answer to where OFFSET_END is would undo the seek.
    world.append(b"0", b"1", b"2")
    reader = world.consumer()
    for turns in (0, 3):
        reader.incremental_assign([world.place(0, 0)])
        reader.pause([world.place()])
        assert [message for _ in range(turns) for message in reader.consume(10, 0.05)] == []
        reader.seek(world.place(0, 1))
        assert [message for _ in range(turns) for message in reader.consume(10, 0.05)] == []
        reader.resume([world.place()])
        assert world.read_to_end(reader) == [(1, b"1"), (2, b"2"), ("end", 3)]
        reader.incremental_unassign([world.place()])


def test_a_closed_consumer_can_do_nothing(world: World) -> None:
    reader = world.reader()
    reader.close()
    reader.close()
    for call in (reader.consume, reader.assignment, reader.consumer_group_metadata):
        with pytest.raises(RuntimeError, match="Consumer closed"):
            call()


# Rebalances


def test_partitions_are_given_back_before_others_get_them(moved: Moved) -> None:
    first, second = moved.first, moved.second
    given_back = first.told[1][1]
    assert first.told == [("assign", [0, 1, 2]), ("revoke", given_back), ("assign", [])]
    assert second.told == [("assign", given_back)]
    told = moved.world.chronicle
    assert told.index((first, "revoke")) < told.index((second, "assign"))
    assert sorted([*first.owned, *second.owned]) == [0, 1, 2]


def test_a_member_that_leaves_gives_back_first(world: World) -> None:
    first, second = world.member(), world.member()
    settle(world, first, second, counts=(1, 2))
    had = second.owned
    second.consumer.close()
    assert second.told[-1] == ("revoke", sorted(had))
    settle(world, first, counts=(3,))
    assert first.told[-1] == ("assign", sorted(had))


def test_what_a_callback_does_not_do_is_done_for_it(world: World) -> None:
    consumer = world.consumer(group_protocol="consumer")
    consumer.subscribe([world.topic], on_assign=lambda *_: None, on_revoke=lambda *_: None)
    world.backend.rebalance({consumer: [(world.topic, number) for number in range(3)]})
    world.append(b"0")
    seen = world.read(consumer, lambda seen: (0, b"0") in seen)
    assert seen
    assert len(consumer.assignment()) == 3


def test_an_exception_in_a_callback_comes_out_of_consume(world: World) -> None:
    def fail(*_: object) -> None:
        raise LookupError("in a callback")

    consumer = world.consumer(group_protocol="consumer")
    consumer.subscribe([world.topic], on_assign=fail)
    world.backend.rebalance({consumer: [(world.topic, number) for number in range(3)]})
    with pytest.raises(LookupError, match="in a callback"):
        world.read(consumer, lambda _: False)
    assert len(consumer.assignment()) == 3


# What only the one in memory can be made to do


@pytest.fixture
def memory() -> World:
    return World(InMemory(), ExitStack())


def kafka_of(world: World) -> MemoryKafka:
    assert isinstance(world.backend, InMemory)
    return world.backend.memory


def values(world: World) -> list[tuple[str, bytes | None]]:
    return [(record.kind.value, record.value) for record in kafka_of(world).log(world.topic, 0)]


def test_the_log_shows_what_readers_do_not_see(memory: World) -> None:
    memory.append(b"plain")
    with memory.transaction() as producer:
        memory.write(producer, b"a")
    with memory.transaction() as producer:
        memory.write(producer, b"b")
        producer.commit_transaction(10)
        producer.begin_transaction()
        memory.write(producer, b"c")
        assert values(memory) == [
            ("plain", b"plain"),
            ("aborted", b"a"),
            ("abort marker", None),
            ("committed", b"b"),
            ("commit marker", None),
            ("open", b"c"),
        ]


def test_a_new_owner_waits_until_the_old_one_has_given_back(memory: World) -> None:
    first, second = memory.member(), memory.member()
    settle(memory, first, second, counts=(3, 0))
    memory.backend.rebalance({second.consumer: [(memory.topic, 0)], first.consumer: [(memory.topic, 1)]})
    epoch = first.metadata
    second.consumer.consume(10, 0)
    assert (first.owned, second.owned, first.metadata) == ({0, 1, 2}, set(), epoch)
    first.consumer.consume(10, 0)
    assert (first.owned, second.owned) == ({1}, set())
    assert first.metadata != epoch
    second.consumer.consume(10, 0)
    assert second.owned == {0}


def test_a_fenced_member_learns_of_it_late_and_comes_back(memory: World) -> None:
    first, second = memory.member(), memory.member()
    settle(memory, first, second, counts=(2, 1))
    stale = first.metadata
    kafka_of(memory).fence(first.consumer)
    memory.backend.rebalance({second.consumer: [(memory.topic, number) for number in range(3)]})
    second.consumer.consume(10, 0)
    assert second.owned == {0, 1, 2}
    assert first.owned == {0, 1}
    assert first.told == [("assign", [0, 1])]
    with memory.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([memory.place(0, 1)], stale, 10))
        assert error.code() == KafkaError.UNKNOWN_MEMBER_ID
    first.consumer.consume(10, 0)
    assert first.told == [("assign", [0, 1]), ("lost", [0, 1])]
    with memory.transaction() as producer:
        error = refusal(lambda: producer.send_offsets_to_transaction([memory.place(0, 1)], stale, 10))
        assert error.code() == KafkaError.ILLEGAL_GENERATION
    settle(memory, first, second, counts=(2, 1))
    assert first.told[-1] == ("assign", [0, 1])


def test_nothing_is_read_and_all_questions_time_out_while_the_broker_is_away(memory: World) -> None:
    memory.append(b"0")
    reader = memory.reader()
    kafka_of(memory).away()
    assert reader.consume(10, 0) == []
    with memory.transaction() as producer:
        producer.produce(memory.topic, b"late", partition=0)
        assert producer.flush(10) == 1
        error = refusal(
            lambda: producer.send_offsets_to_transaction([memory.place(0, 1)], reader.consumer_group_metadata(), 10)
        )
        assert (error.code(), error.retriable()) == (KafkaError._TIMED_OUT, True)
        assert refusal(memory.end).code() == KafkaError._TIMED_OUT
        assert refusal(lambda: memory.group_offsets(0)).code() == KafkaError._TIMED_OUT
        assert refusal(lambda: reader.committed([memory.place()])).code() == KafkaError._TIMED_OUT
        kafka_of(memory).back()
        producer.commit_transaction(10)
    assert memory.read_to_end(reader) == [(0, b"0"), (1, b"late"), ("end", 3)]


@pytest.mark.parametrize("before", [True, False])
def test_a_commit_that_timed_out_is_resumed_and_nothing_else(memory: World, before: bool) -> None:
    with memory.transaction() as producer:
        memory.write(producer, b"a")
        kafka_of(memory).fail_next("commit_transaction", before=before)
        error = refusal(lambda: producer.commit_transaction(10))
        assert (error.code(), error.retriable()) == (KafkaError._TIMED_OUT, True)
        assert values(memory)[0][0] == ("open" if before else "committed")
        assert refusal(lambda: producer.abort_transaction(10)).code() == KafkaError._CONFLICT
        producer.commit_transaction(10)
        assert values(memory) == [("committed", b"a"), ("commit marker", None)]
        producer.begin_transaction()


def test_a_commit_can_go_through_though_its_producer_is_lost(memory: World) -> None:
    fatal = KafkaError(KafkaError._FENCED, fatal=True)
    producer = memory.producer("lost")
    producer.begin_transaction()
    memory.write(producer, b"a")
    kafka_of(memory).fail_next("commit_transaction", fatal, before=False)
    assert refusal(lambda: producer.commit_transaction(10)).fatal()
    assert values(memory)[0] == ("committed", b"a")
    assert refusal(producer.begin_transaction).code() == KafkaError._FENCED


@pytest.mark.parametrize("before", [True, False])
def test_sent_offsets_that_timed_out_may_have_arrived(memory: World, before: bool) -> None:
    nobody = memory.consumer().consumer_group_metadata()
    kafka_of(memory).fail_next("send_offsets_to_transaction", before=before)
    with memory.transaction() as producer:
        refusal(lambda: producer.send_offsets_to_transaction([memory.place(0, 5)], nobody, 10))
        assert memory.group_offsets(0) == [OFFSET_INVALID if before else "UNSTABLE_OFFSET_COMMIT"]
        producer.abort_transaction(10)
    assert memory.group_offsets(0) == [OFFSET_INVALID]


@pytest.mark.parametrize("before", [True, False])
def test_a_record_can_be_reported_lost_whether_it_arrived_or_not(memory: World, before: bool) -> None:
    kafka_of(memory).fail_next("deliver", KafkaError(KafkaError._MSG_TIMED_OUT), before=before)
    reports: list[KafkaError | None] = []
    with memory.transaction() as producer:
        for value in (b"a", b"b"):
            producer.produce(memory.topic, value, partition=0, on_delivery=lambda error, _: reports.append(error))
        assert producer.flush(10) == 0
        assert [value for _, value in values(memory)] == ([b"b"] if before else [b"a", b"b"])
        assert [error and error.code() for error in reports] == [KafkaError._MSG_TIMED_OUT, None]
        assert refusal(lambda: producer.commit_transaction(10)).code() == KafkaError._INCONSISTENT


@pytest.mark.parametrize("before", [True, False])
def test_a_flush_can_run_out_of_time(memory: World, before: bool) -> None:
    kafka_of(memory).fail_next("flush", before=before)
    with memory.transaction() as producer:
        producer.produce(memory.topic, b"a", partition=0)
        assert producer.flush(10) == 1
        assert len(values(memory)) == (0 if before else 1)
        assert producer.flush(10) == 0
        assert len(values(memory)) == 1


def test_a_consumer_can_be_told_of_trouble(memory: World) -> None:
    memory.append(b"0")
    kafka_of(memory).fail_next("consume", KafkaError(KafkaError._ALL_BROKERS_DOWN), before=True)
    assert memory.read_to_end(memory.reader()) == [("_ALL_BROKERS_DOWN", None), (0, b"0"), ("end", 1)]


def test_only_what_asks_the_broker_can_be_made_to_fail(memory: World) -> None:
    with pytest.raises(ValueError, match="commit_transaction"):
        kafka_of(memory).fail_next("seek", before=True)


def test_two_members_never_get_the_same_partition(memory: World) -> None:
    first, second = memory.member(), memory.member()
    with pytest.raises(ValueError, match="same partition"):
        memory.backend.rebalance({first.consumer: [(memory.topic, 0)], second.consumer: [(memory.topic, 0)]})


def test_a_callback_may_wait_for_another_threads_call(memory: World) -> None:
    consumer = memory.consumer()
    seen: list[int] = []

    def ask_elsewhere(*_: object) -> None:
        thread = threading.Thread(target=lambda: seen.append(memory.end()))
        thread.start()
        thread.join(10)

    consumer.subscribe([memory.topic], on_assign=ask_elsewhere)
    memory.backend.rebalance({consumer: [(memory.topic, 0)]})
    consumer.consume(10, 0)
    assert seen == [0]
