"""Saga spans in an agent's process: any bus, a bounded buffer, sinks that fail, threads, signals, forks."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import hypervisor.observability as package
import pytest

from hypervisor_consumers.saga_spans.exporter import SagaSpanExporter
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanSink
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent

T0 = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
DEADLINE = 20.0


def event(kind: str, at: float = 0.0, make: Any = HypervisorEvent, types: Any = EventType, **payload: Any) -> Any:
    return make(
        event_type=types(f"saga.{kind}"),
        timestamp=T0 + timedelta(seconds=at),
        session_id="s1",
        payload=payload,
    )


class Recorder:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def record_span(
        self, name: str, start_time: float, end_time: float, attributes: dict[str, Any], status: str
    ) -> None:
        self.names.append(name)


class Failing:
    def record_span(self, **span: Any) -> None:
        raise ConnectionError("the backend is away")


def run_in_threads(*targets: Callable[[], object]) -> None:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a thread hangs"


def test_the_walk_through_of_the_tutorial_gives_the_spans_that_it_shows() -> None:
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus)

    def emit(event_type: EventType, at: float, payload: dict[str, Any], **fields: str) -> None:
        timestamp = T0 + timedelta(seconds=at)
        bus.emit(HypervisorEvent(event_type=event_type, timestamp=timestamp, payload=payload, **fields))

    orchestrator = {"session_id": "s1", "agent_did": "did:mesh:orchestrator"}
    step = {"saga_id": "deploy-v2", "step_id": "validate-config", "step_action": "validate"}
    emit(EventType.SAGA_CREATED, 0, {"saga_id": "deploy-v2"}, **orchestrator)
    emit(EventType.SAGA_STEP_STARTED, 1, step, **orchestrator)
    emit(EventType.SAGA_STEP_COMMITTED, 1.5, step | {"result": "all checks passed"}, **orchestrator)

    span = exporter.completed_spans[0]
    assert isinstance(span, SagaSpanRecord)
    assert (span.name, span.status, span.duration_seconds) == ("saga.step.validate", "ok", 0.5)
    assert span.attributes == {
        "agent.saga.id": "deploy-v2",
        "agent.saga.step_id": "validate-config",
        "agent.saga.step_action": "validate",
        "agent.saga.state": "ok",
        "agent.saga.result": "all checks passed",
        "agent.did": "did:mesh:orchestrator",
        "session.id": "s1",
    }

    # From here on the tutorial's events name no session.
    step = {"saga_id": "deploy-v2", "step_id": "run-migrations", "step_action": "migrate"}
    emit(EventType.SAGA_STEP_STARTED, 2, step)
    failure = {"error": "connection_timeout", "reason": "database unreachable after 30s"}
    emit(EventType.SAGA_STEP_FAILED, 3, step | failure)
    rollback = {"saga_id": "deploy-v2", "step_id": "rollback-config", "step_action": "rollback"}
    emit(EventType.SAGA_COMPENSATING, 4, rollback)

    (error_span,) = [s for s in exporter.completed_spans if s.status == "error"]
    assert error_span.attributes["agent.saga.error"] == "connection_timeout"
    assert error_span.duration_seconds == 1
    (comp_span,) = [s for s in exporter.completed_spans if s.status == "compensating"]
    assert comp_span.name == "saga.compensate.rollback"

    emit(EventType.SAGA_COMPLETED, 9, {"saga_id": "deploy-v2"})
    (saga_span,) = [s for s in exporter.completed_spans if "completed" in s.name]
    assert (saga_span.duration_seconds, saga_span.status) == (9, "ok")

    assert {s.trace_id for s in exporter.completed_spans} == {saga_span.trace_id}
    assert {s.parent_span_id for s in exporter.completed_spans} == {saga_span.span_id, None}
    assert exporter.events_processed == 7

    sink = Recorder()
    exporter.attach_sink(sink)
    emit(EventType.SAGA_ESCALATED, 10, {"saga_id": "deploy-v3"})
    exporter.detach_sink()
    emit(EventType.SAGA_ESCALATED, 11, {"saga_id": "deploy-v4"})
    assert sink.names == ["saga.escalated.deploy-v3"]
    assert [s.name for s in exporter.completed_spans[-2:]] == [
        "saga.escalated.deploy-v3",
        "saga.escalated.deploy-v4",
    ]


@pytest.mark.parametrize("bus_class", [HypervisorEventBus, package.HypervisorEventBus], ids=["our bus", "its bus"])
@pytest.mark.parametrize(
    ("make", "types"),
    [(HypervisorEvent, EventType), (package.HypervisorEvent, package.EventType)],
    ids=["our events", "its events"],
)
def test_our_bus_and_the_packages_and_the_events_of_both_give_the_same(
    bus_class: Any, make: Any, types: Any
) -> None:
    bus = bus_class()
    exporter = SagaSpanExporter(bus)
    bus.emit(event("created", 0, make, types, saga_id="g"))
    bus.emit(event("step_started", 1, make, types, saga_id="g", action="build"))
    bus.emit(event("step_committed", 2, make, types, saga_id="g", action="build"))
    bus.emit(event("step_failed", 3, make, types, saga_id="g", action="test"))
    bus.emit(event("compensating", 4, make, types, saga_id="g", action="undo"))
    bus.emit(event("completed", 5, make, types, saga_id="g"))
    bus.emit(event("escalated", 6, make, types, saga_id="h"))
    assert [(span.name, span.status, span.duration_seconds) for span in exporter.completed_spans] == [
        ("saga.step.build", "ok", 1),
        ("saga.step.test", "error", 0),
        ("saga.compensate.undo", "compensating", 0),
        ("saga.completed.g", "ok", 5),
        ("saga.escalated.h", "error", 0),
    ]
    assert exporter.events_processed == 7


def test_anything_with_subscribe_is_a_bus() -> None:
    class Wire:
        def subscribe(self, event_type: Any = None, handler: Any = None) -> None:
            if event_type.value == "saga.completed":
                self.handler = handler

    wire = Wire()
    exporter = SagaSpanExporter(wire)
    wire.handler(event("completed", saga_id="g"))
    assert [span.name for span in exporter.completed_spans] == ["saga.completed.g"]


def test_events_that_spans_are_not_made_of_are_not_counted() -> None:
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus)
    for kind in ("fanout_started", "fanout_resolved", "checkpoint_saved"):
        bus.emit(event(kind, saga_id="g"))
    bus.emit(HypervisorEvent(event_type=EventType.RING_ASSIGNED))
    assert (exporter.events_processed, exporter.completed_spans) == (0, [])


def test_what_completed_spans_gives_is_a_copy() -> None:
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus)
    bus.emit(event("completed", saga_id="g"))
    exporter.completed_spans.clear()
    assert len(exporter.completed_spans) == 1


def test_the_buffer_keeps_the_newest_spans_and_counts_those_it_dropped() -> None:
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus, max_spans=3)
    for n in range(5):
        bus.emit(event("completed", saga_id=n))
    assert [span.saga_id for span in exporter.completed_spans] == ["2", "3", "4"]
    assert exporter.spans_dropped == 2


def test_the_buffer_can_be_unbounded_or_nothing_at_all_but_not_negative() -> None:
    bus = HypervisorEventBus()
    unbounded, nothing = SagaSpanExporter(bus, max_spans=None), SagaSpanExporter(bus, max_spans=0)
    for n in range(5):
        bus.emit(event("completed", saga_id=n))
    assert (len(unbounded.completed_spans), unbounded.spans_dropped) == (5, 0)
    assert (len(nothing.completed_spans), nothing.spans_dropped) == (0, 5)
    with pytest.raises(ValueError, match="max_spans must be 0 or more, or None"):
        SagaSpanExporter(bus, max_spans=-1)


def test_a_sink_gets_every_span_by_keyword_as_it_finishes() -> None:
    got: list[dict[str, Any]] = []

    class Sink:
        def record_span(self, **span: Any) -> None:
            got.append(span)

    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus, sink=Sink())
    bus.emit(event("created", 0, saga_id="g"))
    assert got == []
    bus.emit(event("completed", 2, saga_id="g"))
    (span,) = exporter.completed_spans
    assert got == [
        {
            "name": "saga.completed.g",
            "start_time": T0.timestamp(),
            "end_time": T0.timestamp() + 2,
            "attributes": span.attributes,
            "status": "ok",
        }
    ]


def test_a_sink_that_changes_the_attributes_changes_its_own() -> None:
    class Tagging:
        def record_span(self, *, attributes: dict[str, Any], **_: Any) -> None:
            attributes["tag"] = "mine"

    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus, sink=Tagging())
    bus.emit(event("completed", saga_id="g"))
    assert "tag" not in exporter.completed_spans[0].attributes


def test_whatever_has_record_span_is_a_span_sink() -> None:
    assert isinstance(Recorder(), SpanSink)
    assert not isinstance(object(), SpanSink)


@pytest.mark.parametrize("bus_class", [HypervisorEventBus, package.HypervisorEventBus], ids=["our bus", "its bus"])
def test_a_failing_sink_breaks_neither_emitter_nor_exporter_and_is_logged_once(
    bus_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bus = bus_class()
    exporter = SagaSpanExporter(bus, sink=Failing())
    seen_by_others: list[Any] = []
    bus.subscribe(None, seen_by_others.append)
    with caplog.at_level(logging.WARNING):
        for n in range(100):
            bus.emit(event("completed", saga_id=n))
    assert len(exporter.completed_spans) == len(seen_by_others) == exporter.sink_errors == 100
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "saga.completed.0" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConnectionError)


@pytest.mark.parametrize("bus_class", [HypervisorEventBus, package.HypervisorEventBus], ids=["our bus", "its bus"])
def test_an_event_that_doesnt_fit_is_counted_logged_once_and_changes_nothing(
    bus_class: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bus = bus_class()
    exporter = SagaSpanExporter(bus)
    seen_by_others: list[Any] = []
    bus.subscribe(None, seen_by_others.append)
    bus.emit(event("created", 0, saga_id="g"))
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            bus.emit(event("completed", 1, saga_id=["g"]))
    bus.emit(event("completed", 2, saga_id="g"))
    assert (exporter.events_rejected, exporter.events_processed, len(seen_by_others)) == (50, 52, 52)
    assert [span.duration_seconds for span in exporter.completed_spans] == [2]
    (record,) = caplog.records
    assert "saga.completed" in record.getMessage()
    assert "saga_id" in record.getMessage()


@pytest.mark.parametrize(
    "stranger",
    [
        pytest.param(package.HypervisorEvent(event_type=package.EventType.SAGA_COMPLETED, timestamp=7), id="time"),
        pytest.param(
            package.HypervisorEvent(event_type=package.EventType.SAGA_COMPLETED, payload=None), id="payload"
        ),
        pytest.param(object(), id="nothing of an event"),
    ],
)
def test_an_event_of_no_known_shape_never_raises_into_the_emitter(stranger: Any) -> None:
    handlers: dict[str, Any] = {}

    class Wire:
        def subscribe(self, event_type: Any = None, handler: Any = None) -> None:
            handlers[event_type.value] = handler

    exporter = SagaSpanExporter(Wire())
    handlers["saga.completed"](stranger)
    handlers["saga.completed"](event("completed", saga_id="g"))
    assert (exporter.events_rejected, len(exporter.completed_spans)) == (1, 1)


def test_reset_forgets_spans_open_sagas_and_counts_and_goes_on() -> None:
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus, sink=Failing(), max_spans=1)
    bus.emit(event("created", 0, saga_id="g"))
    bus.emit(event("step_committed", 1, saga_id="g", action="a"))
    bus.emit(event("step_committed", 1, saga_id="g", action="b"))
    bus.emit(event("completed", 1, saga_id=[]))
    counts = (exporter.events_processed, exporter.events_rejected, exporter.sink_errors, exporter.spans_dropped)
    assert counts == (4, 1, 2, 1)
    exporter.reset()
    counts = (exporter.events_processed, exporter.events_rejected, exporter.sink_errors, exporter.spans_dropped)
    assert (counts, exporter.completed_spans) == ((0, 0, 0, 0), [])
    bus.emit(event("completed", 5, saga_id="g"))
    assert [span.duration_seconds for span in exporter.completed_spans] == [0]
    assert exporter.sink_errors == 1


def test_a_sink_may_emit_events_itself() -> None:
    bus = HypervisorEventBus()
    names: list[str] = []

    class Chained:
        def record_span(self, *, name: str, **_: Any) -> None:
            names.append(name)
            if name == "saga.step.a":
                bus.emit(event("completed", 2, saga_id="g"))

    exporter = SagaSpanExporter(bus, sink=Chained())
    run_in_threads(lambda: bus.emit(event("step_committed", 1, saga_id="g", action="a")))
    assert names == ["saga.step.a", "saga.completed.g"]
    assert len(exporter.completed_spans) == 2


def test_a_sink_that_hangs_holds_up_nobody_but_its_own_emitter() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow:
        def record_span(self, *, name: str, **_: Any) -> None:
            if name == "saga.completed.slow":
                entered.set()
                # Longer than the others are waited for: they must not be let go by this.
                release.wait(3 * DEADLINE)

    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus, sink=Slow())
    held_up = threading.Thread(target=lambda: bus.emit(event("completed", saga_id="slow")), daemon=True)
    held_up.start()
    assert entered.wait(DEADLINE)
    try:
        run_in_threads(lambda: bus.emit(event("completed", saga_id="quick")))
        assert [span.saga_id for span in exporter.completed_spans] == ["slow", "quick"]
    finally:
        release.set()
    held_up.join(DEADLINE)
    assert not held_up.is_alive()


def test_when_emit_returns_its_span_is_there_even_while_another_thread_is_busy() -> None:
    inside, release, seen = threading.Event(), threading.Event(), []

    class Slow:
        def __str__(self) -> str:
            inside.set()
            release.wait(DEADLINE)
            return "done"

    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus)

    def emit_and_look() -> None:
        bus.emit(event("completed", saga_id="second"))
        seen.extend(span.saga_id for span in exporter.completed_spans)

    first = threading.Thread(
        target=lambda: bus.emit(event("completed", saga_id="first", result=Slow())), daemon=True
    )
    first.start()
    assert inside.wait(DEADLINE)
    second = threading.Thread(target=emit_and_look, daemon=True)
    second.start()
    # Time to do it wrong; done right, it waits for the first and then sees both.
    second.join(0.2)
    release.set()
    for thread in (first, second):
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert seen == ["first", "second"]


def test_many_threads_lose_no_span_and_mix_up_no_saga() -> None:
    bus = HypervisorEventBus()
    sink = Recorder()
    exporter = SagaSpanExporter(bus, sink=sink)

    def agent(number: int) -> None:
        for n in range(200):
            saga_id = f"{number}/{n}"
            bus.emit(event("created", 0, saga_id=saga_id))
            bus.emit(event("step_started", 1, saga_id=saga_id, action="a"))
            bus.emit(event("step_committed", 2 + number, saga_id=saga_id, action="a"))
            bus.emit(event("completed", 3 + number, saga_id=saga_id))

    run_in_threads(*(lambda number=number: agent(number) for number in range(8)))
    spans = exporter.completed_spans
    assert exporter.events_processed == 8 * 200 * 4
    assert len({span.span_id for span in spans}) == len(spans) == len(sink.names) == 8 * 200 * 2
    for span in spans:
        expected = int(span.saga_id.split("/")[0]) + (1 if span.step_id else 3)
        assert span.duration_seconds == expected


def test_an_event_emitted_in_the_middle_of_another_waits_its_turn() -> None:
    """A signal handler runs between any two steps; here the text of a value does, which is the same."""
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus)

    class Emitting:
        def __str__(self) -> str:
            bus.emit(event("completed", 2, saga_id="g"))
            return "done"

    run_in_threads(lambda: bus.emit(event("step_committed", 1, saga_id="g", action="a", result=Emitting())))
    assert [span.name for span in exporter.completed_spans] == ["saga.step.a", "saga.completed.g"]
    assert exporter.completed_spans[0].attributes["agent.saga.result"] == "done"
    assert exporter.completed_spans[1].duration_seconds == 1


def test_a_sink_that_knows_records_gets_the_whole_of_one_that_it_may_change() -> None:
    class Whole(Recorder):
        def record_saga_span(self, record: SagaSpanRecord) -> None:
            self.records.append(record)

        def __init__(self) -> None:
            super().__init__()
            self.records: list[SagaSpanRecord] = []

    bus, sink = HypervisorEventBus(), Whole()
    exporter = SagaSpanExporter(bus, sink=sink)
    bus.emit(event("completed", 1, saga_id="g"))
    assert sink.records == exporter.completed_spans
    assert sink.names == []
    sink.records[0].attributes["mine"] = "1"
    assert "mine" not in exporter.completed_spans[0].attributes


FORK = """
import os, signal, threading
from hypervisor_consumers.saga_spans.exporter import SagaSpanExporter
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent

