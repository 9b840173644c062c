"""From a service's parts to a running process: settings, threads, signals, a clean stop."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import fastapi
from prometheus_client.metrics_core import Metric

from hypervisor_consumers.runtime.commit.lease import Lease, boot_clock, lease_of_group
from hypervisor_consumers.runtime.commit.stateful import (
    EXPIRY_INTERVAL_SECONDS,
    Shown,
    StatefulProcessor,
    StatefulTopics,
)
from hypervisor_consumers.runtime.commit.transactions import Transactions
from hypervisor_consumers.runtime.decode.schema_lookup import CachedSchemaLookup
from hypervisor_consumers.runtime.ingest import RecordIngest
from hypervisor_consumers.runtime.kafka.broker_monitor import BrokerMonitor
from hypervisor_consumers.runtime.kafka.client_config import admin_settings, consumer_settings, transaction_settings
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory, LibrdkafkaClientFactory
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.loop import HELD_BACK, ConsumerLoop
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.freshness import Freshness
from hypervisor_consumers.runtime.ops.gc_scheduling import BetweenBatches
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.http import HttpServer, make_app
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.restore import Restorer
from hypervisor_consumers.runtime.processor import Processor
from hypervisor_consumers.runtime.protocols import Fold, Output, OutputCodec, Publish, View
from hypervisor_schemas.connection import kafka_settings, registry_url
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import DEAD_LETTERS
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_schemas.wire.registry import SchemaRegistry

__all__ = ["Parts", "Runtime", "Service", "StatefulService", "run_service"]

log = logging.getLogger(__name__)

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the contract

STOP_WITHIN = 9.0
"""Seconds after which a stop that hangs (Kafka is away) ends the process all the same."""

STALLED_FOR = 120
"""Seconds without a turn of the loop after which the process ends; the next one restores."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What a service's parts are made with."""

    kafka: ClientFactory
    consumer: Mapping[str, Any]
    """The consumer's settings for librdkafka, its group among them."""
    prefix: str
    decoder: EventDecoder
    runtime_metrics: RuntimeMetrics
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    """Seconds since 1970."""
    lease_clock: Callable[[], float] = boot_clock


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs. Topics are full names."""

    processor: Processor
    topics: Sequence[str]
    row_topics: Sequence[str] = ()
    needed: Sequence[str] = ()
    families: Callable[[], Iterable[Metric]] = list
    """The service's own metrics at the time of a scrape."""
    routers: Sequence[fastapi.APIRouter] = ()
    """What it serves beside `/metrics` and the probes."""
    may_show: Callable[[], bool] = lambda: True
    """Whether what belongs to the log may be shown now."""
    restorer: Restorer | None = None
    beside: Mapping[str, Callable[[Callable[[], bool]], None]] = field(default_factory=dict)
    """What runs beside the loop, each on a thread of this name, until it is told to stop."""
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
    """A service with a fold; see `contract`. Topic names are without the prefix."""

    name: str
    source: str
    fold: Fold[S, O]
    families: Callable[[Shown[S]], Iterable[Metric]] = lambda _: ()
    output: Output[O] | None = None
    output_codec: OutputCodec[O] | None = None
    """How outputs that are refused are kept; without it they are only counted and logged."""
    publish: Publish[S] | None = None
    view: View | None = None
    expire_every: float = EXPIRY_INTERVAL_SECONDS
    """Seconds between two looks for a partition's idle rows."""
    routers: Callable[[Callable[[], Shown[S]], Freshness], Sequence[fastapi.APIRouter]] = lambda _, __: ()
    """From what may be shown now, whenever it is called, and how old that is, to what is served besides."""

    def parts(self, runtime: Runtime) -> Parts:
        """The fold on the exactly-once runtime."""
        environ, prefix = runtime.environ, runtime.prefix
        topics = StatefulTopics(
            prefix=prefix,
            source=prefix + self.source,
            state=f"{prefix}state.{self.name}",
            dead_letters=prefix + DEAD_LETTERS,
        )
        rows = [prefix + self.view.topic] if self.view is not None else []
        group = runtime.consumer["group.id"]
        restorer = Restorer(
            runtime.kafka,
            runtime.consumer,
            service=self.name,
            state_topic=topics.state,
            decoder=runtime.decoder,
            clock=runtime.clock,
        )
        # Random: two copies with the same host name and settings must not fence each other.
        producer = transaction_settings(runtime.consumer, f"{group}-{secrets.token_hex(8)}")
        admin = runtime.kafka.admin(admin_settings(runtime.consumer))
        processor: StatefulProcessor[S, O] = StatefulProcessor(
            self.fold,
            service=self.name,
            topics=topics,
            transactions=Transactions(runtime.kafka, producer),
            restorer=restorer,
            lease=Lease(Settings.LEASE.of(environ), runtime.lease_clock),
            find_lease=lambda: lease_of_group(admin, runtime.consumer),
            runtime_metrics=runtime.runtime_metrics,
            window=Settings.DUPLICATE_WINDOW.of(environ),
            seed=secrets.randbits(64),
            now=runtime.now,
            output=self.output,
            output_codec=self.output_codec,
            publish=self.publish,
            view=self.view,
            expire_every=self.expire_every,
        )
        return Parts(
            processor=processor,
            topics=[topics.source, *rows],
            row_topics=rows,
            needed=[topics.state, topics.dead_letters],
            families=lambda: self.families(processor.shown()),
            routers=self.routers(processor.shown, Freshness(topics.source, runtime.runtime_metrics, runtime.now)),
            may_show=processor.may_show,
            restorer=restorer,
        )


