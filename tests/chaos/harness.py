"""A load with a known truth, and a monitor that scrapes all copies and finds numbers that must not be shown."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self, TypeAlias

import httpx
from confluent_kafka import Producer
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_consumers.ring_metrics.fold.agent_rings import agent_rings, current_rings, elevations_active
from hypervisor_consumers.ring_metrics.fold.event_fold import RING_EVENT_TYPES, TRANSITION_TYPES, RingFold
from hypervisor_consumers.ring_metrics.fold.state import RingState
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.topics import category_of, record_key
from hypervisor_schemas.wire.codec import encode_event
from tests.support.service_processes import eventually

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from random import Random

    from hypervisor_schemas.events import EventType
    from tests.support.service_processes import Fleet, RunningService

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
BREACHES = "agent_hypervisor_ring_breaches_total"
CURRENT = "agent_hypervisor_ring_current"
ACTIVE = "agent_hypervisor_ring_elevations_active"
ENDED = "agent_hypervisor_ring_elevation_seconds_count"
GOVERNANCE = tuple(
    f"agent_governance_{name}"
    for name in (
        *(
            "policy_decisions_total",
            "tool_calls_allowed_total",
            "tool_calls_blocked_total",
            "rate_limit_hits_total",
        ),
        *("audit_events_total", "denials_total", "evaluation_latency_ms_bucket", "evaluation_latency_ms_sum"),
    )
)
TRUST, ACTIVE_AGENTS = "agent_governance_trust_score", "agent_governance_active_agents"
COUNTERS = (TRANSITIONS, BREACHES, "agent_hypervisor_ring_elevation_seconds_bucket", ENDED, *GOVERNANCE)
PER_AGENT = (CURRENT, ACTIVE, TRUST, ACTIVE_AGENTS)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SESSIONS, AGENTS = 120, 30
ALL_LABELS = "event_type,agent_did,session_id"

Series: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
"""A series: its metric, and its labels with their values."""


def ring_events(random: Random, count: int) -> Iterator[HypervisorEvent]:
    """Generate events of agents that change their rings in sessions; every agent is in several."""
    for second in range(count):
        yield _ring_event(
            random, random.choice(RING_EVENT_TYPES), random.randrange(SESSIONS), random.randrange(3), second
        )


def one_event_per_series(random: Random) -> Iterator[HypervisorEvent]:
    """Generate an event for every series that `ring_events` can make."""
    for kind in RING_EVENT_TYPES:
        for session in range(SESSIONS):
            for agent in range(3):
                yield _ring_event(random, kind, session, agent, 0)


def _ring_event(random: Random, kind: EventType, session: int, agent: int, second: int) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=f"{random.getrandbits(64):016x}",
        event_type=kind,
        # Clocks differ: time doesn't always go on.
        timestamp=NOON + timedelta(seconds=second + random.randrange(-20, 20)),
        session_id=f"s{session}",
        agent_did=f"did:{(session + agent) % AGENTS}",
        payload={"to_ring": random.randrange(4)},
    )


@dataclass
class Truth:
    """The numbers that must be shown in the end, computed by the fold in this process."""

    counters: dict[Series, float] = field(default_factory=dict)
    agents: dict[Series, float] = field(default_factory=dict)
    ended: int = 0
    metrics: tuple[str, ...] = (TRANSITIONS, BREACHES, CURRENT, ACTIVE)
    """The metrics that are compared."""

    @classmethod
    def of(cls, events: Iterable[HypervisorEvent], labels: str = ALL_LABELS) -> Self:
        """Fold the events; labels that are left out are summed away, over the partitions too."""
        fold = RingFold()
        state = fold.new_state()
        for event in events:
            fold.apply(state, event)
        return cls.of_states([state], labels)

    @classmethod
    def of_states(cls, states: Collection[RingState], labels: str = ALL_LABELS) -> Self:
        truth = cls()
        counters: Counter[Series] = Counter()
        of_all = [item for state in states for item in state.series.present()]
        for (agent, session), series in of_all:
            who = {"agent_did": agent, "session_id": session}
            for kind, count in zip(TRANSITION_TYPES, series.transitions, strict=True):
                counters[TRANSITIONS, _selected_labels({**who, "event_type": kind}, labels)] += count
            counters[BREACHES, _selected_labels(who, labels)] += series.breaches
        truth.counters = {series: count for series, count in counters.items() if count}
        rows = agent_rings(of_all)
        for name, values in ((CURRENT, current_rings(rows)), (ACTIVE, elevations_active(rows))):
            truth.agents |= {(name, (("agent_did", agent),)): value for agent, value in values.items()}
        truth.ended = sum(bucket.count for state in states for _, bucket in state.elevations.present())
        return truth

    def sums(self, *metrics: str) -> dict[str, float]:
        return {metric: sum(v for series, v in self.counters.items() if series[0] == metric) for metric in metrics}


def _selected_labels(labels: dict[str, str], kept: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in labels.items() if name in kept.split(",")))


class Load:
    """Publishes records of events from a thread, at a bounded rate, in their order."""

    def __init__(
        self, fleet: Fleet, records: Iterable[tuple[bytes | None, bytes]], per_second: int, category: str = "ring"
    ) -> None:
        self._fleet = fleet
        self._category = category
        self._records = list(records)
        self._per_second = per_second
        self._pace = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self.left = len(self._records)

    @classmethod
    def of_events(cls, fleet: Fleet, events: Iterable[HypervisorEvent], per_second: int) -> Self:
        return cls(fleet, map(record_of, events), per_second)

    def start(self) -> Self:
        self._thread.start()
        return self

    @property
    def is_over(self) -> bool:
        """Whether Kafka has all of it."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._fleet.bootstrap_servers,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "message.timeout.ms": 0,
                "log_level": 0,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        topic, began = self._fleet.topic(self._category), time.monotonic()
        for n, (key, value) in enumerate(self._records):
            if n % 200 == 0:
                producer.poll(0)
                self._pace.wait(max(0.0, began + n / self._per_second - time.monotonic()))
            producer.produce(topic, value, key)
        while producer.flush(10):
            pass
        self.left = 0


