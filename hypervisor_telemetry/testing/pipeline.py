"""The whole telemetry pipeline in the process of a test, without Kafka: publisher, folds and index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from types import TracebackType
from typing import Any, Never, Self, cast

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.service import IndexService
from hypervisor_consumers.governance_metrics.service import governance_metrics_service
from hypervisor_consumers.ring_metrics.service import ring_metrics_service
from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.runtime.service_copy import Service
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.routes import SagaFilter, open_sagas
from hypervisor_consumers.saga_spans.service import saga_spans_service
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.kafka_producer.owned_producer import ProducerFactory
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.dead_letters import DeadLetter, Header, read_dead_letter
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import DEAD_LETTERS, EVENT_PARTITIONS, TOPICS, partition_of
from hypervisor_telemetry.testing.clock import Clock
from hypervisor_telemetry.testing.indexed_events import IndexedEvents
from hypervisor_telemetry.testing.memory.kafka import MemoryKafka
from hypervisor_telemetry.testing.memory_index import MemoryDatabase
from hypervisor_telemetry.testing.scrape import MetricSample, total
from hypervisor_telemetry.testing.stepper import SteppedService, settle

__all__ = ["Pipeline"]

_FLUSH_SECONDS = 10.0


class Pipeline:
    """A publisher, the four services and an event index in this process, on a Kafka in memory.

    Give `bus` or `publisher` to the code under test, then ask what the fleet would see of it. Every query first
    calls `settle`, so its answer includes all that was published before. Any thread may publish; the queries are
    for one thread. A pipeline has to be closed, as by `with`.

    Args:
        environ: Settings of the publisher and the services, such as `TELEMETRY_SAGA_TIMEOUT`. The process's own
            environment is not used.
        clock: The time of the pipeline; a new `Clock` by default.

    Raises:
        SettingError: A setting is wrong.

    Attributes:
        bus: A `HypervisorEventBus` whose events are published.
        publisher: An `EventPublisher`, for code that takes one.
        clock: The time by which the services expire what is idle and end sagas. Advance it to let time pass.
        events: The events in the index, by the bus's query methods.
    """

    def __init__(self, environ: Mapping[str, str] | None = None, *, clock: Clock | None = None) -> None:
        environ = {} if environ is None else environ
        self.clock = Clock() if clock is None else clock
        self._prefix = Settings.TOPIC_PREFIX.of(environ)
        self._kafka = MemoryKafka(self.clock)
        for topic in TOPICS:
            self._kafka.create_topic(self._prefix + topic.name, topic.partitions)
        self._sink = _SpanSink()
        self._settled_at = self.clock()
        with ExitStack() as stack:
            self._store = EventStore(
                MemoryDatabase(), retention=Settings.INDEX_RETENTION.of(environ), now=self.clock
            )
            stack.callback(self._store.close)
            self.events = IndexedEvents(self._store, self.settle, self.clock)
            self._services = [
                stack.enter_context(closing(SteppedService(service, self._kafka, self.clock, environ)))
                for service in self._make_services(environ)
            ]
            settle(self._services, self._kafka)
            self.publisher = stack.enter_context(
                EventPublisher(
                    "memory", environ=environ, _make_producer=cast("ProducerFactory", self._kafka.prompt_producer)
                )
            )
            self._open = stack.pop_all()
        self.bus = HypervisorEventBus()
        self.publisher.attach(self.bus)

    def _make_services(self, environ: Mapping[str, str]) -> list[Service]:
        saga_spans = saga_spans_service(self._sink, "localhost", environ, self.clock)
        return [
            ring_metrics_service(environ, self.clock),
            replace(saga_spans, routers=self._keep_shown_sagas),
            governance_metrics_service(environ),
            IndexService(self._store),
        ]

    def _keep_shown_sagas(self, shown: Callable[[], Shown[SagaState]], _: object) -> Sequence[Never]:
        self._shown_sagas = shown
        return ()

    def settle(self) -> None:
        """Let the services commit all that was published. Every query does this first.

        Raises:
            RuntimeError: They can't.
        """
        if self.publisher.flush(_FLUSH_SECONDS).pending:
            raise RuntimeError(f"The publisher did not deliver everything within {_FLUSH_SECONDS:g} s.")
        now = self.clock()
        # A service looks for idle rows of one partition at each commit.
        settle(self._services, self._kafka, 1 if now == self._settled_at else EVENT_PARTITIONS)
        self._settled_at = now

    def metrics(self) -> list[MetricSample]:
        """Return the samples on the `/metrics` pages of the four services.

        The runtime's own metrics, such as `hypervisor_telemetry_records_total`, are left out; `accounts` says the
        same.
        """
        self.settle()
        return [sample for service in self._services for sample in service.scrape()]

    def metric(self, name: str, **labels: str) -> float | None:
        """Return the sum of the samples of this name that have these labels; None: there are none."""
        self.settle()
        return total((sample for service in self._services for sample in service.scrape(name)), name, labels)

    @property
    def spans(self) -> list[SagaSpanRecord]:
        """The spans that saga-spans has delivered, in that order."""
        self.settle()
        return list(self._sink.spans)

    @property
    def running_sagas(self) -> list[dict[str, Any]]:
        """The open sagas, the oldest first, as `/v1/sagas` of saga-spans describes them."""
        self.settle()
        return open_sagas(self._shown_sagas().states, self.clock(), SagaFilter.model_validate({}))

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The records that a service could not use, with the reason: one of each service that reads the record."""
        self.settle()
        topic = self._prefix + DEAD_LETTERS
        records = [
            record
            for partition in range(self._kafka.partition_count(topic))
            for record in self._kafka.log(topic, partition)
        ]
        letters = [read_dead_letter(record.key, record.value, record.headers) for record in records]
        return [letter for letter in letters if letter is not None]

    def accounts(self) -> dict[str, Counter[str]]:
        """Return, by service, how many records had which result.

        A result is `applied`, `ignored`, `duplicate`, or the reason of a dead letter. Every record that a service
        reads has exactly one.
        """
        self.settle()
        return {service.name: service.account() for service in self._services}

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        headers: Sequence[Header] | None = None,
    ) -> None:
        """Write a record of any bytes, as a foreign producer may.

        Args:
            topic: The name without the prefix.
            value: The record's value.
            key: The record's key. It decides the partition; a record without one goes to partition 0.
            headers: The record's headers.

        Raises:
            ValueError: There is no such topic.
        """
        names = [one.name for one in TOPICS]
        if topic not in names:
            raise ValueError(f"There is no topic {topic}; name it without the prefix: {', '.join(names)}.")
        topic = self._prefix + topic
        partition = 0 if key is None else partition_of(key, self._kafka.partition_count(topic))
        self._kafka.append(topic, partition, value, key, headers=headers)

    def close(self) -> None:
        """End the publisher and the services; nothing can be asked afterwards."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _SpanSink:
    """A sink that keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[SagaSpanRecord] = []

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        self.spans += outputs
        return ()

    def close(self) -> None:
        """Nothing is to be closed."""
