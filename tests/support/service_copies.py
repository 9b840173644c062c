"""Copies of a stateful service in this process, stepped by hand, on a Kafka in memory or on a real one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypervisor_consumers.ring_metrics.fold.agent_rings import AgentRingsView, publish_agent_rings
from hypervisor_consumers.ring_metrics.fold.batch_fold import RingBatchFold
from hypervisor_consumers.ring_metrics.fold.state import RingState
from hypervisor_consumers.runtime.commit.stateful_processor import StatefulProcessor
from hypervisor_consumers.runtime.kafka.client_config import consumer_settings
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.service_copy import Runtime, StatefulService, copy_of
from hypervisor_schemas.wire.codec import EventDecoder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Never

    from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
    from hypervisor_consumers.runtime.partitions.fold_partition import FoldPartition
    from hypervisor_consumers.runtime.records import TopicPartition

SOURCE, STATE, RINGS, DEAD_LETTERS = "events.ring", "state.ring-metrics", "agent-rings", "dead-letters"


@dataclass
class Clock:
    """All clocks at once: it stands still until it is advanced."""

    time: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


class HookedKafka:
    """A Kafka whose transactional producers call `hooks[operation](proceed)` in place of an operation."""

    def __init__(self, kafka: ClientFactory) -> None:
        self._kafka = kafka
        self.hooks: dict[str, Callable[[Callable[[], Any]], Any]] = {}
        self.calls: list[str] = []

    def consumer(self, settings: Mapping[str, Any]) -> Any:
        return self._kafka.consumer(settings)

    def admin(self, settings: Mapping[str, Any]) -> Any:
        return self._kafka.admin(settings)

    def producer(self, settings: Mapping[str, Any]) -> Any:
        return _HookedProducer(self._kafka.producer(settings), self)

    def once(self, operation: str, hook: Callable[[Callable[[], Any]], Any]) -> None:
        """Hook the next call only."""

        def hook_once(proceed: Callable[[], Any]) -> Any:
            del self.hooks[operation]
            return hook(proceed)

        self.hooks[operation] = hook_once


@dataclass
class _HookedProducer:
    producer: Any
    kafka: HookedKafka

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.producer, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name != "produce":
                self.kafka.calls.append(name)
            hook = self.kafka.hooks.get(name)
            if hook is None:
                return method(*arguments, **options)
            return hook(lambda: method(*arguments, **options))

        return call


@dataclass
class Copy:
    """One copy of ring-metrics."""

    kafka: ClientFactory
    prefix: str = ""
    bootstrap_servers: str = "memory"
    clock: Clock | None = None
    """The clock of everything; None: the machine's clocks."""
    environ: Mapping[str, str] = field(default_factory=dict)
    fold: RingBatchFold = field(default_factory=RingBatchFold)

    def __post_init__(self) -> None:
        service: StatefulService[RingState, Never] = StatefulService(
            name="ring-metrics",
            source=SOURCE,
            fold=self.fold,
            publish=publish_agent_rings,
            view=AgentRingsView(),
        )
        settings = consumer_settings({"bootstrap.servers": self.bootstrap_servers}, f"{self.prefix}ring-metrics")
        environ = {"TELEMETRY_LEASE": "5", "TELEMETRY_COMMIT_INTERVAL": "0.05", **self.environ}
        clocks = {} if self.clock is None else dict.fromkeys(("clock", "now", "lease_clock"), self.clock)
        self.assignment: Assignment[Any] = Assignment()
        self.runtime_metrics = RuntimeMetrics(self.assignment)
        runtime = Runtime(
            self.kafka,
            settings,
            self.prefix,
            EventDecoder(),
            self.assignment,
            self.runtime_metrics,
            environ,
            **clocks,
        )
        copy = copy_of(service, runtime)
        assert isinstance(copy.parts.processor, StatefulProcessor)
        assert copy.parts.restorer is not None
        self.processor: StatefulProcessor[RingState, Never] = copy.parts.processor
        self.restorer = copy.parts.restorer
        self.health, self.broker_monitor, self.loop = copy.health, copy.broker_monitor, copy.loop
        self.loop._schedule.interval = 0.0
        self.loop.open()
        self.loop.subscribe()

    @property
    def consumer(self) -> Any:
        return self.loop._consumer

    @property
    def live(self) -> set[TopicPartition]:
        """The partitions that are read."""
        return {one.topic_partition for one in self.assignment.read()}

    def folds(self) -> list[FoldPartition[RingState, Never]]:
        """The partitions of events that are read."""
        return [one.content for one in self.assignment.events_read()]

    def step(self) -> None:
        self.loop.turn()
        while self.restorer.step():
            pass

    def counts(self) -> Counter[str]:
        """Events by session, as shown."""
        counts: Counter[str] = Counter()
        for state in self.processor.shown().states.values():
            for (_, session), series in state.series.present():
                counts[session] += sum(series.transitions) + series.breaches
        return counts

    def results(self) -> Counter[str]:
        """The results of the offsets, over the partitions of this copy."""
        results: Counter[str] = Counter()
        for fold in self.folds():
            account = fold.partition.account
            results.update(account.results)
            assert account.difference == 0
        return results