def record_of(event: HypervisorEvent) -> tuple[bytes | None, bytes]:
    key = record_key(category_of(event.event_type.value), event.session_id, event.agent_did, event.event_id)
    return key, encode_event(event)


class MetricsMonitor:
    """Scrapes every copy in turn, over and over, and records the values that must never have been shown.

    Add a copy that starts later; one that has ended doesn't answer. Every scrape ends before the next begins, so a
    later value must not be below an earlier one, on whichever copy.
    """

    def __init__(self, copies: Iterable[RunningService] = ()) -> None:
        self.copies = list(copies)
        self.violations: list[str] = []
        self._last_shown: dict[int, dict[Series, float]] = {}
        """The last metrics of each process; copies that don't answer are not in it."""
        self.scrapes = 0
        self._increases: Counter[Series] = Counter()
        """The sum that Prometheus' increase() sees of every series on whichever copy, from its first sample on."""
        self._highest: dict[Series, float] = {}
        self._last: dict[Series, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._http = httpx.Client(trust_env=False, timeout=1.5)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._http.close()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.05):
                for copy in list(self.copies):
                    self.scrape(copy)
                self.scrapes += 1
        except BaseException as error:
            self.violations.append(f"the monitor ended with {error!r}")
            raise

    def scrape(self, copy: RunningService) -> None:
        try:
            text = self._http.get(f"{copy.url}/metrics").text
        except (httpx.HTTPError, AssertionError):
            self._last_shown.pop(copy.pid, None)
            return
        seen = _series(text)
        self._last_shown[copy.pid] = seen
        for series, value in seen.items():
            if series[0] in COUNTERS:
                self._check(series, value)

    def _check(self, series: Series, value: float) -> None:
        if value < self._highest.get(series, -math.inf):
            self.violations.append(f"{series} was {self._highest[series]:g} and then {value:g}")
        self._highest[series] = max(value, self._highest.get(series, value))
        last = self._last.get(series)
        if last is not None:
            self._increases[series] += int(value - last if value >= last else value)
        self._last[series] = value

    def reset_increases(self) -> None:
        """Start a new sum of increases."""
        self._increases.clear()

    def increase_sums(self, *metrics: str) -> dict[str, float]:
        return {
            metric: sum(v for series, v in self._increases.items() if series[0] == metric) for metric in metrics
        }

    def total_events(self) -> float:
        return sum(self.total(TRANSITIONS, BREACHES).values())

    def events_counted_by(self, copy: RunningService) -> float:
        """Sum all counted events that a copy showed last."""
        return sum(
            v for series, v in self._last_shown.get(copy.pid, {}).items() if series[0] in (TRANSITIONS, BREACHES)
        )

    @property
    def shown(self) -> list[dict[Series, float]]:
        """The last metrics of every copy."""
        return [self._last_shown.get(copy.pid, {}) for copy in list(self.copies)]

    def duplicated_series(self) -> list[Series]:
        copies = Counter(series for seen in self.shown for series in seen)
        return [series for series, count in copies.items() if count > 1]

    def total(self, *metrics: str) -> dict[Series, float]:
        """Sum every series of these metrics over copies and partitions."""
        sums: Counter[Series] = Counter()
        for seen in self.shown:
            for series, value in seen.items():
                if series[0] in metrics:
                    without_partition = tuple(label for label in series[1] if label[0] != "partition")
                    sums[series[0], without_partition] += value  # type: ignore[assignment]
        return dict(sums)

    def differences(self, truth: Truth) -> list[str]:
        """List the first few differences between the numbers of all copies and the truth."""
        wanted = truth.counters | truth.agents
        got = self.total(*truth.metrics)
        wrong = [
            f"{series}: {got.get(series, 0):g}, and the truth is {wanted.get(series, 0):g}"
            for series in sorted(wanted.keys() | got.keys())
            if got.get(series) != wanted.get(series)
        ]
        ended = sum(self.total(ENDED).values())
        if ended != truth.ended:
            wrong.append(f"elevations that ended: {ended:g}, and the truth is {truth.ended}")
        return wrong


def assert_converges(monitor: MetricsMonitor, truth: Truth, seconds: float = 90) -> None:
    """Wait until the numbers are the truth, each series on one copy, and check that no wrong value was shown."""
    try:
        eventually(lambda: monitor.differences(truth)[:5], lambda wrong: not wrong, seconds)
        eventually(monitor.duplicated_series, lambda twice: not twice, 20)
        assert monitor.violations == []
    except AssertionError:
        print(describe_copies(monitor.copies))
        raise


def describe_copies(copies: Iterable[RunningService]) -> str:
    """Describe the copies, for the reader of a failed test."""
    prefixes = ("records_total", "lag_records", "accounting_difference", "transactions_total")
    lines = []
    for copy in copies:
        if copy.status is not None:
            lines.append(f"process {copy.pid} has ended with status {copy.status}")
        else:
            lines.append(f"process {copy.pid}, {copy.ready()}")
            for prefix in prefixes:
                metrics = copy.metrics(f"hypervisor_telemetry_{prefix}")
                lines += [f"  {name} {value:g}" for name, value in metrics.items()]
        lines.append(copy.log[-3000:])
    return "\n".join(lines)


def _series(text: str) -> dict[Series, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name in COUNTERS or sample.name in PER_AGENT
    }
