"""Worlds for tests of the exactly-once runtime: one partition of everything, on a Kafka in memory or a real one."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from hypervisor_consumers.ring_metrics.fold.batch_fold import RingBatchFold
from hypervisor_consumers.runtime.kafka.client_factory import LibrdkafkaClientFactory
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import encode_event
from tests.support.faulty_kafka import FaultyKafka
from tests.support.service_copies import DEAD_LETTERS, RINGS, SOURCE, STATE, Clock, Copy, HookedKafka

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypervisor_telemetry.local.kafka_choice import Kafka

TOPICS = (SOURCE, STATE, RINGS, DEAD_LETTERS)


def event(session: str = "s", event_id: str | None = None) -> HypervisorEvent:
    fields = {} if event_id is None else {"event_id": event_id}
    kind = EventType.RING_ASSIGNED
    return HypervisorEvent(event_type=kind, session_id=session, agent_did="a", payload={"ring": 1}, **fields)


class World(ABC):
    """One partition of everything, and who has it."""

    def __init__(self, kafka: Any, prefix: str = "", bootstrap_servers: str = "memory") -> None:
        self.kafka = HookedKafka(kafka)
        self.prefix = prefix
        self.bootstrap_servers = bootstrap_servers
        self.copies: list[Copy] = []

    @abstractmethod
    def copy(self, fold: RingBatchFold | None = None, **environ: str) -> Copy:
        """A copy of the service, which has nothing yet."""

    @abstractmethod
    def put(self, *events: HypervisorEvent | bytes) -> None:
        """Returns when they are in the source."""

    @abstractmethod
    def give_to(self, copy: Copy) -> None:
        """The copy has all partitions from its next steps on; it is the only member that is told."""

    @abstractmethod
    def expel(self, copy: Copy) -> None:
        """The group throws the copy out, and it doesn't know."""

    @abstractmethod
    def end(self, topic: str) -> int:
        """The end of the log, uncommitted records included."""

    def is_patient(self, deadline: float) -> bool:
        """Whether it may still happen."""
        return time.monotonic() < deadline

    def committed(self, topic: str) -> list[bytes | None]:
        """The values in a topic that a read_committed reader sees."""
        reader = self.kafka.consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "nobody",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        reader.incremental_assign([TopicPartition(self.prefix + topic, 0, 0)])
        values: list[bytes | None] = []
        while True:
            for message in reader.consume(100, timeout=1):
                if message.error() is not None:
                    reader.close()
                    return values
                values.append(message.value())

    @abstractmethod
    def pass_time(self) -> None:
        """A little of it."""

    def until(self, condition: Callable[[], object], *copies: Copy, steps: int = 300) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            steps -= 1
            assert steps > 0 or self.is_patient(deadline), [
                (dict(copy.counts()), copy.live, copy.health.troubles) for copy in copies
            ]
            for copy in copies:
                copy.step()
            self.pass_time()

    def settled(self, copy: Copy, count: int, session: str = "s") -> None:
        self.until(lambda: copy.counts()[session] == count, copy)
        # And stays so.
        for _ in range(5):
            copy.step()
            self.pass_time()
        assert copy.counts()[session] == count


class InMemory(World):
    def __init__(self) -> None:
        self.clock = Clock()
        self.memory = FaultyKafka(self.clock)
        super().__init__(self.memory)
        for topic in TOPICS:
            self.memory.create_topic(topic, 1)

    def copy(self, fold: RingBatchFold | None = None, **environ: str) -> Copy:
        self.copies.append(Copy(self.kafka, clock=self.clock, fold=fold or RingBatchFold(), environ=environ))
        return self.copies[-1]

    def put(self, *events: HypervisorEvent | bytes) -> None:
        for one in events:
            self.memory.append(SOURCE, 0, one if isinstance(one, bytes) else encode_event(one))

    def give_to(self, copy: Copy) -> None:
        self.memory.rebalance({copy.consumer: [(SOURCE, 0), (RINGS, 0)]})

    def expel(self, copy: Copy) -> None:
        self.memory.fence(copy.consumer)

    def end(self, topic: str) -> int:
        log = self.memory.log(topic, 0)
        return log[-1].offset + 1 if log else 0

    def pass_time(self) -> None:
        self.clock.advance(0.25)

    def is_patient(self, deadline: float) -> bool:
        """No: a step that is still missing will never come."""
        return False


class Real(World):
    def __init__(self, kafka: Kafka, prefix: str) -> None:
        super().__init__(LibrdkafkaClientFactory(), prefix, kafka.bootstrap_servers)
        self._own = {"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0}
        admin = AdminClient(self._own)
        for future in admin.create_topics([NewTopic(prefix + topic, 1, 1) for topic in TOPICS]).values():
            future.result(30)

    def copy(self, fold: RingBatchFold | None = None, **environ: str) -> Copy:
        it = Copy(self.kafka, self.prefix, self.bootstrap_servers, fold=fold or RingBatchFold(), environ=environ)
        self.copies.append(it)
        return it

    def put(self, *events: HypervisorEvent | bytes) -> None:
        producer = Producer(self._own)
        for one in events:
            value = one if isinstance(one, bytes) else encode_event(one)
            producer.produce(self.prefix + SOURCE, value, partition=0)
        assert producer.flush(10) == 0

    def give_to(self, copy: Copy) -> None:
        """The only member gets all."""

    def expel(self, copy: Copy) -> None:
        # Leaving looks the same to the group. Nothing is committed on the way.
        copy.processor.commit = lambda **_: {}  # type: ignore[method-assign]
        copy.consumer.close()
        self.copies.remove(copy)

    def pass_time(self) -> None:
        """The steps of the copies take it."""

    def end(self, topic: str) -> int:
        offset_queries = Consumer({**self._own, "group.id": "nobody", "isolation.level": "read_uncommitted"})
        end: int = offset_queries.get_watermark_offsets(TopicPartition(self.prefix + topic, 0), timeout=10)[1]
        offset_queries.close()
        return end


def timed_out() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "Timed out", retriable=True))


def refused_for_good() -> KafkaException:
    return KafkaException(KafkaError(KafkaError._FENCED, "Fenced", fatal=True))


def running_copy(world: World, *events: HypervisorEvent) -> Copy:
    copy = world.copy()
    world.give_to(copy)
    world.put(*(events or (event(),)))
    world.settled(copy, len(events) or 1)
    return copy


def outcomes(copy: Copy, outcome: str) -> list[float]:
    """The number of transactions with this outcome, if there were any."""
    return [
        sample.value
        for family in copy.runtime_metrics.families(now=0, dead_letter_rate=False, degraded=False)
        for sample in family.samples
        if sample.name == "hypervisor_telemetry_transactions_total" and sample.labels["outcome"] == outcome
    ]
