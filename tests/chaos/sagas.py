"""Sagas with known spans, and a receiver that has every trouble a receiver can have."""

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


class Received(NamedTuple):
    """What a tracing backend knows of a span."""

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
class Story:
    """One saga: its events in their order, and the spans that must come of them, worked out by hand here."""

    number: int
    random: Random
    events: list[HypervisorEvent] = field(default_factory=list)
    spans: list[Received] = field(default_factory=list)
    poisoned: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.saga, self.session = f"saga-{self.number}", f"session-{self.number % 400}"
        self._trace = f"{self.number:012x}"
        self.trace_id = sha256(self._trace.encode()).hexdigest()[:20] + self._trace
        self.span_id = self._hashed("saga-span", self.trace_id, self.session, self.saga)
        self._at = NOON + timedelta(minutes=self.number)
        self._tell()

    def _tell(self) -> None:
        created = self._say(EventType.SAGA_CREATED) if self.random.random() < 0.9 else None
        first = created
        for number in range(self.random.randrange(1, 5)):
            started = self._step(f"step-{number}", self.span_id)
            first = first or started
        if self.random.random() < 0.3:
            self._fan_out()
        if self.random.random() < 0.2:
            undone = self._say(EventType.SAGA_COMPENSATING, step_id="step-0", action="undo")
            self._span("saga.compensate.undo", undone.event_id, self.span_id, undone, undone, UNSET)
        assert first is not None
        if self.random.random() < 0.8:
            ended, name, status = self._say(EventType.SAGA_COMPLETED), "completed", OK
        else:
            ended, name, status = self._say(EventType.SAGA_ESCALATED, reason="why"), "escalated", ERROR
        self._span(f"saga.{name}.{self.saga}", self.span_id, "", first, ended, status)

    def _step(self, step: str, parent: str, **named: str) -> HypervisorEvent:
        action = POISON if self.random.random() < 0.01 else "work"
        started = self._say(EventType.SAGA_STEP_STARTED, step_id=step, action=action, **named)
        if self.random.random() < 0.2:
            self._say(EventType.SAGA_CHECKPOINT_SAVED, step_id=step, goal="half")
        kind, status = EventType.SAGA_STEP_COMMITTED, OK
        if self.random.random() < 0.2:
            kind, status = EventType.SAGA_STEP_FAILED, ERROR
        ended = self._say(kind, step_id=step, action=action, **named)
        self._span(f"saga.step.{action}", started.event_id, parent, started, ended, status)
        return started

    def _fan_out(self) -> None:
        span_id = self._hashed("fanout-span", self.trace_id, self.session, self.saga, "f")
        started = self._say(EventType.SAGA_FANOUT_STARTED, fan_out_id="f", policy="any")
        for branch in range(2):
            self._step(f"branch-{branch}", span_id, fan_out_id="f")
        resolved = self._say(EventType.SAGA_FANOUT_RESOLVED, fan_out_id="f", policy="any")
        self._span("saga.fanout.any", span_id, self.span_id, started, resolved, OK)

    def _say(self, kind: EventType, **payload: Any) -> HypervisorEvent:
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
        span = Received(self.trace_id, span_id, parent, name, start, end, status)
        (self.poisoned if POISON in name else self.spans).append(span)

    @staticmethod
    def _hashed(*parts: str) -> str:
        return sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:16]


def interleaved(stories: list[Story], random: Random) -> Iterator[HypervisorEvent]:
    """The events of all, some tens of sagas side by side, each saga's in their order."""
    waiting = [iter(story.events) for story in stories]
    open_ones: list[Iterator[HypervisorEvent]] = []
    while waiting or open_ones:
        while waiting and len(open_ones) < 60:
            open_ones.append(waiting.pop(0))
        chosen = random.choice(open_ones)
        event = next(chosen, None)
        if event is None:
            open_ones.remove(chosen)
        else:
            yield event


class Moody:
    """Answers as an OTLP receiver in trouble; the mood changes every few requests, until it is told to be good.

    What it says it took it has taken, and what it refuses by name it refuses for ever. Of the rest it takes some
    and then fails, or says that it rejects them and takes them when they come again.
    """

    MOODS = ("good", "500", "429", "partial", "hangs", "hangs up", "fails after taking")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._lock = threading.Lock()
        self._mood, self._left = "good", 5
        self._next: list[str] = []
        self._rejected: set[tuple[str, str]] = set()
        self.spans: dict[tuple[str, str], Received] = {}
        self.contradictions: list[tuple[Received, Received]] = []
        self.moods: set[str] = set()
        self.is_good = False

    def __call__(self, request: Request) -> Reply:
        body = gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
        spans = list(_received(ExportTraceServiceRequest.FromString(body)))
        if any(POISON in span.name for span in spans):
            return Reply(400, b"", {"Content-Type": PROTOBUF})
        mood = self._next_mood()
        if mood == "500":
            return Reply(500)
        if mood == "429":
            return Reply(429, headers={"Retry-After": "1"})
        if mood == "hangs up":
            raise ConnectionResetError
        if mood == "partial":
            return self._take_partly(spans)
        self._take(spans)
        if mood == "hangs":
            time.sleep(2)  # longer than the service waits for an answer
        if mood == "fails after taking":
            return Reply(503)
        return Reply(headers={"Content-Type": PROTOBUF})

    def _next_mood(self) -> str:
        with self._lock:
            if self.is_good:
                return "good"
            self._left -= 1
            if self._left < 0:
                if not self._next:
                    self._next = self._random.sample(self.MOODS, len(self.MOODS))
                self._mood, self._left = self._next.pop(), self._random.randrange(2)
            self.moods.add(self._mood)
            return self._mood

    def _take_partly(self, spans: list[Received]) -> Reply:
        with self._lock:
            bad = [span for span in spans if hash(span.span_id) % 7 == 0 and _id(span) not in self._rejected]
            self._rejected |= {_id(span) for span in bad}
        self._take([span for span in spans if span not in bad])
        return Reply(200, partial_success(len(bad), "not now"), {"Content-Type": PROTOBUF})

    def _take(self, spans: list[Received]) -> None:
        with self._lock:
            for span in spans:
                before = self.spans.setdefault(_id(span), span)
                if before != span:
                    self.contradictions.append((before, span))


def _id(span: Received) -> tuple[str, str]:
    return span.trace_id, span.span_id


def _received(request: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.name,
                    round(span.start_time_unix_nano / 1000),
                    round(span.end_time_unix_nano / 1000),
                    span.status.code,
                )
