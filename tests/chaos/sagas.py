"""Sagas with known spans, and a span receiver with every fault that a receiver can have."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from random import Random
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.span_receivers import PROTOBUF, Reply, Request, partial_success

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
POISON = "poison"
"""The action of a step whose span the receiver never takes."""


class ReceivedSpan(NamedTuple):
    """A span as a tracing backend knows it."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    start: int
    end: int
    """Microseconds since 1970."""
    status: int
    """OpenTelemetry's: 0 unset, 1 ok, 2 error."""


UNSET, OK, ERROR = range(3)


@dataclass
class SagaScenario:
    """One saga: its events in order, and the spans that they must make, computed here independently."""

    number: int
    random: Random
    events: list[HypervisorEvent] = field(default_factory=list)
    spans: list[ReceivedSpan] = field(default_factory=list)
    poisoned: list[ReceivedSpan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saga, self.session = f"saga-{self.number}", f"session-{self.number % 400}"
        self._trace = f"{self.number:012x}"
        self.trace_id = sha256(self._trace.encode()).hexdigest()[:20] + self._trace
        self.span_id = self._hash_id("saga-span", self.trace_id, self.session, self.saga)
        self._at = NOON + timedelta(minutes=self.number)
        self._generate()

    def _generate(self) -> None:
        created = self._emit(EventType.SAGA_CREATED) if self.random.random() < 0.9 else None
        first = created
        for number in range(self.random.randrange(1, 5)):
            started = self._step(f"step-{number}", self.span_id)
            first = first or started
        if self.random.random() < 0.3:
            self._fan_out()
        if self.random.random() < 0.2:
            undone = self._emit(EventType.SAGA_COMPENSATING, step_id="step-0", action="undo")
            self._span("saga.compensate.undo", undone.event_id, self.span_id, undone, undone, UNSET)
        assert first is not None
        if self.random.random() < 0.8:
            ended, name, status = self._emit(EventType.SAGA_COMPLETED), "completed", OK
        else:
            ended, name, status = self._emit(EventType.SAGA_ESCALATED, reason="why"), "escalated", ERROR
        self._span(f"saga.{name}.{self.saga}", self.span_id, "", first, ended, status)

    def _step(self, step: str, parent: str, **named: str) -> HypervisorEvent:
        action = POISON if self.random.random() < 0.01 else "work"
        started = self._emit(EventType.SAGA_STEP_STARTED, step_id=step, action=action, **named)
        if self.random.random() < 0.2:
            self._emit(EventType.SAGA_CHECKPOINT_SAVED, step_id=step, goal="half")
        kind, status = EventType.SAGA_STEP_COMMITTED, OK
        if self.random.random() < 0.2:
            kind, status = EventType.SAGA_STEP_FAILED, ERROR
        ended = self._emit(kind, step_id=step, action=action, **named)
        self._span(f"saga.step.{action}", started.event_id, parent, started, ended, status)
        return started

    def _fan_out(self) -> None:
        span_id = self._hash_id("fanout-span", self.trace_id, self.session, self.saga, "f")
        started = self._emit(EventType.SAGA_FANOUT_STARTED, fan_out_id="f", policy="any")
        for branch in range(2):
            self._step(f"branch-{branch}", span_id, fan_out_id="f")
        resolved = self._emit(EventType.SAGA_FANOUT_RESOLVED, fan_out_id="f", policy="any")
        self._span("saga.fanout.any", span_id, self.span_id, started, resolved, OK)

    def _emit(self, kind: EventType, **payload: Any) -> HypervisorEvent:
        self._at += timedelta(milliseconds=self.random.randrange(1, 500))
        event = HypervisorEvent(
            event_id=f"{self.random.getrandbits(64):016x}",
            event_type=kind,
            timestamp=self._at,
            session_id=self.session,
            agent_did=f"did:{self.number % 7}",
            causal_trace_id=f"{self._trace}/{self.number:08x}",
            payload={"saga_id": self.saga, **payload},
        )
        self.events.append(event)
        return event

    def _span(
        self, name: str, span_id: str, parent: str, first: HypervisorEvent, last: HypervisorEvent, status: int
    ) -> None:
        start, end = (round(one.timestamp.timestamp() * 1e6) for one in (first, last))
        span = ReceivedSpan(self.trace_id, span_id, parent, name, start, end, status)
        (self.poisoned if POISON in name else self.spans).append(span)

    @staticmethod
    def _hash_id(*parts: str) -> str:
        return sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:16]


