"""The saga fold against a model that keeps whole events in lists and searches them from the end."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.protocols import Table
from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_LIFECYCLE, SagaFold
from hypervisor_consumers.saga_spans.fold.span_identity import saga_span_id, saga_trace_id, step_span_id
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, HypervisorEvent

T0 = datetime(2025, 1, 1, tzinfo=UTC)
FOLD = SagaFold()
LONG = ["long " * 100 + end for end in "123"]
"""Steps of such ids are kept beside their saga, not in it."""

payloads = st.fixed_dictionaries(
    {},
    optional={
        "saga_id": st.sampled_from(["g", "h", "", None, 7]),
        "step_id": st.sampled_from(["a", "b", "", None, 0, *LONG]),
        "action": st.sampled_from(["x", "a", "", None]),
        "step_action": st.sampled_from(["y", "", None]),
        "error": st.sampled_from(["boom", None, 5, {"a": [1]}]),
        "result": st.sampled_from(["fine", ""]),
    },
)


@st.composite
def histories(draw: st.DrawFn, bad: bool = False) -> list[HypervisorEvent]:
    types = [*SAGA_LIFECYCLE, EventType.SAGA_FANOUT_STARTED, EventType.RING_ASSIGNED]
    kinds = payloads | st.sampled_from([{"saga_id": ["g"]}, {"saga_id": "g", "action": 1}]) if bad else payloads
    events = st.builds(
        HypervisorEvent,
        event_type=st.sampled_from(types),
        timestamp=st.integers(0, 20).map(lambda at: T0 + timedelta(seconds=at)),
        session_id=st.sampled_from(["s1", "s2", "", None]),
        agent_did=st.sampled_from(["did:a", "", None]),
        causal_trace_id=st.sampled_from(
            ["a1b2c3d4e5f6/01234567", "a1b2c3d4e5f6/89abcdef/01234567", "odd", "", None]
        ),
        payload=kinds,
    )
    # Ids as they are: all different. Hypothesis would draw them from its own randomness otherwise.
    return [
        HypervisorEvent(f"{number + 1:016x}", *[getattr(event, name) for name in HypervisorEvent.__slots__[1:]])
        for number, event in enumerate(draw(st.lists(events, min_size=5, max_size=40)))
    ]


def said(event: HypervisorEvent, name: str) -> str:
    value = event.payload.get(name)
    return "" if value is None else str(value)


class Model:
    """Open sagas in the order of opening, each a dict; everything is found by looking through all of it."""

    def __init__(self) -> None:
        self.open: list[dict[str, Any]] = []

    def apply(self, event: HypervisorEvent) -> list[SagaSpanRecord] | None:
        if event.event_type not in SAGA_LIFECYCLE:
            return None
        kind = event.event_type.value.removeprefix("saga.")
        at = event.timestamp.timestamp()
        action = said(event, "action") or said(event, "step_action")
        step_id = said(event, "step_id")
        saga = self.saga_of(event)
        if kind in {"completed", "escalated"}:
            self.open.remove(saga)
            verb, status = ("complete", "ok") if kind == "completed" else ("escalate", "error")
            return [self.span(event, saga, f"saga.{kind}.{saga['id']}", "", verb, saga["start"], status, None)]
        if kind == "created":
            saga["start"] = min(saga["start"], at)
            return []
        if kind == "compensating":
            name = f"saga.compensate.{action or step_id}"
            texts = (step_id or "compensation", action or "compensate")
            return [self.span(event, saga, name, *texts, at, "compensating", event)]
        key = step_id or action
        earlier = [start for start in saga["steps"] if start["key"] == key]
        saga["steps"] = [start for start in saga["steps"] if start["key"] != key]
        if kind == "step_started":
            saga["steps"].append({"key": key, "event": event})
            return []
        opener = earlier[0]["event"] if earlier else event
        status = "ok" if kind == "step_committed" else "error"
        start = opener.timestamp.timestamp()
        return [self.span(event, saga, f"saga.step.{action or step_id}", key, action, start, status, opener)]

    def saga_of(self, event: HypervisorEvent) -> dict[str, Any]:
        saga_id = said(event, "saga_id") or event.causal_trace_id or "unknown"
        session = event.session_id or ""
        for saga in reversed(self.open):
            if saga["id"] == saga_id and session in {"", saga["session"]}:
                return saga
        trace_id = saga_trace_id(event.causal_trace_id, session, saga_id)
        saga = {
            "session": session,
            "id": saga_id,
            "start": event.timestamp.timestamp(),
            "trace_id": trace_id,
            "span_id": saga_span_id(trace_id, session, saga_id),
            "causal": event.causal_trace_id or "",
            "steps": [],
        }
        self.open.append(saga)
        return saga

    def span(
        self,
        event: HypervisorEvent,
        saga: dict[str, Any],
        name: str,
        step_id: str,
        step_action: str,
        start: float,
        status: str,
        opener: HypervisorEvent | None,
    ) -> SagaSpanRecord:
        attributes = {
            "agent.saga.id": saga["id"],
            "agent.saga.step_id": step_id,
            "agent.saga.step_action": step_action,
            "agent.saga.state": status,
        }
        attributes |= {"agent.did": event.agent_did} if event.agent_did else {}
        attributes |= {"session.id": event.session_id} if event.session_id else {}
        for detail in ("error", "reason", "result"):
            if detail in event.payload:
                attributes[f"agent.saga.{detail}"] = str(event.payload[detail])
        return SagaSpanRecord(
            name=name,
            saga_id=saga["id"],
            step_id=step_id,
            step_action=step_action,
            start_time=start,
            end_time=max(start, event.timestamp.timestamp()),
            status=status,
            attributes=attributes,
            trace_id=saga["trace_id"],
            span_id=step_span_id(opener.event_id) if opener else saga["span_id"],
            parent_span_id=saga["span_id"] if opener else None,
            causal_trace_id=(opener.causal_trace_id if opener else saga["causal"]) or event.causal_trace_id or "",
        )


def tables(state: SagaState) -> Iterator[Table[Any, Any]]:
    return (getattr(state, field.name) for field in dataclasses.fields(state))


def listed(state: SagaState, table: Table[Any, Any], owner: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The members of a list in order of opening, found from its newest."""
    members: list[tuple[str, ...]] = []
    key = state.newest[owner]
    while key is not None:
        member = table[key]
        assert not members or member.newer == members[0]
        members.insert(0, key)
        key = member.older
    return members


