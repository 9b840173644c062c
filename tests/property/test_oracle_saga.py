"""The exporter beside that of the real `agent-hypervisor` package: alike, but where a test here says why not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import hypervisor.observability as package
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.saga_spans.exporter import SagaSpanExporter
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent

T0 = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
FIELDS = ("name", "saga_id", "step_id", "step_action", "start_time", "end_time", "status", "attributes")


class Both:
    """The two exporters, each on its own project's bus, given the same events; times are seconds from the start."""

    def __init__(self) -> None:
        self.our_bus, self.its_bus = HypervisorEventBus(), package.HypervisorEventBus()
        self.ours, self.its = SagaSpanExporter(self.our_bus), package.SagaSpanExporter(self.its_bus)

    def emit(self, kind: str, at: float, payload: Any, **fields: Any) -> None:
        fields |= {"timestamp": T0 + timedelta(seconds=at), "payload": payload}
        self.our_bus.emit(HypervisorEvent(event_type=EventType(f"saga.{kind}"), **fields))
        self.its_bus.emit(package.HypervisorEvent(event_type=package.EventType(f"saga.{kind}"), **fields))

    def assert_alike(self) -> None:
        ours, its = self.ours.completed_spans, self.its.completed_spans
        assert [[getattr(span, name) for name in FIELDS] for span in ours] == [
            [getattr(span, name) for name in FIELDS] for span in its
        ]
        assert [span.duration_seconds for span in ours] == [span.duration_seconds for span in its]
        assert self.ours.events_processed == self.its.events_processed

    def durations(self) -> tuple[list[float], list[float]]:
        """Ours, its."""
        return (
            [span.duration_seconds for span in self.ours.completed_spans],
            [span.duration_seconds for span in self.its.completed_spans],
        )


@pytest.fixture
def both() -> Both:
    return Both()


def test_the_examples_of_the_tutorial_give_the_same_spans(both: Both) -> None:
    orchestrator = {"session_id": "s1", "agent_did": "did:mesh:orchestrator"}
    validate = {"saga_id": "deploy-v2", "step_id": "validate-config", "step_action": "validate"}
    both.emit("created", 0, {"saga_id": "deploy-v2"}, **orchestrator)
    both.emit("step_started", 1, validate, **orchestrator)
    both.emit("step_committed", 1.5, validate | {"result": "all checks passed"}, **orchestrator)
    migrate = {"saga_id": "deploy-v2", "step_id": "run-migrations", "step_action": "migrate"}
    both.emit("step_started", 2, migrate)
    both.emit("step_failed", 3, migrate | {"error": "connection_timeout", "reason": "unreachable after 30s"})
    both.emit("compensating", 4, {"saga_id": "deploy-v2", "step_id": "rollback-config", "step_action": "rollback"})
    both.emit("completed", 5, {"saga_id": "deploy-v2"})
    both.emit("created", 6, {"saga_id": "deploy-v3"})
    both.emit("escalated", 7, {"saga_id": "deploy-v3"})
    both.assert_alike()
    assert len(both.ours.completed_spans) == 5


class Emitted(NamedTuple):
    kind: str
    at: float
    payload: dict[str, Any]
    fields: dict[str, Any]


def agreed(history: list[Emitted]) -> Iterator[Emitted]:
    """A history made free of the differences that the tests below name one by one.

    A saga begins with `created`, once, and its steps end before it does.
    """
    open_steps: dict[str, set[str]] = {}
    for event in history:
        saga_id = event.payload.get("saga_id", event.fields["causal_trace_id"] or "unknown")
        step = event.payload.get("step_id") or event.payload.get("action") or event.payload.get("step_action", "")
        if event.kind in {"fanout_started", "fanout_resolved", "checkpoint_saved"}:
            yield event
            continue
        if saga_id not in open_steps:
            open_steps[saga_id] = set()
            yield event._replace(kind="created")
        if event.kind == "created":
            continue
        if event.kind == "step_started":
            open_steps[saga_id].add(step)
        elif event.kind in {"step_committed", "step_failed"}:
            open_steps[saga_id].discard(step)
        elif event.kind in {"completed", "escalated"}:
            names_saga = {name: value for name, value in event.payload.items() if name == "saga_id"}
            for still_open in sorted(open_steps.pop(saga_id)):
                yield event._replace(kind="step_failed", payload=names_saga | {"step_id": still_open})
        yield event


