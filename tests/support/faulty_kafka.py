"""A Kafka in memory that can be made to fail: outages, lost answers, ended sessions, retention."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException

from hypervisor_telemetry.testing.memory.broker import Broker, MemoryMessage, failure
from hypervisor_telemetry.testing.memory.kafka import MemoryKafka
from hypervisor_telemetry.testing.memory.producer import MemoryProducer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from hypervisor_telemetry.testing.memory.consumer import MemoryConsumer
    from hypervisor_telemetry.testing.memory.group import TopicPartition
    from hypervisor_telemetry.testing.memory.log import Cluster

T = TypeVar("T")

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
"""The operations that can be made to fail: the clients' methods that ask the broker, and `deliver`, one record."""

_TIMED_OUT = KafkaError(KafkaError._TIMED_OUT, "Local: Timed out", retriable=True)


class Fault(NamedTuple):
    """An error for the next call of an operation, before or after it takes effect."""

    error: KafkaError
    before: bool


class FaultyBroker(Broker):
    """A broker that can be away, and whose operations fail when they are told to."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.is_away = False
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)

    def fail_next(self, operation: str, error: KafkaError, *, before: bool) -> None:
        """Let the operation fail once more, after the faults that wait already."""
        if operation not in OPERATIONS:
            known = ", ".join(sorted(OPERATIONS))
            raise ValueError(f"{operation!r} can't be made to fail; name one of: {known}.")
        self._faults[operation].append(Fault(error, before))

    def take_fault(self, operation: str) -> Fault | None:
        """The fault for this call, if any."""
        faults = self._faults[operation]
        return faults.popleft() if faults else None

    def request(self, operation: str, effect: Callable[[], T], *, retriable: bool = False) -> T:
        if self.is_away:
            raise failure(KafkaError._TIMED_OUT, "Local: Timed out", retriable=retriable)
        # Before the fault is looked for: what is overdue ends all the same.
        self.cluster.end_overdue(self.now())
        fault = self.take_fault(operation)
        if fault is not None and fault.before:
            raise KafkaException(fault.error)
        answer = super().request(operation, effect, retriable=retriable)
        if fault is not None:
            raise KafkaException(fault.error)
        return answer

    def fetch(self, read: Callable[[], Sequence[MemoryMessage]]) -> Sequence[MemoryMessage]:
        if self.is_away:
            return []
        self.cluster.end_overdue(self.now())
        fault = self.take_fault("consume")
        return super().fetch(read) if fault is None else [MemoryMessage.event(fault.error)]


class FaultyProducer(MemoryProducer):
    """A producer whose flush can run out of time: with nothing delivered, or before the reports have come."""

    _broker: FaultyBroker

    def flush(self, timeout: float = -1) -> int:
        with self._broker.lock:
            fault = self._broker.take_fault("flush")
            if fault is None:
                waiting = 0
            else:
                waiting = len(self)
                if not fault.before:
                    self.deliver()
        return super().flush(timeout) if fault is None else waiting


class FaultyKafka(MemoryKafka):
    """A `MemoryKafka` with the troubles of a real one, each when the test asks for it."""

    _broker: FaultyBroker

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock, FaultyBroker(clock))

    def producer(self, settings: Mapping[str, Any]) -> MemoryProducer:
        return FaultyProducer(self._broker, settings)

    @property
    def cluster(self) -> Cluster:
        """Topics, groups and transactions."""
        return self._broker.cluster

    def expire(self, topic: str, partition: int, before: int) -> None:
        """Delete the records before this offset, as retention does; at most everything."""
        with self._broker.lock:
            log = self._log(topic, partition)
            before = min(before, log.end)
            if before > log.begin:
                del log.records[: before - log.begin]
                log.begin = before

    def fence(self, consumer: MemoryConsumer) -> None:
        """End the consumer's session: others may have its partitions at once.

        It learns of it, by `on_lost`, in its next `consume()`, and joins again. Its metadata are stale from now on.
        """
        with self._broker.lock:
            if consumer.member is None:
                raise ValueError("A consumer is a member only after subscribe().")
            self.cluster.group(consumer.group_name).remove(consumer.member)

    def forget(self, *topic_partitions: TopicPartition, groups: Iterable[str] = ()) -> None:
        """Let the open transactions end without these partitions and groups: their records stay open.

        So does a real coordinator that starts while they have no leader (KAFKA-20734).
        """
        groups = list(groups)
        with self._broker.lock:
            for producer in self.cluster.producers.values():
                if producer.transaction is not None:
                    producer.transaction.topic_partitions.difference_update(topic_partitions)
                    producer.transaction.groups.difference_update(groups)

    def fail_next(self, operation: str, error: KafkaError = _TIMED_OUT, *, before: bool) -> None:
        """Let an operation fail once, for whichever client calls it next; several wait in line.

        Args:
            operation: One of `OPERATIONS`: a client's method, or `deliver` for one record that a producer sends.
                `flush` takes no error: it answers that records are left.
            error: By default a timeout, after which `init_`, `commit_` and `abort_transaction` may be resumed.
            before: Whether it fails before it had any effect, or after it took effect (an unknown outcome).
        """
        with self._broker.lock:
            self._broker.fail_next(operation, error, before=before)

    def away(self) -> None:
        """The broker doesn't answer: requests time out, and nothing is read."""
        with self._broker.lock:
            self._broker.is_away = True

    def back(self) -> None:
        """The broker answers again."""
        with self._broker.lock:
            self._broker.is_away = False
