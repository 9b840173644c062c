"""Saga events to spans, one event after another. Pure: an agent's process and the Kafka service run the same code.

- A saga is identified by session and saga id. The first of its events opens it and gives it its identity; a
  `saga.created` that comes later moves its start back, never forward. An event without a session belongs to the
  open saga of its id that was opened last.
- `saga.completed` and `saga.escalated` end it.
- A step or saga that ends without a start has length zero, and so has one that ends before its start.
- Names, states and attributes are the seed's (`parsed_event` tells how they are read). A span's `agent.did` and
  `session.id` are those of the event that finished it.

In an agent's process that is all, as in the package: seven of the ten event types are used, an end drops the
saga's open steps, later events open a new saga, and a saga is kept until it ends. With a `timeout_ms`, for a fleet
in which events come late and agents die:

- `saga.fanout_started` and `saga.fanout_resolved` make a span; a step that names its fan-out, or that the fan-out
  names, lies under it. `saga.checkpoint_saved` is an event of its step's span if that is open, else of its saga's.
- A saga without an end is ended when the timeout has passed since its first event was published: an error span
  that says so, and one for each of its open steps and fan-outs; all end at the saga's start plus the timeout.
- A saga that has ended is remembered for a while: `late_events` has the rules for its late events.
- All spans and late events are counted (`SagaState.totals`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

import msgspec

from hypervisor_consumers.runtime.protocols import Fold
from hypervisor_consumers.saga_spans.fold.late_events import Late, after_end, forget, remember
from hypervisor_consumers.saga_spans.fold.parsed_event import ParsedEvent, parse_event, shortened
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
from hypervisor_consumers.saga_spans.fold.state import (
    Checkpoint,
    OpenSaga,
    OpenStep,
    SagaKey,
    SagaState,
    new_fan_out,
    new_saga,
    new_step,
    parent_span_of,
)
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.events import EventType, HypervisorEvent, type_value

__all__ = ["SAGA_EVENT_TYPES", "SAGA_LIFECYCLE", "SagaFold"]

_Spans: TypeAlias = Sequence[SagaSpanRecord]
_Change: TypeAlias = Callable[[SagaState, ParsedEvent], _Spans]

_MAX_CHECKPOINTS = 16
_MAX_FAN_OUTS = 16
"""The most that are kept of one saga, since a saga is one record of the changelog. An older checkpoint is dropped;
an older fan-out becomes a span as it is."""

_MAX_EXPIRED = 10_000
"""The most sagas that one `expire` ends, and the most that it forgets: all of it goes into one transaction."""

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
"""The event types that spans are made of in the service."""


class SagaFold(Fold[SagaState, SagaSpanRecord]):
    """The rules above; every event of another type is ignored.

    Args:
        timeout_ms: The time after which a saga without an end is ended. None, as in an agent's process: never, and
            nothing is remembered or counted.
        grace_ms: The time for which a saga that has ended is remembered.
    """

    def __init__(self, *, timeout_ms: int | None = None, grace_ms: int = 0) -> None:
        self._timeout_ms = timeout_ms
        self._grace_ms = grace_ms
        changes: dict[EventType, _Change] = {
            EventType.SAGA_CREATED: _created,
            EventType.SAGA_STEP_STARTED: _step_started,
            EventType.SAGA_STEP_COMMITTED: lambda state, event: _step_ended(state, event, "ok"),
            EventType.SAGA_STEP_FAILED: lambda state, event: _step_ended(state, event, "error"),
            EventType.SAGA_COMPENSATING: _compensating,
            EventType.SAGA_COMPLETED: lambda state, event: self._ended(state, event, "completed", "complete", "ok"),
            EventType.SAGA_ESCALATED: lambda state, event: self._ended(
                state, event, "escalated", "escalate", "error"
            ),
            EventType.SAGA_FANOUT_STARTED: _fan_out_started,
            EventType.SAGA_FANOUT_RESOLVED: _fan_out_resolved,
            EventType.SAGA_CHECKPOINT_SAVED: _checkpoint_saved,
        }
        used = SAGA_LIFECYCLE if timeout_ms is None else SAGA_EVENT_TYPES
        self._changes: Mapping[str, _Change] = {kind.value: changes[kind] for kind in used}

    def new_state(self) -> SagaState:
        """A state without sagas."""
        return SagaState()

    def apply(self, state: SagaState, event: HypervisorEvent, seen_at_ms: int = 0) -> _Spans | None:
        """Change `state` by one event. Returns the spans that it finished, often none, or None if it is ignored.

        Raises:
            InvalidPayload: A field has another type than `SagaPayload` says; `state` is as it was.
        """
        kind = type_value(event.event_type)
        if kind not in self._changes:
            return None
        spans = self._apply_parsed(state, kind, parse_event(event, seen_at_ms))
        if spans and self._timeout_ms is not None:
            _count(state, spans)
        return spans

    def _apply_parsed(self, state: SagaState, kind: str, event: ParsedEvent) -> _Spans:
        """Change `state` by an event of a type that is used. It can't fail, and counts no spans."""
        change = self._changes[kind]
        if self._timeout_ms is None:
            return change(state, event)
        key = _saga_key(state, event)
        ended = state.ended[key] if state.sagas[key] is None else None
        if ended is None:
            return change(state, event)
        outcome = after_end(state, key, ended, kind, event)
        if outcome is Late.COUNTED:
            total = LATE, kind.removeprefix("saga.")
            _set_total(state, total, Total((state.totals[total] or Total()).count + 1))
            return ()
        if outcome is Late.NEW_RUN:
            return [*forget(state, key, ended), *change(state, event)]
        assert not isinstance(outcome, Late)  # noqa: S101 - the enum has no other members
        return outcome

    def _apply_all(
        self, state: SagaState, events: Iterable[tuple[int, str, ParsedEvent]]
    ) -> list[tuple[int, SagaSpanRecord]]:
        """Change `state` by events of types that are used, one after another, and count their spans.

        Every event comes with an index and its type; every span has the index of its event.
        """
        spans = [(index, span) for index, kind, event in events for span in self._apply_parsed(state, kind, event)]
        _count(state, [span for _, span in spans])
        return spans

    def expire(self, state: SagaState, now_ms: int) -> _Spans:
        """End the sagas that had no end in time, and forget those that ended long enough before `now_ms`."""
        if self._timeout_ms is None:
            return ()
        spans: list[SagaSpanRecord] = []
        last_ms = now_ms - self._timeout_ms
        late = ((key, saga) for key, saga in state.sagas.present() if saga.seen_at_ms <= last_ms)
        for key, saga in islice(late, _MAX_EXPIRED):
            spans += self._time_out(state, (key[0], key[1]), saga, now_ms)
        done = ((key, ended) for key, ended in state.ended.present() if ended.forget_at_ms <= now_ms)
        for key, ended in islice(done, _MAX_EXPIRED):
            spans += forget(state, (key[0], key[1]), ended)
        _count(state, spans)
        return spans

    def _time_out(self, state: SagaState, key: SagaKey, saga: OpenSaga, now_ms: int) -> _Spans:
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
                end_time=saga.start_time + seconds,
                forget_at_ms=now_ms + max(self._timeout_ms, self._grace_ms),
                timed_out=True,
            ),
        ]

    def _ended(self, state: SagaState, event: ParsedEvent, verb: str, step_action: str, status: str) -> _Spans:
        key = _saga_key(state, event)
        saga, steps = state.close_saga(key) or (new_saga(event), [])
        span = ended_saga_span(event, saga, verb=verb, step_action=step_action, status=status)
        if self._timeout_ms is None:
            return (span,)
        forget_at_ms = event.seen_at_ms + self._grace_ms
        return [span, *remember(state, key, saga, steps, end_time=span.end_time, forget_at_ms=forget_at_ms)]


