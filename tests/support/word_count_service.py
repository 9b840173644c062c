"""A small service for tests of the runtime: it counts words, on a Kafka in memory, each step by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka
import msgspec

from hypervisor_consumers.runtime.commit.changeset import ServiceTopics
from hypervisor_consumers.runtime.commit.lease import Lease
from hypervisor_consumers.runtime.commit.stateful_processor import FoldService, StatefulProcessor
from hypervisor_consumers.runtime.commit.transactions import Transactions
from hypervisor_consumers.runtime.kafka.client_config import consumer_settings, transaction_settings
from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.partitions.restore import Restorer
from hypervisor_consumers.runtime.protocols import Home, OutputCodec, PublicRecord, Refused, Table, View
from hypervisor_consumers.runtime.records import Record as TakenRecord
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.dead_letters import replay_for, replays_output
from hypervisor_schemas.errors import InvalidPayload, OutputUnavailable, RecordError, UndecodableRecord
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import EventDecoder, encode_event
from hypervisor_telemetry.testing.memory.consumer import MemoryConsumer
from hypervisor_telemetry.testing.memory.group import Group
from hypervisor_telemetry.testing.memory.log import Kind, PartitionLog
from tests.support.faulty_kafka import FaultyKafka

IDLE_MS = 1_000_000


class Word(msgspec.Struct, frozen=True, array_like=True):
    times: int
    seen_at: int


@dataclass(slots=True)
class WordState:
    words: Table[tuple[str], Word] = field(default_factory=lambda: Table(Word))
    pairs: Table[tuple[str, str], int] = field(default_factory=lambda: Table(int))
    """The number of times that a word came right after another."""
    last: Table[tuple[str, ...], str] = field(default_factory=lambda: Table(str))


class Words:
    """Counts words; each word is also an output. It ignores sessions, and a number is an invalid payload."""

    def new_state(self) -> WordState:
        return WordState()

    def apply(self, state: WordState, event: HypervisorEvent, seen_at_ms: int = 0) -> Sequence[str] | None:
        if event.event_type == EventType.SESSION_CREATED:
            return None
        word = event.payload["word"]
        if not isinstance(word, str):
            raise InvalidPayload("The payload doesn't fit.")
        old = state.words[word,]
        if old is None:
            state.words.add((word,), Word(1, seen_at_ms))
        else:
            state.words[word,] = Word(old.times + 1, seen_at_ms)
        if (last := state.last[()]) is not None:
            state.pairs[last, word] = (state.pairs[last, word] or 0) + 1
        state.last[()] = word
        return [word]

    def expire(self, state: WordState, now_ms: int) -> Sequence[str]:
        idle = [key for key, word in state.words.present() if now_ms - word.seen_at > IDLE_MS]
        for key in idle:
            state.words.remove(key)
        return [f"no {word}" for (word,) in sorted(idle)]


def said(word: object, event_id: str | None = None) -> HypervisorEvent:
    event = HypervisorEvent(event_type=EventType.VFS_WRITE, payload={"word": word})
    return event if event_id is None else HypervisorEvent(event_id, event.event_type, payload=event.payload)


def times(state: WordState) -> dict[str, int]:
    """The number of times that each word was counted."""
    return {word: value.times for (word,), value in state.words.present()}


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


SOURCE, STATE, DEAD_LETTERS, TABLE = "t.events.vfs", "t.state.words", "t.dead-letters", "t.table"
HERE, THERE = TopicPartition(SOURCE, 0), TopicPartition(SOURCE, 1)
GROUP = "t.words"
SETTINGS = consumer_settings({"bootstrap.servers": "memory"}, GROUP)


def published_words(pending: WordState, home: Home) -> list[PublicRecord]:
    """A public table's rows: how often each word that changed was said."""
    return [
        PublicRecord("table", word.encode(), word.encode(), None if row is None else str(row.times).encode())
        for (word,), row in pending.words.items()
    ]


class WordView(View):
    """The rows of the public table, read back."""

    topic = "table"

    def new_rows(self) -> dict[Any, Any]:
        return {}

    def apply(self, rows: dict[Any, Any], key: bytes | None, value: bytes | None) -> None:
        if key is None:
            raise RecordError("A row has no key.")
        if value is None:
            rows.pop(key.decode(), None)
        else:
            rows[key.decode()] = int(value)


