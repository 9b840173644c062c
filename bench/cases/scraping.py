"""The cost of one scrape of `ring-metrics`, beside prometheus-client with the same series."""

from __future__ import annotations

import gc
import gzip
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

from bench.row import Row
from bench.setting import Setting, in_turn, seconds_of
from hypervisor_consumers.ring_metrics.metric_defs import (
    CURRENT_RING,
    ELEVATION_DURATION,
    ELEVATIONS_ACTIVE,
    RING_BREACHES,
    RING_TRANSITIONS,
)
from hypervisor_consumers.ring_metrics.service import ring_metrics_service
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import partition_of
from hypervisor_schemas.wire.codec import encode_event
from hypervisor_telemetry.testing.memory.kafka import MemoryKafka
from tests.support.service_copies import DEAD_LETTERS, RINGS, SOURCE, STATE, Copy

THEIRS = "prometheus-client generate_latest"
PARTITIONS = 8
SERIES = 100_000
CHANGED = 10_000
"""Sessions with an event between two scrapes."""

BREACH = EventType.RING_BREACH_DETECTED
KINDS = (
    (EventType.RING_ASSIGNED, 1.0),
    (EventType.RING_ELEVATED, 0.5),
    (EventType.RING_DEMOTED, 0.4),
    (BREACH, 0.1),
)
"""The share of sessions that have events of each type."""


def measure(setting: Setting) -> Iterable[Row]:
    disable_created_metrics()
    for agents in (5_000, 1_000) if setting.full else (5_000,):
        yield from _rows(setting, agents)


def _rows(setting: Setting, agents: int) -> Iterable[Row]:
    setting.say(f"{SERIES:,} series of {agents:,} agents")
    agency, theirs = Agency(agents), Theirs()
    ours = Ours()
    theirs.take(ours.take(agency.beginnings()))
    # As the service has it, and for both: garbage is not collected in the middle of a scrape.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        first = seconds_of(ours.scrape)
        works = {
            "ours": _scraped(ours.scrape),
            "theirs": _scraped(lambda: generate_latest(theirs.registry)),
            "ours, gzip": _scraped(lambda: gzip.compress(ours.scrape(), 1, mtime=0)),
            # As its own handler does it.
            "theirs, gzip": _scraped(lambda: gzip.compress(generate_latest(theirs.registry))),
        }

        def after_changes(work: Callable[[], float]) -> Callable[[], float]:
            def run() -> float:
                theirs.take(ours.take(agency.goes_on(CHANGED)))
                return work()

            return run

        figures = in_turn(setting.rounds, {name: after_changes(work) for name, work in works.items()}, setting.say)
    finally:
        gc.enable()
        gc.unfreeze()
    series = ours.scrape().count(b"\nagent_hypervisor_ring_")
    note = (
        f"{series:,} series of {agents:,} agents in {agency.sessions:,} sessions; {CHANGED:,} sessions had an "
        "event since the scrape before. Both without a garbage collection in between."
    )
    what = f"a scrape of {SERIES:,} series, {agents:,} agents"
    yield Row(what, "ms", figures["ours"], THEIRS, figures["theirs"], 15, 30, note)
    yield Row(
        f"{what}, gzip",
        "ms",
        figures["ours, gzip"],
        f"{THEIRS}, gzip",
        figures["theirs, gzip"],
        note="Ours at level 1, theirs at its handler's level 9.",
    )
    yield Row(f"{what}, the first", "ms", [first * 1000])


def _scraped(work: Callable[[], object]) -> Callable[[], float]:
    return lambda: seconds_of(work) * 1000


@dataclass(frozen=True)
class Event:
    """An event for both sides."""

    kind: EventType
    agent: str
    session: str
    ring: int