texts = st.sampled_from(["a", "b", "deploy v2", "löschen"])
values = st.one_of(
    st.text(max_size=5), st.none(), st.integers(), st.booleans(), st.lists(st.integers(), max_size=2)
)
histories = st.lists(
    st.builds(
        Emitted,
        kind=st.sampled_from(
            ["created"] * 2
            + ["step_started"] * 3
            + ["step_committed", "step_failed", "compensating", "completed", "escalated"] * 2
            + ["fanout_started", "fanout_resolved", "checkpoint_saved"]
        ),
        at=st.floats(0, 10),
        payload=st.fixed_dictionaries(
            {},
            optional={
                "saga_id": texts,
                "step_id": texts,
                "action": texts,
                "step_action": texts,
                "error": values,
                "reason": values,
                "result": values,
                "other": values,
            },
        ),
        fields=st.fixed_dictionaries(
            {
                "session_id": st.sampled_from(["s1", "", None]),
                "agent_did": st.sampled_from(["did:a", "", None]),
                "causal_trace_id": st.sampled_from(["a1b2c3d4e5f6/01234567", "a1b2c3d4e5f6/89abcdef", "", None]),
            }
        ),
    ),
    min_size=10,
    max_size=60,
)


@given(histories)
def test_any_history_without_the_named_differences_gives_the_same_spans(history: list[Emitted]) -> None:
    both = Both()
    clock = 0.0
    for event in agreed(history):
        clock += event.at
        # One session per saga, and its `created` names it: what names none joins it here, and there it is all one.
        fields = event.fields | ({"session_id": "s1"} if event.kind == "created" else {})
        both.emit(event.kind, clock, event.payload, **fields)
    both.assert_alike()


@pytest.mark.parametrize("kind", ["completed", "escalated"])
def test_a_saga_that_ends_without_created_has_a_span_here_and_none_there(both: Both, kind: str) -> None:
    """An exporter that starts in the middle must not hide the end of a workflow, an escalation least of all."""
    both.emit(kind, 5, {"saga_id": "g"}, session_id="s1")
    assert [span.name for span in both.ours.completed_spans] == [f"saga.{kind}.g"]
    assert both.durations() == ([0], [])


def test_a_saga_that_was_opened_by_a_step_lasts_from_that_step(both: Both) -> None:
    """`created` may come late or never; the first that is known of a saga is its start."""
    both.emit("step_started", 1, {"saga_id": "g", "step_id": "a"})
    both.emit("step_committed", 2, {"saga_id": "g", "step_id": "a"})
    both.emit("created", 3, {"saga_id": "g"})
    both.emit("completed", 9, {"saga_id": "g"})
    assert both.durations() == ([1, 8], [1, 6])


def test_a_second_created_of_an_open_saga_doesnt_make_it_younger(both: Both) -> None:
    """An event that is sent twice must not change what was measured."""
    both.emit("created", 0, {"saga_id": "g"})
    both.emit("created", 5, {"saga_id": "g"})
    both.emit("completed", 9, {"saga_id": "g"})
    assert both.durations() == ([9], [4])


def test_one_saga_id_in_two_sessions_is_two_sagas_here_and_one_there(both: Both) -> None:
    """Saga ids are unique in their session, not in the fleet: there, one session's steps end the other's."""
    for at, session in ((0, "s1"), (10, "s2")):
        both.emit("created", at, {"saga_id": "g"}, session_id=session)
        both.emit("step_started", at, {"saga_id": "g", "step_id": "a"}, session_id=session)
    for at, session in ((20, "s1"), (30, "s2")):
        both.emit("step_committed", at, {"saga_id": "g", "step_id": "a"}, session_id=session)
        both.emit("completed", at, {"saga_id": "g"}, session_id=session)
    assert both.durations() == ([20, 20, 20, 20], [10, 10, 0])


def test_a_step_left_open_by_a_saga_that_ended_is_not_the_next_sagas(both: Both) -> None:
    """The next saga of that id would inherit a start from long ago, and the table would never shrink."""
    both.emit("created", 0, {"saga_id": "g"})
    both.emit("step_started", 1, {"saga_id": "g", "step_id": "a"})
    both.emit("escalated", 2, {"saga_id": "g"})
    both.emit("created", 100, {"saga_id": "g"})
    both.emit("step_committed", 101, {"saga_id": "g", "step_id": "a"})
    assert both.durations() == ([2, 0], [2, 100])


def test_no_span_has_a_negative_length(both: Both) -> None:
    """Clocks of two agents differ; no tracing backend takes a span that ends before it starts."""
    both.emit("created", 5, {"saga_id": "g"})
    both.emit("completed", 4, {"saga_id": "g"})
    assert both.durations() == ([0], [-1])


