"""Saga events to spans. Pure: the same code runs in an agent's process and in the Kafka service.

- A saga is known by session and saga id. Whichever of its events comes first opens it and gives it its identity;
  a `saga.created` that comes later moves its start back, never forward. An event without a session belongs to
  the open saga of its id that was opened last.
- `saga.completed` and `saga.escalated` end it.
- A step or saga that ends without a start has length zero, and so has one whose end lies before its start.
- Names, states and attributes are the seed's (`facts` tells how they are read). A span's `agent.did` and
  `session.id` are those of the event that finished it.

In an agent's process that is all, as in the package: seven of the ten event types are used, an end drops the
saga's open steps, what comes afterwards opens a new saga, and a saga is kept until it ends. With a `timeout`, for
a fleet, in which events come late and agents die:

- `saga.fanout_started` and `saga.fanout_resolved` make a span; a step that names its fan-out, or that the fan-out
  names, lies under it. `saga.checkpoint_saved` is an event of its step's span if that is open, else of its saga's.
- A saga without an end is ended when the timeout has passed since its first event was published: an error span
  that says so, and one for each of its open steps and fan-outs; all end at the saga's start plus the timeout.
- A saga that has ended is remembered for a while: `ended` says what becomes of what comes late.
- What comes out is counted (`totals`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import msgspec

from hypervisor_consumers.runtime.protocols import Fold
from hypervisor_consumers.saga_spans.fold.late_events import Late, after_end, forget, remember
from hypervisor_consumers.saga_spans.fold.opening import (
    fan_out_of,
    first_seen,
    is_fan_out_of,
    parent_of,
    started_by,
)
from hypervisor_consumers.saga_spans.fold.parsed_event import Facts, facts_of, shortened
from hypervisor_consumers.saga_spans.fold.span_builders import (
    TIMED_OUT,
    UNFINISHED,
    compensation_span,
    ended_saga_span,
    fan_out_span,
    step_span,
    timed_out_span,
    unfinished_spans,
)
from hypervisor_consumers.saga_spans.fold.span_stats import LATE, Total, counted, kind_of
from hypervisor_consumers.saga_spans.fold.state import Checkpoint, OpenSaga, OpenStep, SagaKey, SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.events import EventType, HypervisorEvent, type_value

__all__ = ["SAGA_EVENT_TYPES", "SAGA_LIFECYCLE", "SagaFold"]

_Spans: TypeAlias = Sequence[SagaSpanRecord]
_Change: TypeAlias = Callable[[SagaState, Facts], _Spans]

_HELD_CHECKPOINTS = 16
_HELD_FAN_OUTS = 16
"""So many of one saga are kept, the last ones, as a saga is one record of the changelog; an older fan-out becomes a
span as it is."""

_MOST_AT_ONCE = 10_000
"""Sagas that one look ends at most: all of it goes into one transaction."""

SAGA_LIFECYCLE: tuple[EventType, ...] = (
    EventType.SAGA_CREATED,
    EventType.SAGA_STEP_STARTED,
    EventType.SAGA_STEP_COMMITTED,
    EventType.SAGA_STEP_FAILED,
    EventType.SAGA_COMPENSATING,
    EventType.SAGA_COMPLETED,
    EventType.SAGA_ESCALATED,
)
"""The event types that spans are made of in an agent's process."""

SAGA_EVENT_TYPES: tuple[EventType, ...] = (
    *SAGA_LIFECYCLE,
    EventType.SAGA_FANOUT_STARTED,
    EventType.SAGA_FANOUT_RESOLVED,
    EventType.SAGA_CHECKPOINT_SAVED,
)
"""Those of the service."""