class Agency:
    """Agents with sessions, in each of which the same types of events come again and again."""

    def __init__(self, agents: int) -> None:
        self._random = random.Random(agents)  # noqa: S311 - nothing to guess here
        self._sessions: list[tuple[str, str, list[EventType]]] = []
        series = 0
        for number in count():
            if series >= SERIES:
                break
            kinds = [kind for kind, share in KINDS if self._random.random() < share]
            agent = self._random.randrange(agents)
            self._sessions.append((f"did:mesh:{agent:032x}", f"session-{number:08d}", kinds))
            series += len(kinds)
        self.sessions = len(self._sessions)

    def beginnings(self) -> Sequence[Event]:
        """One event for each series."""
        return [self._event(kind, agent, session) for agent, session, kinds in self._sessions for kind in kinds]

    def goes_on(self, sessions: int) -> Sequence[Event]:
        """An event in so many sessions; no new series."""
        chosen = self._random.sample(self._sessions, sessions)
        return [self._event(self._random.choice(kinds), agent, session) for agent, session, kinds in chosen]

    def _event(self, kind: EventType, agent: str, session: str) -> Event:
        return Event(kind, agent, session, self._random.randrange(4))


class Ours:
    """A copy of the service on a Kafka in memory."""

    def __init__(self) -> None:
        self._kafka = MemoryKafka(time.time)
        for topic in (SOURCE, STATE, RINGS, DEAD_LETTERS):
            self._kafka.create_topic(topic, PARTITIONS)
        self._copy = Copy(self._kafka, environ={"TELEMETRY_LEASE": "3600"})
        self._kafka.rebalance({self._copy.consumer: [(t, p) for t in (SOURCE, RINGS) for p in range(PARTITIONS)]})
        self._service = ring_metrics_service({})
        self._exposition = Exposition()
        self._published = 0

    def take(self, events: Sequence[Event]) -> Sequence[Event]:
        """Returns when they are committed, and back in the rows of the agents."""
        for event in events:
            made = HypervisorEvent(
                event_type=event.kind,
                agent_did=event.agent,
                session_id=event.session,
                payload={} if event.kind is BREACH else {"ring": event.ring},
            )
            partition = partition_of(event.session.encode(), PARTITIONS)
            self._kafka.append(SOURCE, partition, encode_event(made), key=event.session.encode())
        self._published += len(events)
        while self._copy.results().total() < self._published:
            self._copy.step()
        while self._rows_behind():
            self._copy.step()
        return events

    def _rows_behind(self) -> bool:
        tables = [(one.topic_partition, one.content) for one in self._copy.assignment.read() if one.is_table]
        return any(rows.next_offset < len(self._kafka.log(*table)) - 1 for table, rows in tables)

    def scrape(self) -> bytes:
        """The body of `/metrics`."""
        own = self._service.families(self._copy.processor.shown())
        of_runtime = self._copy.runtime_metrics.families(now=time.time(), dead_letter_rate=False, degraded=False)
        text, _ = self._exposition.write([*own, *of_runtime], "")
        return text


class Theirs:
    """The same numbers in a registry of prometheus-client."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._transitions = Counter(
            RING_TRANSITIONS.name, RING_TRANSITIONS.help, RING_TRANSITIONS.labels, registry=self.registry
        )
        self._breaches = Counter(
            RING_BREACHES.name, RING_BREACHES.help, RING_BREACHES.labels, registry=self.registry
        )
        self._ring, self._duration, self._active = (
            Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
            for metric in (CURRENT_RING, ELEVATION_DURATION, ELEVATIONS_ACTIVE)
        )
        self._began = time.time()

    def take(self, events: Sequence[Event]) -> None:
        """Count them."""
        for event in events:
            if event.kind is BREACH:
                self._breaches.labels(event.agent, event.session).inc()
                continue
            self._transitions.labels(event.kind.value, event.agent, event.session).inc()
            self._ring.labels(event.agent).set(event.ring)
            if event.kind is EventType.RING_ELEVATED:
                self._duration.labels(event.agent).set(time.time() - self._began)
                self._active.labels(event.agent).set(1)