def interleaved(scenarios: list[SagaScenario], random: Random) -> Iterator[HypervisorEvent]:
    """The events of all, some tens of sagas side by side, each saga's in their order."""
    waiting = [iter(scenario.events) for scenario in scenarios]
    open_scenarios: list[Iterator[HypervisorEvent]] = []
    while waiting or open_scenarios:
        while waiting and len(open_scenarios) < 60:
            open_scenarios.append(waiting.pop(0))
        chosen = random.choice(open_scenarios)
        event = next(chosen, None)
        if event is None:
            open_scenarios.remove(chosen)
        else:
            yield event


class UnreliableReceiver:
    """Answers as a faulty OTLP receiver; its mode changes every few requests, until `is_healthy` is set.

    Spans that it reports as taken it has taken, and spans that it refuses by name it always refuses. Of the others
    it takes some and then fails, or it rejects them and takes them when they come again.
    """

    MODES = ("good", "500", "429", "partial", "hangs", "hangs up", "fails after taking")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._lock = threading.Lock()
        self._mode, self._left = "good", 5
        self._next: list[str] = []
        self._rejected: set[tuple[str, str]] = set()
        self.spans: dict[tuple[str, str], ReceivedSpan] = {}
        self.contradictions: list[tuple[ReceivedSpan, ReceivedSpan]] = []
        self.modes_seen: set[str] = set()
        self.is_healthy = False

    def __call__(self, request: Request) -> Reply:
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        spans = list(_received_spans(ExportTraceServiceRequest.FromString(body)))
        if any(POISON in span.name for span in spans):
            return Reply(400, b"", {"Content-Type": PROTOBUF})
        mode = self._next_mode()
        if mode == "500":
            return Reply(500)
        if mode == "429":
            return Reply(429, headers={"Retry-After": "1"})
        if mode == "hangs up":
            raise ConnectionResetError
        if mode == "partial":
            return self._take_partly(spans)
        self._take(spans)
        if mode == "hangs":
            time.sleep(2)  # longer than the service waits for an answer
        if mode == "fails after taking":
            return Reply(503)
        return Reply(headers={"Content-Type": PROTOBUF})

    def _next_mode(self) -> str:
        with self._lock:
            if self.is_healthy:
                return "good"
            self._left -= 1
            if self._left < 0:
                if not self._next:
                    self._next = self._random.sample(self.MODES, len(self.MODES))
                self._mode, self._left = self._next.pop(), self._random.randrange(2)
            self.modes_seen.add(self._mode)
            return self._mode

    def _take_partly(self, spans: list[ReceivedSpan]) -> Reply:
        with self._lock:
            bad = [span for span in spans if hash(span.span_id) % 7 == 0 and _span_key(span) not in self._rejected]
            self._rejected |= {_span_key(span) for span in bad}
        self._take([span for span in spans if span not in bad])
        return Reply(200, partial_success(len(bad), "not now"), {"Content-Type": PROTOBUF})

    def _take(self, spans: list[ReceivedSpan]) -> None:
        with self._lock:
            for span in spans:
                before = self.spans.setdefault(_span_key(span), span)
                if before != span:
                    self.contradictions.append((before, span))


def _span_key(span: ReceivedSpan) -> tuple[str, str]:
    return span.trace_id, span.span_id


def _received_spans(request: ExportTraceServiceRequest) -> Iterator[ReceivedSpan]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield ReceivedSpan(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    round(span.start_time_unix_nano / 1000),
                    round(span.end_time_unix_nano / 1000),
                    span.status.code,
                )