def run_service(
    service: Service, *, host: str, port: int, environ: Mapping[str, str], bootstrap_servers: str | None = None
) -> None:
    """Run until SIGTERM or SIGINT; then commit, leave the group.

    Prints one line when its address answers: the service's name, and where.

    Raises:
        SettingError: A setting is missing or wrong.
        KafkaError: Kafka refused for good.
        StateError: What is kept of a partition can't be right.
    """
    with _stopping_on_signals() as stop:
        _run(service, stop, host=host, port=port, environ=environ, bootstrap_servers=bootstrap_servers)


def _run(
    service: Service,
    stop: threading.Event,
    *,
    host: str,
    port: int,
    environ: Mapping[str, str],
    bootstrap_servers: str | None,
) -> None:
    prefix = Settings.TOPIC_PREFIX.of(environ)
    registry = registry_url(environ)
    lookup = CachedSchemaLookup(SchemaRegistry(registry).schema_by_id) if registry else None
    health, runtime_metrics = Health(), RuntimeMetrics()
    dead_letter_rate = DeadLetterRate(Settings.DEAD_LETTER_RATIO.of(environ), Settings.DEAD_LETTER_RUN.of(environ))
    settings = consumer_settings(kafka_settings(environ, bootstrap_servers), prefix + service.name)
    decoder = EventDecoder(lookup)
    kafka = LibrdkafkaClientFactory()
    parts = service.parts(Runtime(kafka, settings, prefix, decoder, runtime_metrics, environ))
    broker_monitor = BrokerMonitor(
        OffsetQueries(kafka, settings),
        settings["bootstrap.servers"],
        health,
        runtime_metrics,
        topics=parts.answers_for,
    )
    ingest = RecordIngest(
        service=service.name,
        row_topics=parts.row_topics,
        processor=parts.processor,
        decoder=decoder,
        health=health,
        dead_letter_rate=dead_letter_rate,
        broker_monitor=broker_monitor,
    )
    garbage = BetweenBatches()
    loop = ConsumerLoop(
        kafka=kafka,
        settings=settings,
        topics=parts.topics,
        row_topics=parts.row_topics,
        needed=parts.needed,
        processor=parts.processor,
        ingest=ingest,
        health=health,
        runtime_metrics=runtime_metrics,
        dead_letter_rate=dead_letter_rate,
        broker_monitor=broker_monitor,
        commit_interval=Settings.COMMIT_INTERVAL.of(environ),
        between_turns=garbage.look,
    )

    def self_metrics() -> Iterable[Metric]:
        return runtime_metrics.families(
            now=time.time(),
            dead_letter_rate=bool(dead_letter_rate.sentence),
            degraded=bool(health.troubles),
            ready=health.is_ready,
            held=health.is_in_trouble(HELD_BACK),
            may_show=parts.may_show(),
        )

    def families() -> Iterable[Metric]:
        return [*parts.families(), *self_metrics()]

    app = make_app(service.name, health, families, parts.routers, parts.may_show)
    server = HttpServer(app, host, port)
    print(f"{service.name} {server.url}", flush=True)  # noqa: T201 - for the person, or program, that started it
    ended = threading.Event()
    runs: dict[str, Callable[[Callable[[], bool]], None]] = {
        "watchdog": partial(_end_a_stalled_process, health),
        "watch": broker_monitor.run,
        **parts.beside,
    }
    if parts.restorer is not None:
        runs["restorer"] = parts.restorer.run
    threads = [
        threading.Thread(target=_run_or_end, args=(run, ended.is_set), name=name, daemon=True)
        for name, run in runs.items()
    ]
    for thread in threads:
        thread.start()
    try:
        loop.run(stop.is_set)
    finally:
        ended.set()
        garbage.end()
        server.close()
    log.info("%s has left its group and stops", service.name)


