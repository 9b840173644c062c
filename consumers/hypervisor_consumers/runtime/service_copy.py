"""One copy of a service, wired and not running yet: its parts, and the loop that drives them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import fastapi
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.commit.changeset import ServiceTopics
from hypervisor_consumers.runtime.commit.lease import Lease, boot_clock, lease_of_group
from hypervisor_consumers.runtime.commit.schedule import CommitSchedule
from hypervisor_consumers.runtime.commit.stateful_processor import (
    EXPIRY_INTERVAL_SECONDS,
    FoldService,
    StatefulProcessor,
)
from hypervisor_consumers.runtime.commit.transactions import Transactions
from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.ingest import RecordIngest
from hypervisor_consumers.runtime.kafka.client_config import admin_settings, transaction_settings
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.loop import HELD_BACK, ConsumerLoop, Subscription
from hypervisor_consumers.runtime.ops.broker_monitor import BrokerMonitor
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.freshness import Freshness
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.partitions.restore import Restorer
from hypervisor_consumers.runtime.processor import Processor, Roles
from hypervisor_consumers.runtime.protocols import Fold, Output, OutputCodec, Publish, View
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import DEAD_LETTERS
from hypervisor_schemas.wire.codec import EventDecoder

__all__ = ["Parts", "Runtime", "Service", "ServiceCopy", "StatefulService", "copy_of"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols


@dataclass(frozen=True, slots=True)
class Runtime:
    """The means that a service's parts are made with."""

    clients: ClientFactory
    consumer: Mapping[str, Any]
    """The consumer's settings for librdkafka, its group among them."""
    prefix: str
    decoder: EventDecoder
    assignment: Assignment[Any]
    runtime_metrics: RuntimeMetrics
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    lease_clock: Callable[[], float] = boot_clock


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one copy. Topics are full names."""

    processor: Processor
    topics: Sequence[str]
    roles: Roles = field(default_factory=Roles)
    """The roles that the service has beside its processor."""
    tables: Sequence[str] = ()
    """The topics among them that hold rows of public tables, not events."""
    needed: Sequence[str] = ()
    families: Callable[[], Iterable[Metric]] = list
    """The service's own metrics at the time of a scrape."""
    routers: Sequence[fastapi.APIRouter] = ()
    """Routes beside `/metrics` and the probes."""
    may_show: Callable[[], bool] = lambda: True
    """Whether what belongs to the log may be shown now."""
    restorer: Restorer | None = None
    beside: Mapping[str, Callable[[Callable[[], bool]], None]] = field(default_factory=dict)
    """Functions that run beside the loop, each on a thread of this name, until told to stop."""
    answers_for: Sequence[str] = ()
    """Topics of which it answers for every partition, also for those that other copies read."""


class Service(Protocol):
    """A service, not running yet."""

    @property
    def name(self) -> str:
        """Its command; with the prefix, its group id."""
        ...

    def parts(self, runtime: Runtime) -> Parts:
        """Its parts. Nothing is connected yet."""
        ...


