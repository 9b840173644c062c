"""The code that runs in an agent's process, beside the real `agent-hypervisor` package."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypervisor import observability as package

import hypervisor_telemetry as ours
from bench.row import Row
from bench.setting import Setting, in_turn, seconds_of
from hypervisor_consumers.ring_metrics.fold.event_fold import RingFold
from hypervisor_consumers.saga_spans.fold.event_fold import SagaFold
from hypervisor_schemas.wire.codec import EventDecoder, encode_event

PACKAGE = "agent-hypervisor"
STORED = 100_000

Work = Callable[[int], object]
"""A function that does the same work so many times."""


def measure(setting: Setting) -> Iterable[Row]:
    rounds = 2 * setting.rounds + 1
    for what, times, mine, theirs, floor, goal in (
        ("create an event", 20_000, creating(ours), creating(package), 2, 3),
        (f"query session and type in {STORED:,} events", 20, querying(ours), querying(package), 100, None),
        ("emit, no subscriber", 20_000, emitting(ours), emitting(package), None, None),
        ("emit, a ring collector", 10_000, collecting(ours), collecting(package), None, None),
        ("encode to framed Avro", 10_000, encoding(), None, None, None),
        ("decode from framed Avro, one by one", 10_000, decoding(), None, None, None),
        ("fold a ring event, one by one", 20_000, folding_rings(), None, None, None),
        ("fold a saga step", 20_000, folding_sagas(), None, None, None),
    ):
        works = {"ours": micros(mine, times)} | ({"theirs": micros(theirs, times)} if theirs else {})
        figures = in_turn(rounds, works)
        yield Row(what, "µs", figures["ours"], PACKAGE if theirs else "", figures.get("theirs", ()), floor, goal)


def micros(work: Work, times: int) -> Callable[[], float]:
    return lambda: seconds_of(lambda: work(times)) / times * 1e6


def ring_event(library: Any, number: int) -> Any:
    return library.HypervisorEvent(
        event_type=library.EventType.RING_ASSIGNED,
        session_id=f"session-{number % 1000}",
        agent_did=f"did:mesh:agent-{number % 100}",
        payload={"ring": number % 4, "reason": "bench"},
    )


def creating(library: Any) -> Work:
    make, kind, payload = library.HypervisorEvent, library.EventType.RING_ASSIGNED, {"ring": 2, "reason": "bench"}

    def run(times: int) -> None:
        for _ in range(times):
            make(event_type=kind, session_id="session-1", agent_did="did:mesh:agent-1", payload=payload)

    return run


def emitting(library: Any) -> Work:
    events = [ring_event(library, number) for number in range(1000)]

    def run(times: int) -> None:
        bus = library.HypervisorEventBus()
        for number in range(times):
            bus.emit(events[number % 1000])

    return run


def collecting(library: Any) -> Work:
    events = [ring_event(library, number) for number in range(1000)]

    def run(times: int) -> None:
        bus = library.HypervisorEventBus()
        library.RingMetricsCollector(bus)
        for number in range(times):
            bus.emit(events[number % 1000])

    return run


def querying(library: Any) -> Work:
    bus = library.HypervisorEventBus()
    for number in range(STORED):
        bus.emit(ring_event(library, number))

    def run(times: int) -> None:
        for number in range(times):
            bus.query(event_type=library.EventType.RING_ASSIGNED, session_id=f"session-{number}", limit=10)

    return run


def encoding() -> Work:
    events = [ring_event(ours, number) for number in range(1000)]
    return lambda times: [encode_event(events[number % 1000]) for number in range(times)]


def decoding() -> Work:
    values = [encode_event(ring_event(ours, number)) for number in range(1000)]
    decode = EventDecoder().decode
    return lambda times: [decode(values[number % 1000]) for number in range(times)]


def folding_rings() -> Work:
    fold = RingFold()
    events = [ring_event(ours, number) for number in range(1000)]

    def run(times: int) -> None:
        state = fold.new_state()
        for number in range(times):
            fold.apply(state, events[number % 1000])

    return run


def folding_sagas() -> Work:
    fold = SagaFold()
    kinds = (ours.EventType.SAGA_STEP_STARTED, ours.EventType.SAGA_STEP_COMMITTED)
    events = [
        ours.HypervisorEvent(
            event_type=kinds[number % 2],
            session_id=f"s{number // 2}",
            payload={"saga_id": "deploy", "step_id": "1", "step_action": "validate"},
        )
        for number in range(1000)
    ]

    def run(times: int) -> None:
        state = fold.new_state()
        for number in range(times):
            fold.apply(state, events[number % 1000])

    return run