def assert_same_state(state: SagaState, model: Model) -> None:
    keys = [(saga["session"], saga["id"]) for saga in model.open]
    assert set(state.sagas) == set(keys)
    beside = []
    for key, saga in zip(keys, model.open, strict=True):
        apart = [step[2] for step in listed(state, state.steps, key)]
        held = [step.step_id for step in state.sagas[key].steps]
        assert sorted(held + apart) == sorted(step["key"] for step in saga["steps"])
        beside += [(*key, step) for step in apart]
    assert set(state.steps) == set(beside)
    for saga_id in {saga_id for _, saga_id in keys}:
        in_order = [key for key in keys if key[1] == saga_id]
        assert listed(state, state.sagas, (saga_id,)) == in_order
        assert state.latest_saga(saga_id) == in_order[-1]
    # Nothing is kept beside what is open.
    assert set(state.newest) == {(saga_id,) for _, saga_id in keys} | {step[:2] for step in beside}


@given(histories())
def test_spans_and_what_is_open_are_those_of_the_model_after_every_event(events: list[HypervisorEvent]) -> None:
    state, model = FOLD.new_state(), Model()
    for event in events:
        outputs, expected = FOLD.apply(state, event), model.apply(event)
        assert (None if outputs is None else list(outputs)) == expected
        assert_same_state(state, model)


@given(histories())
def test_when_every_saga_has_ended_nothing_is_kept(events: list[HypervisorEvent]) -> None:
    state = FOLD.new_state()
    for event in events:
        FOLD.apply(state, event)
    for session_id, saga_id in list(state.sagas):
        end = HypervisorEvent(
            event_type=EventType.SAGA_COMPLETED, session_id=session_id, payload={"saga_id": saga_id}
        )
        FOLD.apply(state, end)
    # What had no session ended the open saga of its id that was opened last; its own may be left.
    for _, saga_id in list(state.sagas):
        FOLD.apply(state, HypervisorEvent(event_type=EventType.SAGA_COMPLETED, payload={"saga_id": saga_id}))
    assert state == SagaState()


@given(histories())
def test_the_same_events_give_the_same_ids(events: list[HypervisorEvent]) -> None:
    runs = []
    for _ in range(2):
        state = FOLD.new_state()
        runs.append([span for event in events for span in FOLD.apply(state, event) or ()])
    assert runs[0] == runs[1]