@dataclass(frozen=True, slots=True)
class StatefulService(Generic[S, O]):
    """A service with a fold; see `protocols`. Topic names are without the prefix."""

    name: str
    source: str
    fold: Fold[S, O]
    families: Callable[[Shown[S]], Iterable[Metric]] = lambda _: ()
    output: Output[O] | None = None
    output_codec: OutputCodec[O] | None = None
    """Keeps refused outputs as dead letters; without it they are only counted and logged."""
    publish: Publish[S] | None = None
    view: View | None = None
    expire_every: float = EXPIRY_INTERVAL_SECONDS
    """Seconds between two looks for a partition's idle rows."""
    routers: Callable[[Callable[[], Shown[S]], Freshness], Sequence[fastapi.APIRouter]] = lambda _, __: ()
    """Makes the routes that are served besides, from what may be shown whenever it is asked, and its freshness."""

    def parts(self, runtime: Runtime) -> Parts:
        """The fold on the exactly-once runtime."""
        environ, prefix = runtime.environ, runtime.prefix
        topics = ServiceTopics(
            prefix=prefix,
            source=prefix + self.source,
            state=f"{prefix}state.{self.name}",
            dead_letters=prefix + DEAD_LETTERS,
        )
        tables = [prefix + self.view.topic] if self.view is not None else []
        # Random: two copies with the same host name and settings must not fence each other.
        transactional_id = f"{runtime.consumer['group.id']}-{secrets.token_hex(8)}"
        producer = transaction_settings(runtime.consumer, transactional_id)
        hanging = HangingTransactions(runtime.clients, runtime.consumer, producer)
        restorer = Restorer(
            runtime.clients,
            runtime.consumer,
            service=self.name,
            state_topic=topics.state,
            decoder=runtime.decoder,
            hanging=hanging,
            clock=runtime.clock,
        )
        admin = runtime.clients.admin(admin_settings(runtime.consumer))
        service = FoldService(
            self.name,
            self.fold,
            self.output,
            self.output_codec,
            self.publish,
            self.view,
            window=Settings.DUPLICATE_WINDOW.of(environ),
            seed=secrets.randbits(64),
            expire_every=self.expire_every,
        )
        processor: StatefulProcessor[S, O] = StatefulProcessor(
            service,
            topics=topics,
            assignment=runtime.assignment,
            transactions=Transactions(runtime.clients, producer, hanging),
            hanging=hanging,
            restorer=restorer,
            lease=Lease(Settings.LEASE.of(environ), runtime.lease_clock),
            find_lease=lambda: lease_of_group(admin, runtime.consumer),
            runtime_metrics=runtime.runtime_metrics,
            now=runtime.now,
        )
        return Parts(
            processor=processor,
            roles=processor.roles,
            topics=[topics.source, *tables],
            tables=tables,
            needed=[topics.state, topics.dead_letters],
            families=lambda: self.families(processor.shown()),
            routers=self.routers(processor.shown, Freshness(topics.source, runtime.runtime_metrics, runtime.now)),
            may_show=processor.may_show,
            restorer=restorer,
        )


@dataclass(frozen=True, slots=True)
class ServiceCopy:
    """One copy of a service. Its loop, its monitor and its restorer each want a thread, or are stepped by hand."""

    name: str
    runtime: Runtime
    parts: Parts
    loop: ConsumerLoop
    broker_monitor: BrokerMonitor
    health: Health
    dead_letter_rate: DeadLetterRate

    def families(self) -> Iterable[Metric]:
        """All metrics of a scrape: the service's own, and those of the runtime."""
        runtime_families = self.runtime.runtime_metrics.families(
            now=self.runtime.now(),
            dead_letter_rate=bool(self.dead_letter_rate.sentence),
            degraded=bool(self.health.troubles),
            ready=self.health.is_ready,
            held=self.health.is_in_trouble(HELD_BACK),
            may_show=self.parts.may_show(),
        )
        return [*self.parts.families(), *runtime_families]


def copy_of(service: Service, runtime: Runtime, *, between_turns: Callable[[], None] = lambda: None) -> ServiceCopy:
    """Wire one copy of a service. Nothing is connected yet.

    Raises:
        SettingError: A setting is wrong.
    """
    environ, clock = runtime.environ, runtime.clock
    health = Health(clock)
    dead_letter_rate = DeadLetterRate(Settings.DEAD_LETTER_RATIO.of(environ), Settings.DEAD_LETTER_RUN.of(environ))
    parts = service.parts(runtime)
    broker_monitor = BrokerMonitor(
        OffsetQueries(runtime.clients, runtime.consumer),
        runtime.consumer["bootstrap.servers"],
        health,
        runtime.runtime_metrics,
        runtime.assignment,
        topics=parts.answers_for,
        now=runtime.now,
    )
    ingest = RecordIngest(
        service=service.name,
        processor=parts.processor,
        roles=parts.roles,
        assignment=runtime.assignment,
        decoder=runtime.decoder,
        health=health,
        dead_letter_rate=dead_letter_rate,
        clock=clock,
    )
    loop = ConsumerLoop(
        clients=runtime.clients,
        subscription=Subscription(runtime.consumer, parts.topics, parts.tables, parts.needed),
        processor=parts.processor,
        lease=parts.roles.lease,
        ingest=ingest,
        assignment=runtime.assignment,
        health=health,
        runtime_metrics=runtime.runtime_metrics,
        dead_letter_rate=dead_letter_rate,
        broker_monitor=broker_monitor,
        schedule=CommitSchedule(Settings.COMMIT_INTERVAL.of(environ), clock),
        clock=clock,
        between_turns=between_turns,
    )
    return ServiceCopy(service.name, runtime, parts, loop, broker_monitor, health, dead_letter_rate)