class SagaFold(Fold[SagaState, SagaSpanRecord]):
    """The rules above; every event of another type is ignored.

    Args:
        timeout_ms: How long a saga may go without an end; None: for ever, and nothing is remembered or counted,
            as in an agent's process.
        grace_ms: How long a saga that has ended is remembered.
    """

    def __init__(self, *, timeout_ms: int | None = None, grace_ms: int = 0) -> None:
        self._timeout_ms = timeout_ms
        self._grace_ms = grace_ms
        changes: dict[EventType, _Change] = {
            EventType.SAGA_CREATED: _created,
            EventType.SAGA_STEP_STARTED: _step_started,
            EventType.SAGA_STEP_COMMITTED: lambda state, facts: _step_ended(state, facts, "ok"),
            EventType.SAGA_STEP_FAILED: lambda state, facts: _step_ended(state, facts, "error"),
            EventType.SAGA_COMPENSATING: _compensating,
            EventType.SAGA_COMPLETED: lambda state, facts: self._ended(state, facts, "completed", "complete", "ok"),
            EventType.SAGA_ESCALATED: lambda state, facts: self._ended(
                state, facts, "escalated", "escalate", "error"
            ),
            EventType.SAGA_FANOUT_STARTED: _fan_out_started,
            EventType.SAGA_FANOUT_RESOLVED: _fan_out_resolved,
            EventType.SAGA_CHECKPOINT_SAVED: _checkpoint_saved,
        }
        used = SAGA_LIFECYCLE if timeout_ms is None else SAGA_EVENT_TYPES
        self._changes: Mapping[str, _Change] = {kind.value: changes[kind] for kind in used}

    def new_state(self) -> SagaState:
        """No saga is open."""
        return SagaState()

    def apply(self, state: SagaState, event: HypervisorEvent, seen_at: int = 0) -> _Spans | None:
        """Change `state` by one event; returns the spans that it finished, often none, or None: ignored.

        Raises:
            InvalidPayload: A field has another type than `SagaPayload` says; `state` is as it was.
        """
        kind = type_value(event.event_type)
        return self.take(state, kind, facts_of(event, seen_at)) if kind in self._changes else None

    def take(self, state: SagaState, kind: str, facts: Facts) -> _Spans:
        """Change `state` by what one event of a type that is used says. It can't fail."""
        spans = self._take(state, kind, facts)
        if spans and self._timeout_ms is not None:
            _count(state, spans)
        return spans

    def take_all(
        self, state: SagaState, told: Iterable[tuple[int, str, Facts]]
    ) -> list[tuple[int, SagaSpanRecord]]:
        """As `take`, for many events one after another; each has a number, and so have its spans."""
        spans = [(number, span) for number, kind, facts in told for span in self._take(state, kind, facts)]
        _count(state, [span for _, span in spans])
        return spans

    def _take(self, state: SagaState, kind: str, facts: Facts) -> _Spans:
        change = self._changes[kind]
        if self._timeout_ms is None:
            return change(state, facts)
        key = _saga_key(state, facts)
        ended = state.ended[key] if state.sagas[key] is None else None
        if ended is None:
            return change(state, facts)
        outcome = after_end(state, key, ended, kind, facts)
        if outcome is Late.COUNTED:
            _set_total(state, (LATE, kind.removeprefix("saga.")), lambda old: Total((old or Total()).count + 1))
            return ()
        if outcome is Late.NEW_RUN:
            return [*forget(state, key, ended), *change(state, facts)]
        assert not isinstance(outcome, Late)  # noqa: S101 - there are no more of them
        return outcome

    def expire(self, state: SagaState, now: int) -> _Spans:
        """End the sagas that had no end in time, forget those that ended long enough ago; at `now`, in ms."""
        if self._timeout_ms is None:
            return ()
        spans: list[SagaSpanRecord] = []
        last = now - self._timeout_ms
        late = ((key, saga) for key, saga in state.sagas.present() if saga.seen_at <= last)
        for key, saga in islice(late, _MOST_AT_ONCE):
            spans += self._timed_out(state, (key[0], key[1]), saga, now)
        done = ((key, ended) for key, ended in state.ended.present() if ended.forget_at <= now)
        for key, ended in islice(done, _MOST_AT_ONCE):
            spans += forget(state, (key[0], key[1]), ended)
        _count(state, spans)
        return spans

    def _timed_out(self, state: SagaState, key: SagaKey, saga: OpenSaga, now: int) -> _Spans:
        assert self._timeout_ms is not None  # noqa: S101 - nothing is timed out without
        closed = state.close_saga(key)
        steps = closed[1] if closed else []
        seconds = self._timeout_ms / 1000
        return [
            timed_out_span(key, saga, seconds=seconds),
            *remember(
                state,
                key,
                saga,
                steps,
                ended_at=saga.start_time + seconds,
                forget_at=now + max(self._timeout_ms, self._grace_ms),
                timed_out=True,
            ),
        ]

    def _ended(self, state: SagaState, facts: Facts, verb: str, step_action: str, status: str) -> _Spans:
        key = _saga_key(state, facts)
        saga, steps = state.close_saga(key) or (first_seen(facts), [])
        span = ended_saga_span(facts, saga, verb=verb, step_action=step_action, status=status)
        if self._timeout_ms is None:
            return (span,)
        forget_at = facts.seen_at + self._grace_ms
        return [span, *remember(state, key, saga, steps, ended_at=span.end_time, forget_at=forget_at)]


def _created(state: SagaState, facts: Facts) -> _Spans:
    key, saga = _opened(state, facts)
    if facts.time < saga.start_time:
        state.sagas[key] = msgspec.structs.replace(saga, start_time=facts.time)
    return ()


