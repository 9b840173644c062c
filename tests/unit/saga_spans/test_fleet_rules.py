"""Sagas of a fleet: time-outs, what comes late, fan-outs, checkpoints, and what is counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_EVENT_TYPES, SagaFold
from hypervisor_consumers.saga_spans.fold.span_identity import fan_out_span_id, saga_span_id, saga_trace_id
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanEvent
from hypervisor_schemas.events import EventType, HypervisorEvent

T0 = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
START_MS = 1_700_000_000_000
TIMEOUT, GRACE = 100, 20
"""Seconds."""


class Fleet:
    """The service's fold; events are published, a second apart where not said otherwise, when they happen."""

    def __init__(self) -> None:
        self.fold = SagaFold(timeout_ms=TIMEOUT * 1000, grace_ms=GRACE * 1000)
        self.state = self.fold.new_state()
        self.spans: list[SagaSpanRecord] = []

    def __call__(
        self, kind: str, at: float, *, published: float | None = None, session: str | None = "s1", **payload: Any
    ) -> HypervisorEvent:
        fields = {name: payload.pop(name) for name in ("agent_did", "causal_trace_id") if name in payload}
        event = HypervisorEvent(
            event_type=EventType(f"saga.{kind}"),
            timestamp=T0 + timedelta(seconds=at),
            session_id=session,
            payload={"saga_id": "g", **payload},
            **fields,
        )
        seen_at = START_MS + int((at if published is None else published) * 1000)
        self.spans.extend(self.fold.apply(self.state, event, seen_at) or ())
        return event

    def look(self, at: float) -> None:
        self.spans.extend(self.fold.expire(self.state, START_MS + int(at * 1000)))

    @property
    def last(self) -> SagaSpanRecord:
        return self.spans[-1]

    def named(self, name: str) -> list[SagaSpanRecord]:
        return [span for span in self.spans if span.name == name]

    def totals(self) -> dict[str, int]:
        return {" ".join(key): total.count for key, total in self.state.totals.present()}


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def seconds(at: float) -> float:
    return (T0 + timedelta(seconds=at)).timestamp()


