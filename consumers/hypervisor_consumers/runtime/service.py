"""From a service's parts to a running process: settings, threads, signals, a clean stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import fastapi
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hypervisor_consumers.runtime.client import consumer_settings
from hypervisor_consumers.runtime.health import Health
from hypervisor_consumers.runtime.http import HttpServer, make_app
from hypervisor_consumers.runtime.loop import ConsumerLoop
from hypervisor_consumers.runtime.patience import PatientLookup
from hypervisor_consumers.runtime.processor import Processor
from hypervisor_schemas.codec import EventDecoder
from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.registry import SchemaRegistry
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import topic_names

__all__ = ["Service", "run_service"]

log = logging.getLogger(__name__)

STOP_WITHIN = 9.0
"""Seconds after which a stop that hangs (Kafka is away) ends the process all the same."""


@dataclass(frozen=True, slots=True)
class Service:
    """A service's parts. `topics` are names without the prefix; its group id is the prefix and the name."""

    name: str
    topics: Sequence[str]
    processor: Processor
    families: Callable[[], Iterable[Metric]] = list
    """The service's own metrics at the time of a scrape."""
    routers: Sequence[fastapi.APIRouter] = field(default_factory=list)


def run_service(
    service: Service, *, host: str, port: int, environ: Mapping[str, str], bootstrap_servers: str | None = None
) -> None:
    """Run until SIGTERM or SIGINT; then deliver, commit, leave the group.

    Prints one line when its address answers: the service's name, and where.

    Raises:
        SettingError: A setting is missing or wrong.
        KafkaError: Kafka refused for good.
    """
    prefix = Settings.TOPIC_PREFIX.of(environ)
    registry_url = environ.get("SCHEMA_REGISTRY_URL")
    lookup = PatientLookup(SchemaRegistry(registry_url).schema_by_id) if registry_url else None
    health = Health()
    loop = ConsumerLoop(
        settings=consumer_settings(kafka_settings(environ, bootstrap_servers), prefix + service.name),
        topics=topic_names(prefix, service.topics),
        processor=service.processor,
        decoder=EventDecoder(lookup),
        health=health,
        commit_interval=Settings.COMMIT_INTERVAL.of(environ),
    )
    stop = _stop_on_signals()
    collectors = [
        _Families(service.families),
        _Families(lambda: loop.ledger.families(degraded=bool(health.troubles))),
    ]
    server = HttpServer(make_app(service.name, health, collectors, service.routers), host, port)
    print(f"{service.name} {server.url}", flush=True)  # noqa: T201 - for the person, or program, that started it
    try:
        loop.run(stop.is_set)
    finally:
        server.close()
    log.info("%s has left its group and stops", service.name)


class _Families(Collector):
    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def begin(_number: int, _frame: object) -> None:
        # No logging here: the signal may have come in the middle of a line.
        if not stop.is_set():
            deadline = threading.Timer(STOP_WITHIN, _give_up)
            deadline.daemon = True
            deadline.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, begin)
    return stop


def _give_up() -> None:
    """Nothing is lost: what was not committed is read again by the next copy."""
    log.warning("The stop took longer than %d s (is Kafka away?); leaving without it.", STOP_WITHIN)
    sys.stderr.flush()
    os._exit(0)