bus = HypervisorEventBus()
exporter = SagaSpanExporter(bus)
inside, release = threading.Event(), threading.Event()

class Slow:
    def __str__(self):
        inside.set()
        release.wait(20)
        return "done"

def completed(**payload):
    bus.emit(HypervisorEvent(event_type=EventType.SAGA_COMPLETED, payload=payload))

busy = threading.Thread(target=completed, kwargs={"saga_id": "parent", "result": Slow()})
busy.start()
assert inside.wait(20)
child = os.fork()
if child == 0:
    signal.alarm(10)
    completed(saga_id="child")
    os._exit(0 if [span.saga_id for span in exporter.completed_spans] == ["child"] else 1)
release.set()
busy.join(20)
assert [span.saga_id for span in exporter.completed_spans] == ["parent"]
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_that_was_forked_in_the_middle_of_a_span_emits_on() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_handler_that_answers_one_saga_event_with_another_sees_them_become_spans_in_order() -> None:
    bus = HypervisorEventBus()
    exporter = SagaSpanExporter(bus)

    def compensate(failed: HypervisorEvent) -> None:
        bus.emit(event("compensating", 2, saga_id="g", action="undo"))

    bus.subscribe(EventType.SAGA_STEP_FAILED, compensate)
    bus.emit(event("step_failed", 1, saga_id="g", action="a"))
    assert [span.name for span in exporter.completed_spans] == ["saga.step.a", "saga.compensate.undo"]