class Shelf:
    """An output that keeps its deliveries, unless it is full; `look` is called at each delivery."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.is_full = False
        self.closed = 0
        self.refuses: set[str] = set()
        self.look: Callable[[], object] = lambda: None

    def deliver(self, outputs: Sequence[str]) -> Sequence[Refused]:
        self.look()
        if self.is_full:
            raise OutputUnavailable("The shelf is full.")
        self.delivered += [word for word in outputs if word not in self.refuses]
        return [Refused(at, f"no {word} here") for at, word in enumerate(outputs) if word in self.refuses]

    def close(self) -> None:
        self.closed += 1


class WordCodec(OutputCodec[str]):
    """Words as dead letters."""

    def name(self, output: str) -> str:
        return f"the word {output}"

    def write(self, output: str) -> bytes:
        return b"word:" + output.encode()

    def read(self, data: bytes) -> str:
        if not data.startswith(b"word:"):
            raise UndecodableRecord("No word.")
        return data.removeprefix(b"word:").decode()


class World:
    """A Kafka in memory with the service's topics."""

    def __init__(self, partitions: int = 2, state_partitions: int | None = None) -> None:
        self.clock = Clock()
        self.kafka = FaultyKafka(self.clock)
        self.kafka.create_topic(SOURCE, partitions)
        self.kafka.create_topic(STATE, state_partitions or partitions)
        self.kafka.create_topic(DEAD_LETTERS, 1)
        self.kafka.create_topic(TABLE, 2)

    def say(self, partition: int, *words: object) -> list[HypervisorEvent]:
        """Publish words, as an agent does."""
        events = [said(word) for word in words]
        self.publish(partition, *events)
        return events

    def publish(self, partition: int, *events: HypervisorEvent) -> None:
        for event in events:
            self.kafka.append(SOURCE, partition, encode_event(event))

    @property
    def group(self) -> Group:
        """The broker's entry of the service's group."""
        return self.kafka.cluster.group(GROUP)

    def committed(self, topic: str = SOURCE) -> dict[int, int]:
        """The group's offsets, by partition."""
        offsets = self.group.committed.items()
        return {partition: one.offset for (name, partition), one in offsets if name == topic}

    def records(self, topic: str, partition: int = 0) -> list[tuple[bytes | None, bytes | None]]:
        """The keys and values that a read_committed reader gets."""
        kinds = {Kind.PLAIN, Kind.COMMITTED}
        return [(one.key, one.value) for one in self.kafka.log(topic, partition) if one.kind in kinds]

    def kinds(self, topic: str, partition: int = 0) -> list[str]:
        """The kind of the record at each offset."""
        return [record.kind.value for record in self.kafka.log(topic, partition)]

    def make_anew(self, topic: str, partition: int) -> None:
        """Delete the partition's log and make it again, as when somebody makes the topic anew."""
        self.kafka.cluster.topics[topic][partition] = PartitionLog()

    def consumer(self) -> MemoryConsumer:
        """A member of the group."""
        consumer = self.kafka.consumer(SETTINGS)
        consumer.subscribe([SOURCE])
        return consumer