def _created(state: SagaState, event: ParsedEvent) -> _Spans:
    key, saga = _opened(state, event)
    if event.time < saga.start_time:
        state.sagas[key] = msgspec.structs.replace(saga, start_time=event.time)
    return ()


def _step_started(state: SagaState, event: ParsedEvent) -> _Spans:
    key, saga = _opened(state, event)
    if event.agent_did and event.agent_did != saga.agent_did:
        saga = state.sagas[key] = msgspec.structs.replace(saga, agent_did=shortened(event.agent_did))
    state.start_step(key, saga, new_step(event, parent_span_of(event, saga.fan_outs)))
    return ()


def _step_ended(state: SagaState, event: ParsedEvent, status: str) -> _Spans:
    key, saga = _opened(state, event)
    step = state.end_step(key, saga, event.step) or new_step(event, parent_span_of(event, saga.fan_outs))
    now = state.sagas[key] or saga
    if status == "ok":
        state.sagas[key] = msgspec.structs.replace(now, done=now.done + 1)
    else:
        state.sagas[key] = msgspec.structs.replace(
            now, failed=now.failed + 1, last_error=shortened(event.error_text or status)
        )
    return (step_span(event, step, status=status, trace_id=saga.trace_id, parent_span_id=saga.span_id),)


def _compensating(state: SagaState, event: ParsedEvent) -> _Spans:
    key, saga = _opened(state, event)
    state.sagas[key] = msgspec.structs.replace(saga, compensated=saga.compensated + 1)
    return (compensation_span(event, trace_id=saga.trace_id, parent_span_id=saga.span_id),)