def _run_or_end(run: Callable[[Callable[[], bool]], None], should_stop: Callable[[], bool]) -> None:
    try:
        run(should_stop)
    except Exception:
        # Without it the service would look alive and do half of its work; the next process begins anew.
        log.exception("A thread of the service has failed; the process ends.")
        sys.stderr.flush()
        os._exit(1)


def _end_a_stalled_process(health: Health, should_stop: Callable[[], bool]) -> None:
    stalled_for = 0
    while not should_stop():
        # A tick. Counted, not timed by the clock: a process that was frozen as a whole has not stalled.
        time.sleep(1.0)
        stalled_for = 0 if health.is_alive else stalled_for + 1
        if stalled_for >= STALLED_FOR:
            log.error("The consumer loop has not turned for minutes; the process ends, the next one restores.")
            sys.stderr.flush()
            os._exit(1)


@contextmanager
def _stopping_on_signals() -> Iterator[threading.Event]:
    """Gives an event that SIGTERM and SIGINT set."""
    stop, ended = threading.Event(), threading.Event()
    # A handler in Python would run only when the main thread's call of librdkafka, 5 s perhaps, has returned; the
    # number of the signal is written at once, whichever thread it comes to. (To block signals instead would take
    # all threads: numpy has some of its own from its import on.)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old_writer = signal.set_wakeup_fd(writer)
    # A background shell may have one ignored.
    handlers = {number: signal.signal(number, _is_noted) for number in (signal.SIGTERM, signal.SIGINT)}

    def wait() -> None:
        while number := os.read(reader, 1):
            if number[0] in handlers:
                stop.set()
                if not ended.wait(STOP_WITHIN):
                    _give_up()

    waiter = threading.Thread(target=wait, name="signals", daemon=True)
    waiter.start()
    try:
        yield stop
    finally:
        ended.set()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old_writer)
        os.close(writer)
        waiter.join()
        os.close(reader)


def _is_noted(_number: int, _frame: object) -> None:
    """The signal has been written to the pipe."""


def _give_up() -> None:
    """Nothing is lost: what was not committed is read again by the next copy."""
    log.warning("The stop took longer than %d s (is Kafka away?); leaving without it.", STOP_WITHIN)
    sys.stderr.flush()
    os._exit(0)