class TestASagaWithoutAnEnd:
    def test_ends_as_an_error_at_its_start_plus_the_timeout(self, fleet: Fleet) -> None:
        fleet("created", 5, published=50, agent_did="did:a")
        fleet.look(149)
        assert fleet.spans == []
        fleet.look(151)
        assert fleet.last.name == "saga.timed_out.g"
        assert (fleet.last.start_time, fleet.last.end_time) == (seconds(5), seconds(105))
        assert (fleet.last.status, fleet.last.error_type) == ("error", "saga_timeout")
        assert fleet.last.attributes == {
            "agent.saga.id": "g",
            "agent.saga.step_id": "",
            "agent.saga.step_action": "time_out",
            "agent.saga.state": "error",
            "agent.saga.reason": "no end came within 100 s of its first event",
            "agent.did": "did:a",
            "session.id": "s1",
        }
        trace_id = saga_trace_id(None, "s1", "g")
        assert (fleet.last.trace_id, fleet.last.span_id) == (trace_id, saga_span_id(trace_id, "s1", "g"))

    def test_is_the_same_span_however_late_somebody_looks(self) -> None:
        found = []
        for at in (101, 5000):
            fleet = Fleet()
            event = HypervisorEvent(
                event_id="0123456789abcdef",
                event_type=EventType.SAGA_STEP_STARTED,
                timestamp=T0,
                session_id="s1",
                payload={"saga_id": "g", "step_id": "a", "action": "go"},
            )
            fleet.fold.apply(fleet.state, event, START_MS)
            fleet.look(at)
            found.append(fleet.spans)
        assert found[0] == found[1]
        assert [span.name for span in found[0]] == ["saga.timed_out.g", "saga.step.go"]

    def test_takes_its_open_steps_and_fan_outs_with_it(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("fanout_started", 1, fan_out_id="f", policy="any")
        for number in range(12):
            fleet("step_started", 2, step_id=f"s{number}", action="work")
        fleet("step_started", 200, published=3, step_id="ahead", action="clock")
        fleet.look(101)
        steps = fleet.named("saga.step.work")
        assert sorted(span.step_id for span in steps) == sorted(f"s{number}" for number in range(12))
        assert {(span.start_time, span.end_time) for span in steps} == {(seconds(2), seconds(100))}
        assert {span.attributes["agent.saga.reason"] for span in steps} == {
            "no end came before its saga was timed out"
        }
        [ahead] = fleet.named("saga.step.clock")
        assert (ahead.start_time, ahead.end_time) == (seconds(200), seconds(200))
        [fan_out] = fleet.named("saga.fanout.any")
        assert (fan_out.start_time, fan_out.end_time) == (seconds(1), seconds(100))

    @pytest.mark.parametrize("kind", ["completed", "escalated", "step_committed", "step_failed", "fanout_resolved"])
    def test_has_no_other_end_that_is_exported(self, fleet: Fleet, kind: str) -> None:
        fleet("step_started", 0, step_id="a")
        fleet.look(101)
        exported = list(fleet.spans)
        fleet(kind, 150, step_id="a")
        assert fleet.spans == exported
        assert fleet.totals()[f"late {kind}"] == 1

    def test_may_go_on_with_steps_and_compensations_of_its_own(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet.look(101)
        started = fleet("step_started", 150, step_id="b", action="resume")
        fleet("step_committed", 160, step_id="b", action="resume")
        assert (fleet.last.span_id, fleet.last.duration_seconds) == (started.event_id, 10)
        fleet("compensating", 161, action="undo")
        assert fleet.last.name == "saga.compensate.undo"
        assert {span.trace_id for span in fleet.spans} == {saga_trace_id(None, "s1", "g")}

    def test_is_remembered_for_as_long_again(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet.look(101)
        fleet.look(200)
        assert list(fleet.state.ended)
        fleet.look(202)
        assert not list(fleet.state.ended)

    def test_is_none_where_its_end_came_in_time(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("completed", 99)
        fleet.look(1000)
        assert [span.name for span in fleet.spans] == ["saga.completed.g"]

    def test_the_timeout_runs_from_the_publishing_of_its_first_event(self, fleet: Fleet) -> None:
        fleet("created", 0, published=0)
        fleet("step_started", 1, published=90, step_id="a")
        fleet.look(100)
        assert len(fleet.spans) == 2


class TestWhatComesAfterTheEnd:
    def test_a_steps_end_has_the_steps_own_start(self, fleet: Fleet) -> None:
        fleet("created", 0)
        started = fleet("step_started", 1, step_id="a", action="go")
        fleet("completed", 5)
        fleet("step_committed", 7, step_id="a", action="go")
        assert (fleet.last.name, fleet.last.status) == ("saga.step.go", "ok")
        assert (fleet.last.start_time, fleet.last.end_time) == (seconds(1), seconds(7))
        assert fleet.last.span_id == started.event_id
        assert fleet.last.parent_span_id == fleet.spans[0].span_id
        assert not list(fleet.state.sagas)

    def test_a_step_whose_start_comes_late_too(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("completed", 5)
        fleet("step_started", 1, published=6, step_id="a", action="go")
        fleet("step_committed", 4, published=7, step_id="a", action="go")
        assert [span.duration_seconds for span in fleet.named("saga.step.go")] == [3]

    def test_a_step_that_never_ends_is_an_error_when_the_saga_is_forgotten(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("step_started", 1, step_id="a", action="go")
        fleet("completed", 5)
        fleet.look(24.9)
        assert len(fleet.spans) == 1
        fleet.look(25)
        assert (fleet.last.name, fleet.last.status) == ("saga.step.go", "error")
        assert (fleet.last.start_time, fleet.last.end_time) == (seconds(1), seconds(5))
        assert fleet.last.error_type == "saga_unfinished"
        assert fleet.last.attributes["agent.saga.reason"] == "open when its saga ended"
        assert fleet.totals() == {"saga ok": 1, "step unfinished": 1}

    def test_a_compensation_lies_under_the_saga(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("escalated", 5)
        fleet("compensating", 6, action="undo")
        assert fleet.last.parent_span_id == fleet.spans[0].span_id
        assert not list(fleet.state.sagas)

    @pytest.mark.parametrize(("kind", "at"), [("completed", 6), ("escalated", 6), ("created", 1), ("created", 5)])
    def test_a_second_end_and_a_late_created_are_counted_not_exported(
        self, fleet: Fleet, kind: str, at: float
    ) -> None:
        fleet("step_committed", 2, step_id="a")
        fleet("completed", 5)
        exported = list(fleet.spans)
        fleet(kind, at)
        assert fleet.spans == exported
        assert fleet.totals()[f"late {kind}"] == 1
        assert not list(fleet.state.sagas)

    @pytest.mark.parametrize("kind", ["created", "step_started", "fanout_started"])
    def test_a_start_from_after_the_end_is_a_new_run(self, fleet: Fleet, kind: str) -> None:
        fleet("step_started", 1, step_id="open", action="open")
        fleet("completed", 5)
        fleet(kind, 6, step_id="b")
        fleet("completed", 9)
        names = [span.name for span in fleet.spans]
        assert names == ["saga.completed.g", "saga.step.open", "saga.completed.g"]
        assert fleet.last.duration_seconds == 3

    def test_when_it_is_forgotten_a_saga_of_that_id_is_a_new_one(self, fleet: Fleet) -> None:
        fleet("completed", 5)
        fleet.look(30)
        fleet("completed", 40)
        assert len(fleet.spans) == 2

    def test_of_many_open_steps_none_is_lost(self, fleet: Fleet) -> None:
        for number in range(100):
            fleet("step_started", 1, step_id=f"s{number}", action="go")
        fleet("completed", 5)
        for number in range(100, 120):
            fleet("step_started", 2, step_id=f"s{number}", action="go")
        fleet.look(30)
        spans = fleet.named("saga.step.go")
        assert sorted(span.step_id for span in spans) == sorted(f"s{number}" for number in range(120))
        assert len({span.span_id for span in spans}) == 120


class TestAFanOut:
    def test_is_a_span_with_its_branches_under_it(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("fanout_started", 1, fan_out_id="f1", policy="all_must_succeed", branches=["b", {"step_id": "c"}, 7])
        for step, named in (("a", {"fan_out_id": "f1"}), ("b", {}), ("c", {}), ("7", {}), ("other", {})):
            fleet("step_started", 2, step_id=step, **named)
            fleet("step_committed", 3, step_id=step)
        fleet("fanout_resolved", 4, fan_out_id="f1", policy_satisfied=True)
        trace_id = saga_trace_id(None, "s1", "g")
        saga = saga_span_id(trace_id, "s1", "g")
        fan_out = fan_out_span_id(trace_id, "s1", "g", "f1")
        assert [span.parent_span_id for span in fleet.spans] == [fan_out] * 4 + [saga, saga]
        assert (fleet.last.name, fleet.last.status) == ("saga.fanout.all_must_succeed", "ok")
        assert (fleet.last.span_id, fleet.last.duration_seconds) == (fan_out, 3)
        assert fleet.last.attributes["agent.saga.step_id"] == "f1"

    @pytest.mark.parametrize("why", [{"policy_satisfied": False}, {"error": "two branches failed"}])
    def test_that_fails_is_an_error(self, fleet: Fleet, why: dict[str, Any]) -> None:
        fleet("fanout_started", 1, group_id="f1")
        fleet("fanout_resolved", 2, group_id="f1", **why)
        assert (fleet.last.name, fleet.last.status) == ("saga.fanout.f1", "error")

    def test_without_an_id_goes_by_the_event_that_starts_it(self, fleet: Fleet) -> None:
        started = fleet("fanout_started", 1)
        fleet("fanout_resolved", 2)
        assert fleet.last.span_id == started.event_id
        again = fleet("fanout_resolved", 3)
        assert (fleet.last.span_id, fleet.last.duration_seconds) == (again.event_id, 0)

    def test_one_too_many_becomes_a_span_as_it_is(self, fleet: Fleet) -> None:
        for number in range(20):
            fleet("fanout_started", number, fan_out_id=f"f{number}")
        fleet("completed", 50)
        fleet.look(100)
        assert sorted(span.step_id for span in fleet.spans) == sorted(["", *(f"f{number}" for number in range(20))])


class TestACheckpoint:
    def test_is_an_event_of_its_step_while_that_is_open_else_of_the_saga(self, fleet: Fleet) -> None:
        fleet("created", 0)
        fleet("step_started", 1, step_id="a", action="go")
        fleet("checkpoint_saved", 2, step_id="a", checkpoint_id="ckpt:1", goal_description="half", goal_hash="ff")
        fleet("step_committed", 3, step_id="a", action="go")
        assert fleet.last.events == (
            SpanEvent(
                "saga.checkpoint",
                seconds(2),
                {"agent.saga.checkpoint_id": "ckpt:1", "agent.saga.goal": "half", "agent.saga.goal_hash": "ff"},
            ),
        )
        fleet("checkpoint_saved", 4, step_id="a", checkpoint_id=2)
        fleet("checkpoint_saved", 5)
        fleet("completed", 6)
        assert [(event.time, event.attributes) for event in fleet.last.events] == [
            (seconds(4), {"agent.saga.checkpoint_id": "2"}),
            (seconds(5), {}),
        ]

    def test_of_many_the_last_are_kept(self, fleet: Fleet) -> None:
        for number in range(12):
            fleet("step_started", 0, step_id=f"s{number}")
        for number in range(40):
            fleet("checkpoint_saved", number, step_id="s11", checkpoint_id=number)
            fleet("checkpoint_saved", number, checkpoint_id=number)
        fleet("step_committed", 50, step_id="s11")
        fleet("completed", 50)
        for span in fleet.spans:
            ids = [event.attributes["agent.saga.checkpoint_id"] for event in span.events]
            assert ids == [str(number) for number in range(24, 40)]


def test_a_compensation_that_says_how_long_it_took_ends_with_its_event(fleet: Fleet) -> None:
    fleet("compensating", 10, action="undo", duration_seconds=2.5)
    assert (fleet.last.start_time, fleet.last.end_time) == (seconds(7.5), seconds(10))


@pytest.mark.parametrize("nonsense", ["2", True, -1, float("nan"), float("inf"), 1e300, None, [3]])
def test_a_duration_that_is_none_is_passed_over(fleet: Fleet, nonsense: Any) -> None:
    fleet("compensating", 10, action="undo", duration_seconds=nonsense)
    assert fleet.last.duration_seconds == 0


def test_a_span_knows_the_causal_trace_that_opened_it_and_the_kind_of_its_error(fleet: Fleet) -> None:
    fleet("created", 0, causal_trace_id="a1b2c3d4e5f6/00000001")
    fleet("step_started", 1, step_id="a", causal_trace_id="a1b2c3d4e5f6/00000002/00000001")
    fleet(
        "step_failed", 2, step_id="a", causal_trace_id="a1b2c3d4e5f6/00000003", error="boom", error_type="Timeout"
    )
    fleet("completed", 3)
    assert [(span.causal_trace_id, span.error_type) for span in fleet.spans] == [
        ("a1b2c3d4e5f6/00000002/00000001", "Timeout"),
        ("a1b2c3d4e5f6/00000001", ""),
    ]


def test_what_comes_out_is_counted_by_kind_and_result_with_its_length_and_a_span_to_look_at(fleet: Fleet) -> None:
    fleet("created", 0)
    for number, (start, end) in enumerate(((1, 1.02), (2, 2.04), (3, 9))):
        fleet("step_started", start, step_id="a")
        fleet("step_failed" if number == 2 else "step_committed", end, step_id="a", error_type="saga_timeout!")
    fleet("compensating", 9)
    fleet("escalated", 10)
    assert fleet.totals() == {"step ok": 2, "step error": 1, "compensation compensating": 1, "saga error": 1}
    total = fleet.state.totals["step", "ok"]
    assert total is not None
    assert total.microseconds == 60_000
    assert sum(total.buckets) == 2
    [exemplar] = [one for one in total.exemplars if one is not None]
    assert (exemplar.trace_id, exemplar.span_id) == (fleet.spans[1].trace_id, fleet.spans[1].span_id)


def test_what_people_want_to_know_of_an_open_saga_is_in_its_state(fleet: Fleet) -> None:
    fleet("created", 0, agent_did="did:a", causal_trace_id="a1b2c3d4e5f6/00000001")
    fleet("step_started", 1, step_id="a", agent_did="did:b")
    fleet("step_committed", 2, step_id="a")
    fleet("step_started", 3, step_id="b", agent_did="did:b")
    fleet("step_failed", 4, step_id="b", error="no seats")
    fleet("compensating", 5)
    fleet("step_started", 6, step_id="c", action="wait", agent_did="did:c")
    saga = fleet.state.sagas["s1", "g"]
    assert saga is not None
    assert (saga.agent_did, saga.causal_trace_id, saga.seen_at_ms) == ("did:c", "a1b2c3d4e5f6/00000001", START_MS)
    assert (saga.done, saga.failed, saga.compensated, saga.last_error) == (1, 1, 1, "no seats")
    assert [(step.step_id, step.action, step.agent_did) for step in saga.steps] == [("c", "wait", "did:c")]


def test_all_ten_types_are_used_and_nothing_else(fleet: Fleet) -> None:
    assert len(SAGA_EVENT_TYPES) == 10
    for kind in EventType:
        event = HypervisorEvent(event_type=kind, payload={"saga_id": "g"})
        assert (fleet.fold.apply(fleet.state, event) is not None) == (kind in SAGA_EVENT_TYPES)


def test_no_record_of_the_changelog_grows_beyond_all_measure(fleet: Fleet) -> None:
    text = "x" * 1024
    for number in range(200):
        fleet("fanout_started", 0, fan_out_id=f"{number}{text}", policy=text, branches=[text] * 100)
        fleet("checkpoint_saved", 0, checkpoint_id=text, goal=text, goal_hash=text)
        fleet("step_started", 0, step_id=f"{number}", action=text, agent_did=text, causal_trace_id=text)
        fleet("checkpoint_saved", 0, step_id=f"{number}", checkpoint_id=text, goal=text, goal_hash=text)
    fleet("completed", 1)
    for name in SagaState.__slots__:
        for _, value in getattr(fleet.state, name).present():
            assert len(msgspec.json.encode(value)) < 900_000