class Copy:
    """One copy of the service. The test does the work of its loop."""

    def __init__(
        self,
        world: World,
        name: str = "a",
        *,
        decoder: EventDecoder | None = None,
        window: int = 1000,
        lease: Lease | None = None,
        **parts: Any,
    ) -> None:
        self.world = world
        kafka, clock = world.kafka, world.clock
        self.decoder = decoder or EventDecoder()
        producer = transaction_settings(SETTINGS, f"{GROUP}-{name}")
        hanging = HangingTransactions(kafka, SETTINGS, producer)
        self.restorer = Restorer(
            kafka, SETTINGS, service="words", state_topic=STATE, decoder=self.decoder, hanging=hanging, clock=clock
        )
        self.transactions = Transactions(kafka, producer, hanging)
        self.assignment: Assignment[Any] = Assignment()
        self.runtime_metrics = RuntimeMetrics(self.assignment)
        find_lease = parts.pop("find_lease", lambda: 10.0)
        self.processor: StatefulProcessor[WordState, str] = StatefulProcessor(
            FoldService("words", Words(), window=window, **parts),
            topics=ServiceTopics("t.", SOURCE, STATE, DEAD_LETTERS),
            assignment=self.assignment,
            transactions=self.transactions,
            hanging=hanging,
            restorer=self.restorer,
            lease=lease or Lease(10.0, clock),
            find_lease=find_lease,
            runtime_metrics=self.runtime_metrics,
            now=clock,
        )
        self.positions: dict[TopicPartition, int] = {}
        self.consumer = kafka.consumer(SETTINGS)
        self.processor.start(self.consumer)
        self.consumer.subscribe(
            [SOURCE, TABLE], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _on_assign(self, consumer: Any, partitions: Iterable[confluent_kafka.TopicPartition]) -> None:
        consumer.incremental_assign([])
        topic_partitions = [TopicPartition(one.topic, one.partition) for one in partitions]
        self.assignment.assign(topic_partitions, tables=[TABLE])
        self.runtime_metrics.rebalanced()
        self.processor.assigned(topic_partitions)

    def _on_revoke(self, consumer: Any, partitions: list[confluent_kafka.TopicPartition]) -> None:
        self.processor.commit(is_last=True)
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[confluent_kafka.TopicPartition]) -> None:
        topic_partitions = [TopicPartition(one.topic, one.partition) for one in partitions]
        for topic_partition in topic_partitions:
            self.positions.pop(topic_partition, None)
        self.lose(*topic_partitions)
        self.runtime_metrics.rebalanced()

    def lose(self, *topic_partitions: TopicPartition) -> None:
        """The partitions went."""
        self.assignment.revoke(topic_partitions)
        self.processor.revoked(topic_partitions)

    def restore(self, steps: int = 10) -> None:
        """Let the restorer work; restored partitions are read from now on."""
        for _ in range(steps):
            self.restorer.step()
            self.positions |= self.processor.ready()

    def read(self, *, to_the_end: bool = True) -> None:
        """Take all records of this copy's partitions, and the ends of their logs."""
        for topic_partition, position in self.positions.items():
            for record in self.world.kafka.log(*topic_partition):
                if record.offset < position or record.kind not in {Kind.PLAIN, Kind.COMMITTED}:
                    continue
                self._take(
                    TakenRecord(
                        topic_partition, record.offset, record.key, record.value, record.headers, record.timestamp
                    )
                )
                self.positions[topic_partition] = record.offset + 1
            if to_the_end:
                self.processor.advanced(topic_partition, self.positions[topic_partition])

    def _take(self, record: TakenRecord) -> None:
        if record.topic_partition.topic == TABLE:
            self.processor.row(record)
        elif replay_for(record.headers) not in {None, "words"}:
            self.processor.ignore(record)
        else:
            try:
                if replays_output(record.headers):
                    self.processor.redeliver(record)
                else:
                    self.processor.apply(record, self.decoder.decode(record.value))
            except RecordError as error:
                self.processor.reject(record, error)

    def commit(self) -> Mapping[TopicPartition, int | None]:
        """Commit; go back where records have to be read again."""
        again = self.processor.commit()
        for topic_partition, offset in again.items():
            self.positions.pop(topic_partition)
            if offset is not None:
                self.positions[topic_partition] = offset
        return again

    def shown(self) -> dict[int, dict[str, int]]:
        """The words of each partition that may be shown."""
        return {partition: times(state) for partition, state in self.processor.shown().states.items()}


def assign(world: World, target: Mapping[Copy, Iterable[int]], table: Mapping[Copy, Iterable[int]] = {}) -> None:
    """Give partitions of the source, and of the public table, to copies; their owners give them back."""
    world.kafka.rebalance(
        {
            copy.consumer: [
                *((SOURCE, partition) for partition in partitions),
                *((TABLE, partition) for partition in table.get(copy, ())),
            ]
            for copy, partitions in target.items()
        }
    )
    for _ in range(2):  # a new owner gets them after the old one gave them back
        for copy in target:
            copy.consumer.consume(0)


def started(world: World, *partitions: int, name: str = "a", **parts: Any) -> Copy:
    """A copy that has these partitions, restored, and is the only one in the group."""
    copy = Copy(world, name, **parts)
    assign(world, {copy: partitions})
    copy.restore()
    return copy


def results(copy: Copy, partition: int = 0) -> Counter[str]:
    """The results of the partition's offsets, by the runtime's metrics."""
    found: Counter[str] = Counter()
    for family in copy.runtime_metrics.families(now=copy.world.clock.now, dead_letter_rate=False, degraded=False):
        for sample in family.samples:
            if sample.name.endswith("_records_total") and sample.labels.get("partition") == str(partition):
                found[sample.labels["result"]] = int(sample.value)
    return +found


def outcomes(copy: Copy) -> dict[str, float]:
    """The number of transactions by outcome, by the runtime's metrics."""
    families = copy.runtime_metrics.families(now=0, dead_letter_rate=False, degraded=False)
    [family] = [family for family in families if family.name == "hypervisor_telemetry_transactions"]
    return {sample.labels["outcome"]: sample.value for sample in family.samples}