def _step_started(state: SagaState, facts: Facts) -> _Spans:
    key, saga = _opened(state, facts)
    if facts.agent_did and facts.agent_did != saga.agent_did:
        saga = state.sagas[key] = msgspec.structs.replace(saga, agent_did=shortened(facts.agent_did))
    state.start_step(key, saga, started_by(facts, parent_of(facts, saga.fan_outs)))
    return ()


def _step_ended(state: SagaState, facts: Facts, status: str) -> _Spans:
    key, saga = _opened(state, facts)
    step = state.end_step(key, saga, facts.step) or started_by(facts, parent_of(facts, saga.fan_outs))
    now = state.sagas[key] or saga
    if status == "ok":
        state.sagas[key] = msgspec.structs.replace(now, done=now.done + 1)
    else:
        state.sagas[key] = msgspec.structs.replace(
            now, failed=now.failed + 1, last_error=shortened(facts.error_text or status)
        )
    return (step_span(facts, step, status=status, trace_id=saga.trace_id, parent_span_id=saga.span_id),)


def _compensating(state: SagaState, facts: Facts) -> _Spans:
    key, saga = _opened(state, facts)
    state.sagas[key] = msgspec.structs.replace(saga, compensated=saga.compensated + 1)
    return (compensation_span(facts, trace_id=saga.trace_id, parent_span_id=saga.span_id),)


def _fan_out_started(state: SagaState, facts: Facts) -> _Spans:
    key, saga = _opened(state, facts)
    started = fan_out_of(facts, saga.trace_id, key)
    others = [one for one in saga.fan_outs if one.span_id != started.span_id]
    state.sagas[key] = msgspec.structs.replace(saga, fan_outs=tuple([*others, started][-_HELD_FAN_OUTS:]))
    return unfinished_spans(
        key,
        (),
        others[: len(others) + 1 - _HELD_FAN_OUTS] if len(others) >= _HELD_FAN_OUTS else (),
        ended_at=facts.time,
        error_type=UNFINISHED,
        trace_id=saga.trace_id,
        parent_span_id=saga.span_id,
    )


def _fan_out_resolved(state: SagaState, facts: Facts) -> _Spans:
    key, saga = _opened(state, facts)
    fan_out = next((one for one in saga.fan_outs if is_fan_out_of(one, facts)), None)
    if fan_out is None:
        # By the event's id: if it was resolved before, that span has been sent.
        fan_out = msgspec.structs.replace(
            fan_out_of(facts, saga.trace_id, key), span_id=started_by(facts, "").span_id
        )
    else:
        others = tuple([one for one in saga.fan_outs if one is not fan_out])
        state.sagas[key] = msgspec.structs.replace(saga, fan_outs=others)
    return (fan_out_span(facts, fan_out, trace_id=saga.trace_id, parent_span_id=saga.span_id),)


def _checkpoint_saved(state: SagaState, facts: Facts) -> _Spans:
    key, saga = _opened(state, facts)
    checkpoint = Checkpoint(facts.time, facts.checkpoint)
    step = state.find_step(key, saga, facts.step) if facts.step else None
    if step is not None:
        state.change_step(key, saga, _with(step, checkpoint))
    else:
        checkpoints = (*saga.checkpoints, checkpoint)[-_HELD_CHECKPOINTS:]
        state.sagas[key] = msgspec.structs.replace(saga, checkpoints=checkpoints)
    return ()


def _with(step: OpenStep, checkpoint: Checkpoint) -> OpenStep:
    return msgspec.structs.replace(step, checkpoints=(*step.checkpoints, checkpoint)[-_HELD_CHECKPOINTS:])


def _saga_key(state: SagaState, facts: Facts) -> SagaKey:
    """The saga that the event belongs to, open or not."""
    latest = None if facts.session_id else state.latest_saga(facts.saga_id)
    return latest or (facts.session_id, facts.saga_id)


def _opened(state: SagaState, facts: Facts) -> tuple[SagaKey, OpenSaga]:
    """The saga that the event belongs to; opened by this event where none of its events came before."""
    key = _saga_key(state, facts)
    saga = state.sagas[key]
    return key, saga or state.open_saga(key, first_seen(facts))


_OWN_RESULTS = {TIMED_OUT: "timed_out", UNFINISHED: "unfinished"}


def _count(state: SagaState, spans: _Spans) -> None:
    by_result: defaultdict[tuple[str, str], list[SagaSpanRecord]] = defaultdict(list)
    for span in spans:
        by_result[kind_of(span), _OWN_RESULTS.get(span.error_type, span.status)].append(span)
    for what, some in by_result.items():
        _set_total(state, what, lambda old, some=some: counted(old, some))  # type: ignore[misc]


def _set_total(state: SagaState, what: tuple[str, str], change: Callable[[Total | None], Total]) -> None:
    old = state.totals[what]
    if old is None:
        state.totals.add(what, change(None))
    else:
        state.totals[what] = change(old)
