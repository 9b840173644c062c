"""The services of a pipeline, each the real one, stepped by hand on a Kafka in memory.

This is the only module of the package that knows how a service runs: it does what `runtime.process` does, without
threads, HTTP and signals.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from hypervisor_consumers.runtime.kafka.client_config import consumer_settings
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import Assignment
from hypervisor_consumers.runtime.service_copy import Runtime, Service, copy_of
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.wire.codec import EventDecoder
from hypervisor_telemetry.testing.clock import Clock
from hypervisor_telemetry.testing.memory.kafka import MemoryKafka
from hypervisor_telemetry.testing.scrape import MetricSample, scraped

__all__ = ["SteppedService", "settle"]

_BOOTSTRAP_SERVERS = "memory"
_SETTLE_SECONDS = 10.0
"""Real seconds. A settling that takes longer never ends."""


class SteppedService:
    """One copy of a service that has all partitions. Each step takes a commit interval of its own time."""

    def __init__(self, service: Service, kafka: MemoryKafka, clock: Clock, environ: Mapping[str, str]) -> None:
        self.name = service.name
        self._kafka = kafka
        self._exposition = Exposition()
        self._interval_seconds = Settings.COMMIT_INTERVAL.of(environ)
        self._stepped_seconds = 0.0
        prefix = Settings.TOPIC_PREFIX.of(environ)
        group = prefix + service.name
        assignment: Assignment[Any] = Assignment()
        runtime = Runtime(
            kafka,
            consumer_settings({"bootstrap.servers": _BOOTSTRAP_SERVERS}, group),
            prefix,
            EventDecoder(),
            assignment,
            RuntimeMetrics(assignment),
            environ,
            clock=self._step_clock,
            now=clock,
            lease_clock=clock,
        )
        self._copy = copy_of(service, runtime)
        self._copy.broker_monitor.found()  # nobody asks: this Kafka always answers
        self._copy.loop.open()
        self._copy.loop.subscribe()
        kafka.assign_all(group)

    def step(self) -> None:
        """Read, fold and commit once, and restore what was assigned."""
        self._stepped_seconds += self._interval_seconds
        self._copy.loop.turn()
        restorer = self._copy.parts.restorer
        while restorer is not None and restorer.step():
            pass

    @property
    def is_settled(self) -> bool:
        """Whether it is ready, and every record of its partitions is committed and accounted for."""
        return self._copy.health.is_ready and all(
            account is not None
            and account.next_offset == self._kafka.end(*topic_partition)
            and account.difference == 0
            for topic_partition, account in self._copy.runtime.runtime_metrics.accounts().items()
        )

    @property
    def trouble(self) -> str:
        """The reason why it doesn't settle, as sentences."""
        return " ".join(self._copy.health.troubles) or "Records are not accounted for."

    def account(self) -> Counter[str]:
        """Return how many records had which result."""
        results: Counter[str] = Counter()
        for account in self._copy.runtime.runtime_metrics.accounts().values():
            results.update({} if account is None else account.results)
        return results

    def scrape(self, name: str = "") -> list[MetricSample]:
        """Return the samples of the service's own metrics on `/metrics`; with a name, those that may have it."""
        families = [family for family in self._copy.parts.families() if not name or name.startswith(family.name)]
        return scraped(self._exposition, families)

    def _step_clock(self) -> float:
        return self._stepped_seconds

    def close(self) -> None:
        """Leave the group and close the output."""
        self._copy.loop.close()


def settle(services: Sequence[SteppedService], kafka: MemoryKafka, rounds: int = 1) -> None:
    """Step the services until nothing happens any more, `rounds` times at least.

    Raises:
        RuntimeError: A service doesn't commit all that it reads.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        before = kafka.activity
        for service in services:
            service.step()
        rounds -= 1
        if kafka.activity != before or rounds > 0:
            continue
        unsettled = [service for service in services if not service.is_settled]
        if not unsettled:
            return
        # It still restores, or a commit was put off: it is tried again after some steps.
        if time.monotonic() >= deadline:
            [first, *_] = unsettled
            raise RuntimeError(f"{first.name} can't take in what was published. {first.trouble}")
