"""A service as a running process: settings, threads, signals, a clean stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from hypervisor_consumers.runtime.decode.schema_lookup import CachedSchemaLookup
from hypervisor_consumers.runtime.kafka.client_config import consumer_settings
from hypervisor_consumers.runtime.kafka.client_factory import LibrdkafkaClientFactory
from hypervisor_consumers.runtime.ops.gc_scheduling import BetweenBatches
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.http import HttpServer, make_app
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.service_copy import Runtime, Service, copy_of
from hypervisor_schemas.connection import kafka_settings, registry_url
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_schemas.wire.registry import SchemaRegistry

__all__ = ["run_service"]

log = logging.getLogger(__name__)

STOP_SECONDS = 9.0
"""Seconds after which a stop that hangs (Kafka is away) ends the process all the same."""

STALLED_SECONDS = 120
"""Seconds without a turn of the loop after which the process ends; the next one restores."""


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
    settings = consumer_settings(kafka_settings(environ, bootstrap_servers), prefix + service.name)
    assignment: Assignment[Any] = Assignment()
    runtime = Runtime(
        LibrdkafkaClientFactory(),
        settings,
        prefix,
        EventDecoder(lookup),
        assignment,
        RuntimeMetrics(assignment),
        environ,
    )
    garbage = BetweenBatches()
    copy = copy_of(service, runtime, between_turns=garbage.look)
    parts, health = copy.parts, copy.health
    app = make_app(service.name, health, copy.families, parts.routers, parts.may_show)
    server = HttpServer(app, host, port)
    print(f"{service.name} {server.url}", flush=True)  # noqa: T201 - for the person, or program, that started it
    ended = threading.Event()
    runs: dict[str, Callable[[Callable[[], bool]], None]] = {
        "watchdog": partial(_end_a_stalled_process, health),
        "watch": copy.broker_monitor.run,
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
        copy.loop.run(stop.is_set)
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
        time.sleep(1.0)  # a tick; counted, as a process that was frozen as a whole has not stalled
        stalled_for = 0 if health.is_alive else stalled_for + 1
        if stalled_for >= STALLED_SECONDS:
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
                if not ended.wait(STOP_SECONDS):
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
    log.warning("The stop took longer than %d s (is Kafka away?); leaving without it.", STOP_SECONDS)
    sys.stderr.flush()
    os._exit(0)