def shared(state: SagaState) -> SagaState:
    """Shallow, as a snapshot that shares its values: they are never changed in place."""
    return SagaState(*(copy.copy(table) for table in tables(state)))


def written_and_read(state: SagaState) -> SagaState:
    """As by way of a changelog."""
    back = SagaState()
    for table, read in zip(tables(state), tables(back), strict=True):
        for key, value in table.present():
            read.add(key, msgspec.json.decode(msgspec.json.encode(value), type=read.value_type))
    return back


@given(histories(), st.integers(0, 40), st.sampled_from([shared, written_and_read]))
def test_a_state_that_was_copied_in_between_goes_on_alike(
    events: list[HypervisorEvent], cut: int, copied: Any
) -> None:
    whole, state = FOLD.new_state(), FOLD.new_state()
    for event in events[:cut]:
        FOLD.apply(state, event)
        FOLD.apply(whole, event)
    snapshot = copied(state)
    assert snapshot == state
    for event in events[cut:]:
        FOLD.apply(state, event)
    for event in events[cut:]:
        assert FOLD.apply(snapshot, event) == FOLD.apply(whole, event)
    assert snapshot == whole == state


transactions = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["commit", "abort", "abort and drop"])))


@given(histories(bad=True), transactions)
def test_over_a_base_all_that_stays_is_what_was_committed(
    events: list[HypervisorEvent], ends: list[tuple[int, str]]
) -> None:
    """An aborted transaction's events come again, or never."""
    pending, plain = FOLD.new_state(), FOLD.new_state()
    for table in tables(pending):
        table.base = {}
    waiting = list(events)
    for size, end in [*ends, (len(events), "commit")]:
        batch = waiting[:size]
        outputs = [outcome(pending, event) for event in batch]
        for table in tables(pending):
            if end == "commit":
                table.merge_changes()
            else:
                table.discard_changes()
        if end != "abort":
            waiting = waiting[size:]
        if end == "commit":
            assert outputs == [outcome(plain, event) for event in batch]
        for over, alone in zip(tables(pending), tables(plain), strict=True):
            assert over.base == alone
            assert over.size == alone.size


@given(histories(bad=True))
def test_over_a_base_the_changes_are_seen_before_they_are_committed(events: list[HypervisorEvent]) -> None:
    pending, plain = FOLD.new_state(), FOLD.new_state()
    for table in tables(pending):
        table.base = {}
    for number, event in enumerate(events):
        assert outcome(pending, event) == outcome(plain, event)
        for over, alone in zip(tables(pending), tables(plain), strict=True):
            assert dict(over.present()) == alone
            assert over.size == alone.size
            if number % 4 == 3:
                over.merge_changes()


def outcome(state: SagaState, event: HypervisorEvent) -> Any:
    try:
        return FOLD.apply(state, event)
    except InvalidPayload:
        return InvalidPayload


@given(histories())
def test_nothing_expires(events: list[HypervisorEvent]) -> None:
    state = FOLD.new_state()
    for event in events:
        FOLD.apply(state, event)
    before = copy.deepcopy(state)
    assert not FOLD.expire(state, 2**53)
    assert state == before


@given(histories())
def test_no_two_spans_of_steps_have_one_id_and_sagas_share_one_only_as_the_same_saga(
    events: list[HypervisorEvent],
) -> None:
    state, model = FOLD.new_state(), Model()
    step_ids: list[str] = []
    sagas: dict[tuple[str, str], tuple[str, str, str]] = {}
    for event in events:
        saga = model.saga_of(event) if event.event_type in SAGA_LIFECYCLE else {}
        model.apply(event)
        for span in FOLD.apply(state, event) or ():
            if span.parent_span_id:
                step_ids.append(span.span_id)
            else:
                same = (saga["trace_id"], saga["session"], saga["id"])
                assert sagas.setdefault((span.trace_id, span.span_id), same) == same
            assert span.duration_seconds >= 0
    assert len(set(step_ids)) == len(step_ids)
    assert len(set(sagas.values())) == len(sagas)


@given(histories(bad=True))
def test_a_refused_event_leaves_the_state_as_if_it_had_not_come(events: list[HypervisorEvent]) -> None:
    state, without = FOLD.new_state(), FOLD.new_state()
    for event in events:
        before = copy.deepcopy(state)
        try:
            outputs = FOLD.apply(state, event)
        except InvalidPayload:
            assert state == before
        else:
            assert outputs == FOLD.apply(without, event)
    assert state == without