def test_a_time_without_a_zone_is_utc_here_and_this_machines_zone_there(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same event must give the same span on every machine, and on the wire such a time is UTC."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    try:
        for kind in ("created", "completed"):
            fields = {"timestamp": T0.replace(tzinfo=None), "payload": {"saga_id": "g"}}
            both.our_bus.emit(HypervisorEvent(event_type=EventType(f"saga.{kind}"), **fields))
            both.its_bus.emit(package.HypervisorEvent(event_type=package.EventType(f"saga.{kind}"), **fields))
        assert both.ours.completed_spans[0].start_time == T0.timestamp()
        assert both.its.completed_spans[0].start_time == T0.timestamp() - 9 * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def test_an_empty_or_null_field_counts_as_absent(both: Both) -> None:
    """As everywhere in the contract; there, sagas with an empty id meet, and a null becomes an attribute."""
    payload = {"saga_id": "", "step_id": None, "action": None, "step_action": "go"}
    both.emit("step_committed", 0, payload, causal_trace_id="t/s")
    (ours,), (its,) = both.ours.completed_spans, both.its.completed_spans
    assert (ours.saga_id, ours.step_id, ours.step_action, ours.name) == ("t/s", "go", "go", "saga.step.go")
    assert (its.saga_id, its.step_id, its.step_action, its.name) == ("", None, None, "saga.step.None")


def test_a_number_as_an_id_is_text_and_zero_is_an_id(both: Both) -> None:
    """The tutorial's table says string, and 1 and "1" are the same id to whoever reads a trace."""
    both.emit("step_started", 0, {"saga_id": 1, "step_id": 0, "action": "go"})
    both.emit("step_committed", 2, {"saga_id": "1", "step_id": 0, "action": "go"})
    (ours,), (its,) = both.ours.completed_spans, both.its.completed_spans
    assert (ours.saga_id, ours.step_id, ours.duration_seconds) == ("1", "0", 2)
    assert (its.saga_id, its.step_id, its.duration_seconds) == ("1", "go", 0)


def test_a_failing_sink_reaches_the_emitter_there_and_nobody_here(both: Both) -> None:
    """Telemetry that breaks the agent is worse than none."""

    class Failing:
        def record_span(self, **span: Any) -> None:
            raise ConnectionError("the backend is away")

    bus = package.HypervisorEventBus()
    ours = SagaSpanExporter(bus, sink=Failing())
    bus.emit(package.HypervisorEvent(event_type=package.EventType.SAGA_COMPLETED, payload={"saga_id": "g"}))
    assert (ours.sink_errors, len(ours.completed_spans)) == (1, 1)

    both.its.attach_sink(Failing())
    both.emit("created", 0, {"saga_id": "g"})
    with pytest.raises(ConnectionError):
        both.emit("completed", 1, {"saga_id": "g"})


def test_a_payload_that_doesnt_fit_raises_into_the_emitter_there_and_is_counted_here(both: Both) -> None:
    """One agent's mistake must not stop it, nor make a span under an id that no other language could repeat."""
    with pytest.raises(TypeError, match="unhashable"):
        both.emit("created", 0, {"saga_id": ["g"]})
    assert (both.ours.events_rejected, both.ours.events_processed) == (1, 1)
    assert both.its.events_processed == 1


def test_the_buffer_is_bounded_here_and_grows_for_ever_there() -> None:
    """Agents run for weeks."""
    bus = package.HypervisorEventBus(max_events=10)
    ours, its = SagaSpanExporter(bus, max_spans=10), package.SagaSpanExporter(bus)
    for n in range(50):
        for kind in ("created", "completed"):
            bus.emit(
                package.HypervisorEvent(event_type=package.EventType(f"saga.{kind}"), payload={"saga_id": str(n)})
            )
    assert (len(ours.completed_spans), ours.spans_dropped, len(its.completed_spans)) == (10, 40, 50)


def test_the_package_takes_our_sinks_and_we_take_its(both: Both) -> None:
    """Whoever wrote a sink for one uses it with the other."""
    names: list[str] = []

    class Sink:
        def record_span(
            self, name: str, start_time: float, end_time: float, attributes: dict[str, Any], status: str
        ) -> None:
            names.append(name)

    assert isinstance(Sink(), package.SpanSink)
    both.ours.attach_sink(Sink())
    both.its.attach_sink(Sink())
    both.emit("created", 0, {"saga_id": "g"})
    both.emit("completed", 1, {"saga_id": "g"})
    assert names == ["saga.completed.g"] * 2
