"""The scenario of a run while Prometheus scrapes: a small fleet whose every event is known.

`first` has one event of each kind, so that every series exists and has been scraped; `many` has the others. Rates
and increases see only `many` if a series began with its first event, and both if it existed before with a 0.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, start_http_server

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.exporters import PublisherCollector
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.service_processes import sessions_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTITIONS = 3
MAX_SERIES = 2
"""The series ceiling of ring-metrics, per partition."""
A, B, C = "did:mesh:a", "did:mesh:b", "did:mesh:c"
[SESSION_OF_A], [SESSION_OF_B] = sessions_in(0, PARTITIONS), sessions_in(1, PARTITIONS)
KEPT, KEPT_TOO, BEYOND = sessions_in(2, PARTITIONS, 3)
"""Three sessions of C in one partition, which has capacity for two."""

ASSIGNED, ELEVATED = EventType.RING_ASSIGNED, EventType.RING_ELEVATED
DEMOTED, EXPIRED = EventType.RING_DEMOTED, EventType.RING_ELEVATION_EXPIRED
BREACH = EventType.RING_BREACH_DETECTED


class Scenario:
    """The events of the scenario; times are seconds before it began."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def event(self, kind: EventType, ago: float, agent: str, session: str, **payload: Any) -> HypervisorEvent:
        at = self._now - timedelta(seconds=ago)
        return HypervisorEvent(event_type=kind, timestamp=at, agent_did=agent, session_id=session, payload=payload)

    def elevation(self, ago: float, end: EventType) -> Iterator[HypervisorEvent]:
        """Of A, for 10 s."""
        yield self.event(ELEVATED, ago, A, SESSION_OF_A, to_ring=1)
        yield self.event(end, ago - 10, A, SESSION_OF_A, to_ring=3)

    def saga(self, name: str, *, action: str = "build", fails: bool = False) -> Iterator[HypervisorEvent]:
        """One step of 10 s; of one that succeeds 20 s in all, with a fan-out."""

        def saga_event(kind: EventType, ago: float, **payload: Any) -> HypervisorEvent:
            return self.event(kind, ago, A, SESSION_OF_A, saga_id=name, **payload)

        step = {"step_id": "1", "step_action": action}
        yield saga_event(EventType.SAGA_CREATED, 100)
        yield saga_event(EventType.SAGA_STEP_STARTED, 100, **step)
        if fails:
            yield saga_event(EventType.SAGA_STEP_FAILED, 90, **step, error="no seats")
            yield saga_event(EventType.SAGA_COMPENSATING, 85, **step)
            yield saga_event(EventType.SAGA_ESCALATED, 80)
        else:
            yield saga_event(EventType.SAGA_STEP_COMMITTED, 90, **step)
            yield saga_event(EventType.SAGA_FANOUT_STARTED, 90, fan_out_id="f")
            yield saga_event(EventType.SAGA_FANOUT_RESOLVED, 85, fan_out_id="f")
            yield saga_event(EventType.SAGA_COMPLETED, 80)

    def late(self, name: str) -> HypervisorEvent:
        """The end of a saga that has ended."""
        return self.event(EventType.SAGA_COMPLETED, 79, A, SESSION_OF_A, saga_id=name)

    def first(self) -> Iterator[HypervisorEvent]:
        """One of each; A is elevated twice, B is elevated from then on."""
        yield self.event(ASSIGNED, 500, A, SESSION_OF_A, ring=3)
        yield from self.elevation(490, DEMOTED)
        yield from self.elevation(470, EXPIRED)
        yield self.event(BREACH, 459, A, SESSION_OF_A)
        yield self.event(ASSIGNED, 500, B, SESSION_OF_B, ring=2)
        yield self.event(ELEVATED, 400, B, SESSION_OF_B, to_ring=1)
        yield self.event(BREACH, 399, B, SESSION_OF_B)
        for session in (KEPT, KEPT_TOO, BEYOND):
            yield self.event(BREACH, 300, C, session)
        yield from self.saga("first")
        yield self.late("first")
        yield from self.saga("failed", fails=True)

    def many(self) -> Iterator[HypervisorEvent]:
        """4 assignments of A, one published twice; 5 elevations; 200 breaches of A, 6 of B, 2 of C past the limit.

        Sagas: 6 succeed, one of them with a span that the receiver refuses; 2 fail; 2 are ended again; one stays
        open. And an event too old for the index.
        """
        assigned = [self.event(ASSIGNED, 450 - number, A, SESSION_OF_A, ring=2) for number in range(4)]
        yield from assigned
        yield assigned[0]
        for number in range(3):
            yield from self.elevation(200 - 20 * number, DEMOTED)
        for number in range(2):
            yield from self.elevation(100 - 20 * number, EXPIRED)
        for number in range(200):
            yield self.event(BREACH, 60 - number / 10, A, SESSION_OF_A)
        for number in range(6):
            yield self.event(BREACH, 60 - number, B, SESSION_OF_B)
        for number in range(2):
            yield self.event(BREACH, 60 - number, C, BEYOND)
        for number in range(5):
            yield from self.saga(f"ok-{number}")
        yield from self.saga("poisoned", action="poison")
        for number in range(2):
            yield self.late(f"ok-{number}")
            yield from self.saga(f"bad-{number}", fails=True)
        yield self.event(EventType.SAGA_CREATED, 70, A, SESSION_OF_A, saga_id="open")
        yield self.event(EventType.SESSION_CREATED, 2 * 86_400, A, SESSION_OF_A)


class Agent:
    """An agent's process: what it emits is published, and it exports its own metrics."""

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        environ = {"TELEMETRY_MAX_EVENT_BYTES": "10000"}
        self._bus = HypervisorEventBus()
        self._publisher = EventPublisher(bootstrap_servers, topic_prefix=prefix, environ=environ)
        self._publisher.attach(self._bus)
        registry = CollectorRegistry()
        registry.register(PublisherCollector(self._publisher))
        self._governance = GovernanceMetrics(self._bus, prometheus=registry)
        self._server, self._thread = start_http_server(0, "127.0.0.1", registry)
        self.url = f"127.0.0.1:{self._server.server_port}"

    def emit(self, events: Iterable[HypervisorEvent]) -> None:
        for event in events:
            self._bus.emit(event)

    def govern_first(self) -> None:
        """One decision of each kind, three agents, one audit event."""
        for agent in (A, B, C):
            self._governance.register_agent(agent)
        self._governance.record_decision(True, A, "file_read", 80)
        self._governance.record_decision(False, A, "shell_exec", 80)
        self._governance.set_trust_score(A, 850)
        self._governance.set_trust_score(B, 320)
        self._governance.record_audit_event("started", A)

    def govern_many(self) -> None:
        """30 allowed, 10 denied, 4 of those for their rate; A trusted less; C gone; a score that is none."""
        for _ in range(30):
            self._governance.record_decision(True, A, "file_read", 80)
        for number in range(10):
            self._governance.record_decision(False, A, "shell_exec", 80, rate_limited=number < 4)
        self._governance.set_trust_score(A, 700)
        self._governance.set_trust_score(A, 5000)
        self._governance.deregister_agent(C)
        for _ in range(6):
            self._governance.record_audit_event("looked", A)

    def drop(self) -> None:
        """Two events that are too large to be published."""
        for _ in range(2):
            self._bus.emit(HypervisorEvent(event_type=EventType.VFS_WRITE, payload={"text": "x" * 20_000}))

    def flush(self) -> None:
        assert self._publisher.flush(30).pending == 0

    def close(self) -> None:
        self._publisher.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
