"""Saga events to spans: names, times, attributes, identity, and which saga an event belongs to."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from typing import Any

import msgspec
import pytest

from hypervisor_consumers.runtime.protocols import Table
from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_LIFECYCLE, SagaFold
from hypervisor_consumers.saga_spans.fold.span_identity import saga_span_id, saga_trace_id, step_span_id
from hypervisor_consumers.saga_spans.fold.state import OpenSaga, OpenStep, SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, HypervisorEvent, UnknownEventType

T0 = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)
CAUSAL = "a1b2c3d4e5f6/01234567"


class Folded:
    """A fold, its state, and the spans that came out; events are given by their short type and time in seconds."""

    def __init__(self) -> None:
        self.fold = SagaFold()
        self.state = self.fold.new_state()
        self.spans: list[SagaSpanRecord] = []

    def __call__(
        self,
        kind: str,
        at: float = 0.0,
        *,
        session: str | None = "s1",
        agent: str | None = None,
        causal: str | None = None,
        **payload: Any,
    ) -> HypervisorEvent:
        event = HypervisorEvent(
            event_type=EventType(f"saga.{kind}"),
            timestamp=T0 + timedelta(seconds=at),
            session_id=session,
            agent_did=agent,
            causal_trace_id=causal,
            payload=payload,
        )
        self.spans.extend(self.fold.apply(self.state, event) or ())
        return event

    @property
    def last(self) -> SagaSpanRecord:
        return self.spans[-1]

    def holds_nothing(self) -> bool:
        return self.state == SagaState()


@pytest.fixture
def saga() -> Folded:
    return Folded()


def seconds(at: float) -> float:
    return (T0 + timedelta(seconds=at)).timestamp()


def test_a_committed_step_becomes_an_ok_span_with_the_attributes_of_the_seed(saga: Folded) -> None:
    saga("created", 0, saga_id="deploy-v2")
    started = saga("step_started", 1, saga_id="deploy-v2", step_id="validate-config", step_action="validate")
    saga(
        "step_committed",
        3.5,
        agent="did:mesh:orchestrator",
        saga_id="deploy-v2",
        step_id="validate-config",
        step_action="validate",
        result="all checks passed",
    )
    trace_id = saga_trace_id(None, "s1", "deploy-v2")
    assert saga.spans == [
        SagaSpanRecord(
            name="saga.step.validate",
            saga_id="deploy-v2",
            step_id="validate-config",
            step_action="validate",
            start_time=seconds(1),
            end_time=seconds(3.5),
            status="ok",
            attributes={
                "agent.saga.id": "deploy-v2",
                "agent.saga.step_id": "validate-config",
                "agent.saga.step_action": "validate",
                "agent.saga.state": "ok",
                "agent.saga.result": "all checks passed",
                "agent.did": "did:mesh:orchestrator",
                "session.id": "s1",
            },
            trace_id=trace_id,
            span_id=started.event_id,
            parent_span_id=saga_span_id(trace_id, "s1", "deploy-v2"),
        )
    ]
    assert saga.last.duration_seconds == 2.5


def test_a_failed_step_becomes_an_error_span_with_error_and_reason(saga: Folded) -> None:
    saga("step_started", 1, saga_id="g", step_id="run", step_action="migrate")
    saga("step_failed", 2, saga_id="g", step_id="run", step_action="migrate", error="timeout", reason="db down")
    assert (saga.last.name, saga.last.status) == ("saga.step.migrate", "error")
    assert saga.last.attributes["agent.saga.state"] == "error"
    assert saga.last.attributes["agent.saga.error"] == "timeout"
    assert saga.last.attributes["agent.saga.reason"] == "db down"


def test_a_compensation_is_a_span_of_length_zero_at_once(saga: Folded) -> None:
    event = saga("compensating", 4, saga_id="g", step_id="rollback-config", step_action="rollback")
    assert (saga.last.name, saga.last.status) == ("saga.compensate.rollback", "compensating")
    assert (saga.last.start_time, saga.last.end_time) == (seconds(4), seconds(4))
    assert saga.last.span_id == event.event_id


def test_a_compensation_that_says_nothing_gets_default_names(saga: Folded) -> None:
    saga("compensating", saga_id="g")
    assert (saga.last.step_id, saga.last.step_action) == ("compensation", "compensate")
    assert saga.last.attributes["agent.saga.step_id"] == "compensation"
    assert saga.last.attributes["agent.saga.step_action"] == "compensate"


@pytest.mark.parametrize(
    ("kind", "name", "action", "status"),
    [
        ("completed", "saga.completed.deploy", "complete", "ok"),
        ("escalated", "saga.escalated.deploy", "escalate", "error"),
    ],
)
def test_the_end_of_a_saga_is_a_span_over_all_of_it(
    saga: Folded, kind: str, name: str, action: str, status: str
) -> None:
    saga("created", 0, saga_id="deploy", causal=CAUSAL)
    saga(kind, 10, saga_id="deploy", reason="why")
    trace_id = saga_trace_id(CAUSAL, "s1", "deploy")
    assert saga.last == SagaSpanRecord(
        name=name,
        saga_id="deploy",
        step_id="",
        step_action=action,
        start_time=seconds(0),
        end_time=seconds(10),
        status=status,
        attributes={
            "agent.saga.id": "deploy",
            "agent.saga.step_id": "",
            "agent.saga.step_action": action,
            "agent.saga.state": status,
            "agent.saga.reason": "why",
            "session.id": "s1",
        },
        trace_id=trace_id,
        span_id=saga_span_id(trace_id, "s1", "deploy"),
        parent_span_id=None,
        causal_trace_id=CAUSAL,
    )
    assert saga.holds_nothing()


def test_action_goes_before_step_action_and_names_a_step_without_an_id(saga: Folded) -> None:
    saga("step_started", 1, saga_id="g", action="build", step_action="other")
    saga("step_committed", 2, saga_id="g", action="build")
    assert (saga.last.name, saga.last.step_id, saga.last.step_action) == ("saga.step.build", "build", "build")
    assert saga.last.duration_seconds == 1


def test_a_step_without_an_action_is_named_by_its_id(saga: Folded) -> None:
    saga("step_committed", saga_id="g", step_id="build")
    assert (saga.last.name, saga.last.step_action) == ("saga.step.build", "")


def test_a_saga_without_an_id_goes_by_its_causal_trace_id_else_it_is_unknown(saga: Folded) -> None:
    saga("completed", causal=CAUSAL)
    assert saga.last.name == f"saga.completed.{CAUSAL}"
    assert saga.last.attributes["agent.saga.id"] == CAUSAL
    saga("completed")
    assert saga.last.name == "saga.completed.unknown"


def test_an_empty_text_counts_as_absent(saga: Folded) -> None:
    saga("step_committed", session="", agent="", causal="", saga_id="", step_id="", action="", step_action="go")
    assert (saga.last.saga_id, saga.last.step_id, saga.last.name) == ("unknown", "go", "saga.step.go")
    assert not {"agent.did", "session.id"} & saga.last.attributes.keys()
    assert saga.last.trace_id == saga_trace_id(None, "", "unknown")


def test_numbers_are_ids_too_also_zero(saga: Folded) -> None:
    saga("step_committed", saga_id=0, step_id=0, action="go")
    assert (saga.last.saga_id, saga.last.step_id) == ("0", "0")
    assert saga.last.attributes["agent.saga.id"] == "0"


def test_an_enum_in_the_payload_is_its_value_as_it_is_on_the_wire(saga: Folded) -> None:
    class Action(str, Enum):  # noqa: UP042 - a StrEnum prints as its value; agents have both kinds
        BUILD = "build"

    saga("step_started", 0, saga_id="g", action=Action.BUILD)
    saga("step_committed", 1, saga_id="g", action="build")
    assert (saga.last.name, saga.last.duration_seconds) == ("saga.step.build", 1)


def test_details_of_any_kind_become_text_and_null_is_a_detail(saga: Folded) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError

    saga("step_failed", saga_id="g", error={"code": 7}, reason=None, result=Unprintable())
    assert saga.last.attributes["agent.saga.error"] == "{'code': 7}"
    assert saga.last.attributes["agent.saga.reason"] == "None"
    assert saga.last.attributes["agent.saga.result"] == "<Unprintable that can't be written as text>"


def test_in_process_events_without_an_id_are_folded_as_any_other(saga: Folded) -> None:
    for at, kind in enumerate(("created", "step_started", "step_committed", "completed")):
        event = HypervisorEvent(
            event_id="",
            event_type=EventType(f"saga.{kind}"),
            timestamp=T0 + timedelta(seconds=at),
            payload={"saga_id": "g", "step_id": "a"},
        )
        saga.spans.extend(saga.fold.apply(saga.state, event) or ())
    assert [span.duration_seconds for span in saga.spans] == [1, 3]


def test_a_step_that_ends_without_a_start_has_length_zero_and_the_identity_of_its_end(saga: Folded) -> None:
    event = saga("step_committed", 5, saga_id="g", step_id="a")
    assert (saga.last.start_time, saga.last.end_time) == (seconds(5), seconds(5))
    assert saga.last.span_id == event.event_id


def test_a_saga_that_ends_without_a_start_has_length_zero(saga: Folded) -> None:
    saga("completed", 5, saga_id="g", causal=CAUSAL)
    assert (saga.last.start_time, saga.last.end_time) == (seconds(5), seconds(5))
    assert saga.last.trace_id == saga_trace_id(CAUSAL, "s1", "g")
    assert saga.holds_nothing()


@pytest.mark.parametrize("first", ["step_started", "step_committed", "step_failed", "compensating"])
def test_a_saga_starts_with_whichever_of_its_events_comes_first(saga: Folded, first: str) -> None:
    saga(first, 2, saga_id="g", step_id="a", causal=CAUSAL)
    saga("completed", 9, saga_id="g")
    assert saga.last.duration_seconds == 7
    assert saga.last.trace_id == saga_trace_id(CAUSAL, "s1", "g")


def test_a_late_created_moves_the_start_back_and_keeps_the_identity(saga: Folded) -> None:
    saga("step_started", 2, saga_id="g", step_id="a", causal=CAUSAL)
    saga("created", 0, saga_id="g", causal="ffffffffffff/00000001")
    saga("completed", 9, saga_id="g")
    assert saga.last.start_time == seconds(0)
    assert saga.last.trace_id == saga_trace_id(CAUSAL, "s1", "g")


def test_a_late_created_never_moves_the_start_forward(saga: Folded) -> None:
    saga("step_started", 2, saga_id="g", step_id="a")
    saga("created", 3, saga_id="g")
    saga("completed", 9, saga_id="g")
    assert saga.last.start_time == seconds(2)


def test_an_end_before_the_start_gives_length_zero_at_the_start(saga: Folded) -> None:
    saga("created", 10, saga_id="g")
    saga("step_started", 8, saga_id="g", step_id="a")
    saga("step_committed", 7, saga_id="g", step_id="a")
    saga("completed", 6, saga_id="g")
    assert [(span.start_time, span.end_time) for span in saga.spans] == [
        (seconds(8), seconds(8)),
        (seconds(10), seconds(10)),
    ]


def test_a_step_that_starts_again_is_a_new_span(saga: Folded) -> None:
    first = saga("step_started", 1, saga_id="g", step_id="a")
    saga("step_failed", 2, saga_id="g", step_id="a")
    second = saga("step_started", 3, saga_id="g", step_id="a")
    saga("step_committed", 4, saga_id="g", step_id="a")
    assert [span.span_id for span in saga.spans] == [first.event_id, second.event_id]
    assert [span.start_time for span in saga.spans] == [seconds(1), seconds(3)]


def test_a_step_that_starts_again_before_it_ended_counts_from_its_last_start(saga: Folded) -> None:
    saga("step_started", 1, saga_id="g", step_id="a")
    retried = saga("step_started", 3, saga_id="g", step_id="a")
    saga("step_committed", 4, saga_id="g", step_id="a")
    assert (saga.last.start_time, saga.last.span_id) == (seconds(3), retried.event_id)
    saga("completed", 5, saga_id="g")
    assert saga.holds_nothing()


def test_steps_are_found_by_session_saga_and_id_not_by_id_alone(saga: Folded) -> None:
    saga("step_started", 1, saga_id="g", step_id="a")
    saga("step_started", 2, saga_id="h", step_id="a")
    saga("step_started", 3, session="s2", saga_id="g", step_id="a")
    saga("step_committed", 9, saga_id="g", step_id="a")
    saga("step_committed", 9, saga_id="h", step_id="a")
    saga("step_committed", 9, session="s2", saga_id="g", step_id="a")
    assert [span.duration_seconds for span in saga.spans] == [8, 7, 6]
    assert len({span.trace_id for span in saga.spans}) == 3


def test_one_saga_id_in_two_sessions_is_two_sagas(saga: Folded) -> None:
    saga("created", 0, session="s1", saga_id="g")
    saga("created", 5, session="s2", saga_id="g")
    saga("completed", 10, session="s1", saga_id="g")
    saga("completed", 10, session="s2", saga_id="g")
    assert [span.duration_seconds for span in saga.spans] == [10, 5]
    assert saga.spans[0].trace_id != saga.spans[1].trace_id


def test_an_event_without_a_session_joins_the_open_saga_that_was_opened_last(saga: Folded) -> None:
    saga("created", 0, session="s1", saga_id="g")
    saga("created", 1, session="s2", saga_id="g")
    saga("created", 2, session="s3", saga_id="other")
    saga("step_started", 3, session=None, saga_id="g", step_id="a")
    saga("step_committed", 4, session="s2", saga_id="g", step_id="a")
    assert saga.last.duration_seconds == 1
    assert saga.last.trace_id == saga_trace_id(None, "s2", "g")
    for at, session in ((5, "s2"), (6, "s1")):
        saga("completed", at, session=None, saga_id="g")
        assert saga.last.trace_id == saga_trace_id(None, session, "g")
    assert [span.duration_seconds for span in saga.spans[1:]] == [4, 6]


def test_the_latest_open_saga_is_still_found_when_one_in_between_has_ended(saga: Folded) -> None:
    for at, session in enumerate(("s1", "s2", "s3")):
        saga("created", at, session=session, saga_id="g")
    for session in ("s2", "s3"):
        saga("completed", 10, session=session, saga_id="g")
    saga("completed", 10, session=None, saga_id="g")
    assert saga.last.duration_seconds == 10
    assert saga.holds_nothing()


def test_a_span_carries_the_session_and_agent_of_the_event_that_finished_it(saga: Folded) -> None:
    saga("created", 0, session="s1", agent="did:a", saga_id="g")
    saga("completed", 1, session=None, agent="did:b", saga_id="g")
    assert saga.last.attributes["agent.did"] == "did:b"
    assert "session.id" not in saga.last.attributes
    assert saga.last.trace_id == saga_trace_id(None, "s1", "g")


def test_an_event_without_a_session_opens_a_saga_of_its_own_when_none_is_open(saga: Folded) -> None:
    saga("created", 0, session=None, saga_id="g")
    saga("created", 1, session="s1", saga_id="g")
    saga("completed", 3, session="s1", saga_id="g")
    assert saga.last.duration_seconds == 2
    saga("completed", 3, session=None, saga_id="g")
    assert saga.last.duration_seconds == 3
    assert saga.last.trace_id == saga_trace_id(None, "", "g")


def test_the_end_of_a_saga_drops_its_open_steps_and_no_others(saga: Folded) -> None:
    saga("created", 0, saga_id="g")
    for step in ("a", "b", "c"):
        saga("step_started", 1, saga_id="g", step_id=step)
        saga("step_started", 1, saga_id="h", step_id=step)
    saga("step_committed", 2, saga_id="g", step_id="b")
    saga("escalated", 3, saga_id="g")
    late = saga("step_committed", 4, saga_id="g", step_id="a")
    assert (saga.last.duration_seconds, saga.last.span_id) == (0, late.event_id)
    saga("step_committed", 4, saga_id="h", step_id="a")
    assert saga.last.duration_seconds == 3


LONG = "step" * 255
"""Longer than a step that its saga holds itself."""
"""An id that no saga holds itself."""


def test_however_many_steps_are_open_each_ends_with_its_own_start_and_the_saga_drops_the_rest(
    saga: Folded,
) -> None:
    steps = [*(f"a{n}" for n in range(20)), LONG]
    started = {step: saga("step_started", at, saga_id="g", step_id=step) for at, step in enumerate(steps)}
    again = {step: saga("step_started", 30, saga_id="g", step_id=step) for step in ("a0", "a19", LONG)}
    kept = {"a3", "a10", "a15"}
    # From both ends and out of the middle, among those that the saga holds itself and those it doesn't.
    ending = [step for step in [*steps[::-2], *steps[-2::-2]] if step not in kept]
    for step in ending:
        saga("step_committed", 40, saga_id="g", step_id=step)
        # What is free again is taken again.
        saga("step_started", 41, saga_id="g", step_id="short")
        saga("step_committed", 42, saga_id="g", step_id="short")
    spans = {span.step_id: span for span in saga.spans if span.step_id != "short"}
    for step in ending:
        assert spans[step].span_id == (again.get(step) or started[step]).event_id
    assert [span.duration_seconds for span in saga.spans if span.step_id == "short"] == [1] * len(ending)
    saga("completed", 50, saga_id="g")
    assert saga.holds_nothing()


def test_a_step_is_one_record_of_the_changelog_at_its_start_and_one_at_its_end(saga: Folded) -> None:
    def changed() -> list[int]:
        return [len(table) for table in (saga.state.sagas, saga.state.steps, saga.state.newest)]

    for table in (saga.state.sagas, saga.state.steps, saga.state.newest):
        table.base = {}
    saga("created", 0, session="s0", saga_id="g")
    saga("created", 0, saga_id="g")
    saga("step_started", 0, saga_id="g", step_id="other")
    for kind in ("step_started", "step_committed"):
        for table in (saga.state.sagas, saga.state.steps, saga.state.newest):
            table.merge_changes()
        saga(kind, 1, saga_id="g", step_id="a")
        assert changed() == [1, 0, 0]


def test_a_saga_never_holds_so_much_that_its_record_grows_beyond_all_measure(saga: Folded) -> None:
    for n in range(100):
        saga("step_started", 0, session="short", saga_id="g", step_id=f"{n}")
        saga("step_started", 0, session="long", saga_id="g", step_id=f"{LONG}{n}")
    for _, value in saga.state.sagas.present():
        assert len(msgspec.json.encode(value)) < 5_000


@pytest.mark.parametrize(
    "named", [{"saga_id": "g", "step_id": "x"}, {"saga_id": "x"}, {"saga_id": "g", "action": "x"}]
)
def test_an_id_has_1024_characters_at_most(saga: Folded, named: dict[str, str]) -> None:
    fits = {name: value.replace("x", "x" * 1024) for name, value in named.items()}
    saga("step_committed", 0, **fits)
    assert len(saga.spans) == 1
    with pytest.raises(InvalidPayload, match="has 1025 characters; an id has 1024 at most"):
        saga("step_committed", 0, **{name: value.replace("x" * 1024, "x" * 1025) for name, value in fits.items()})


def test_a_step_that_ends_after_its_saga_is_in_the_same_trace_under_the_same_parent(saga: Folded) -> None:
    saga("created", 0, saga_id="g", causal=CAUSAL)
    saga("completed", 1, saga_id="g", causal=CAUSAL)
    saga("step_failed", 2, saga_id="g", step_id="a", causal="a1b2c3d4e5f6/89abcdef/01234567")
    ended, late = saga.spans
    assert (late.trace_id, late.parent_span_id) == (ended.trace_id, ended.span_id)


def test_a_saga_created_again_after_it_ended_starts_anew(saga: Folded) -> None:
    saga("created", 0, saga_id="g")
    saga("step_started", 1, saga_id="g", step_id="a")
    saga("completed", 2, saga_id="g")
    saga("created", 5, saga_id="g")
    saga("step_committed", 6, saga_id="g", step_id="a")
    saga("completed", 7, saga_id="g")
    assert [span.duration_seconds for span in saga.spans] == [2, 0, 2]


def test_ids_that_hold_slashes_and_colons_dont_meet(saga: Folded) -> None:
    saga("created", 0, session="a:b", saga_id="c")
    saga("completed", 5, session="a", saga_id="b:c")
    assert saga.last.duration_seconds == 0


@pytest.mark.parametrize(
    "event_type",
    [
        EventType.SAGA_FANOUT_STARTED,
        EventType.SAGA_FANOUT_RESOLVED,
        EventType.SAGA_CHECKPOINT_SAVED,
        EventType.SAGA_HANDOFF,
        EventType.RING_ASSIGNED,
        UnknownEventType("saga.of_a_later_version"),
    ],
)
def test_every_other_type_is_ignored_whatever_its_payload_holds(saga: Folded, event_type: EventType) -> None:
    event = HypervisorEvent(event_type=event_type, session_id="s1", payload={"saga_id": ["not", "an", "id"]})
    assert saga.fold.apply(saga.state, event) is None
    assert saga.holds_nothing()


def test_an_event_that_finishes_no_span_is_not_an_ignored_one(saga: Folded) -> None:
    event = HypervisorEvent(event_type=EventType.SAGA_CREATED, payload={"saga_id": "g"})
    outputs = saga.fold.apply(saga.state, event)
    assert outputs is not None
    assert not outputs


@pytest.mark.parametrize("event_type", SAGA_LIFECYCLE)
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"saga_id": ["g"]}, id="a list as an id"),
        pytest.param({"saga_id": "g", "step_id": {"a": 1}}, id="an object as an id"),
        pytest.param({"saga_id": "g", "step_id": 1.5}, id="a fraction as an id"),
        pytest.param({"saga_id": True}, id="a truth value as an id"),
        pytest.param({"saga_id": 10**5000}, id="a number of too many digits"),
        pytest.param({"saga_id": "g", "action": 7}, id="a number as an action"),
        pytest.param({"saga_id": "g", "step_action": b"x"}, id="bytes as an action"),
        pytest.param(None, id="null"),
        pytest.param(["g"], id="a list"),
    ],
)
def test_a_payload_that_doesnt_fit_is_refused_before_anything_changes(
    saga: Folded, event_type: EventType, payload: Any
) -> None:
    saga("created", 5, saga_id="g")
    saga("step_started", 6, saga_id="g", step_id="a")
    before = copy.deepcopy(saga.state)
    event = HypervisorEvent(event_type=event_type, timestamp=T0, session_id="s1", payload=payload)
    with pytest.raises(InvalidPayload, match=r"^The payload doesn't fit: .+"):
        saga.fold.apply(saga.state, event)
    assert saga.state == before


def test_a_time_without_a_zone_is_utc_on_every_machine(saga: Folded) -> None:
    naive, aware = T0.replace(tzinfo=None), T0.astimezone(timezone(timedelta(hours=9)))
    for timestamp in (naive, aware):
        event = HypervisorEvent(event_type=EventType.SAGA_COMPLETED, timestamp=timestamp)
        (span,) = saga.fold.apply(saga.state, event) or ()
        assert span.end_time == T0.timestamp()


def test_the_same_events_give_the_same_spans_in_another_process(saga: Folded) -> None:
    events = [
        saga("created", 0, saga_id="g"),
        saga("step_started", 1, saga_id="g", step_id="a"),
        saga("step_committed", 2, saga_id="g", step_id="a"),
        saga("compensating", 3, saga_id="g"),
        saga("completed", 4, saga_id="g"),
    ]
    fold, again = SagaFold(), SagaFold().new_state()
    assert [span for event in events for span in fold.apply(again, event) or ()] == saga.spans


def test_step_and_saga_ids_are_those_of_the_identity_rules(saga: Folded) -> None:
    event = HypervisorEvent(event_id="not hex", event_type=EventType.SAGA_COMPENSATING, payload={"saga_id": "g"})
    (span,) = saga.fold.apply(saga.state, event) or ()
    assert span.span_id == step_span_id("not hex")
    assert span.parent_span_id == saga_span_id(span.trace_id, "", "g")


def test_the_cost_of_an_event_doesnt_grow_with_what_is_open() -> None:
    """Counted in reads and writes of the tables, not in time."""

    class Counting(Table):  # type: ignore[type-arg]
        touched = 0

        def __iter__(self) -> Any:
            Counting.touched += len(self)
            return super().__iter__()

        def __getitem__(self, key: Any) -> Any:
            Counting.touched += 1
            return super().__getitem__(key)

        def __setitem__(self, key: Any, value: Any) -> None:
            Counting.touched += 1
            super().__setitem__(key, value)

        def __delitem__(self, key: Any) -> None:
            Counting.touched += 1
            super().__delitem__(key)

        def values(self) -> Any:
            Counting.touched += len(self)
            return super().values()

        def items(self) -> Any:
            Counting.touched += len(self)
            return super().items()

        def keys(self) -> Any:
            Counting.touched += len(self)
            return super().keys()

    def touched_by_one_more_of_each(already_open: int) -> int:
        saga = Folded()
        saga.state = SagaState(Counting(OpenSaga), Counting(OpenStep), Counting(tuple[str, ...]))
        for n in range(already_open):
            saga("step_started", 0, session=f"s{n}", saga_id="unknown", step_id="a")
            saga("step_started", 0, session="s", saga_id="unknown", step_id=f"a{n}")
        Counting.touched = 0
        saga("step_started", 1, session="s", saga_id="unknown", step_id="last")
        saga("step_committed", 2, session="s", saga_id="unknown", step_id="last")
        saga("created", 3, session="new", saga_id="unknown")
        saga("completed", 4, session=None, saga_id="unknown")
        return Counting.touched

    assert touched_by_one_more_of_each(1000) == touched_by_one_more_of_each(20) > 0