def _fan_out_started(state: SagaState, event: ParsedEvent) -> _Spans:
    key, saga = _opened(state, event)
    started = new_fan_out(event, saga.trace_id, key)
    others = [fan_out for fan_out in saga.fan_outs if fan_out.span_id != started.span_id]
    state.sagas[key] = msgspec.structs.replace(saga, fan_outs=tuple([*others, started][-_MAX_FAN_OUTS:]))
    return unfinished_spans(
        key,
        (),
        others[: len(others) + 1 - _MAX_FAN_OUTS] if len(others) >= _MAX_FAN_OUTS else (),
        end_time=event.time,
        error_type=UNFINISHED,
        trace_id=saga.trace_id,
        parent_span_id=saga.span_id,
    )


def _fan_out_resolved(state: SagaState, event: ParsedEvent) -> _Spans:
    key, saga = _opened(state, event)
    fan_out = next((each for each in saga.fan_outs if each.fan_out_id == event.fan_out_id), None)
    if fan_out is None:
        # Its span goes by the event's id: if the fan-out was resolved before, that span has been sent.
        fan_out = msgspec.structs.replace(
            new_fan_out(event, saga.trace_id, key), span_id=new_step(event, "").span_id
        )
    else:
        others = tuple([other for other in saga.fan_outs if other is not fan_out])
        state.sagas[key] = msgspec.structs.replace(saga, fan_outs=others)
    return (fan_out_span(event, fan_out, trace_id=saga.trace_id, parent_span_id=saga.span_id),)


def _checkpoint_saved(state: SagaState, event: ParsedEvent) -> _Spans:
    key, saga = _opened(state, event)
    checkpoint = Checkpoint(event.time, event.checkpoint)
    step = state.find_step(key, saga, event.step) if event.step else None
    if step is not None:
        state.change_step(key, saga, _with(step, checkpoint))
    else:
        checkpoints = (*saga.checkpoints, checkpoint)[-_MAX_CHECKPOINTS:]
        state.sagas[key] = msgspec.structs.replace(saga, checkpoints=checkpoints)
    return ()


def _with(step: OpenStep, checkpoint: Checkpoint) -> OpenStep:
    return msgspec.structs.replace(step, checkpoints=(*step.checkpoints, checkpoint)[-_MAX_CHECKPOINTS:])


def _saga_key(state: SagaState, event: ParsedEvent) -> SagaKey:
    """The saga that the event belongs to, open or not."""
    latest = None if event.session_id else state.latest_saga(event.saga_id)
    return latest or (event.session_id, event.saga_id)


def _opened(state: SagaState, event: ParsedEvent) -> tuple[SagaKey, OpenSaga]:
    """The saga that the event belongs to; this event opens it if it is not open."""
    key = _saga_key(state, event)
    saga = state.sagas[key]
    return key, saga or state.open_saga(key, new_saga(event))


_OWN_RESULTS = {TIMED_OUT: "timed_out", UNFINISHED: "unfinished"}


def _count(state: SagaState, spans: _Spans) -> None:
    by_result: defaultdict[tuple[str, str], list[SagaSpanRecord]] = defaultdict(list)
    for span in spans:
        by_result[kind_of(span), _OWN_RESULTS.get(span.error_type, span.status)].append(span)
    for key, some in by_result.items():
        _set_total(state, key, counted(state.totals[key], some))


def _set_total(state: SagaState, key: tuple[str, str], total: Total) -> None:
    if state.totals[key] is None:
        state.totals.add(key, total)
    else:
        state.totals[key] = total
