"""Events that come after the end of their saga, because other agents are slow or events are sent twice. Pure.

As long as a saga is remembered after its end,

- its late events don't open it again: a step's end is a span with the step's own start, in the same trace under
  the same saga, and so is a compensation; a start from before the end (by event time) waits for its end;
- a second end, a `created` or checkpoint from before the end, and any end after a time-out is counted, not
  exported: its span was sent already;
- a start or `created` from after the end is a new run of the saga.

When the saga is forgotten, its steps and fan-outs that are still open become error spans with its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial

import msgspec

from hypervisor_consumers.saga_spans.fold.parsed_event import ParsedEvent
from hypervisor_consumers.saga_spans.fold.span_builders import (
    TIMED_OUT,
    UNFINISHED,
    compensation_span,
    fan_out_span,
    step_span,
    unfinished_spans,
)
from hypervisor_consumers.saga_spans.fold.state import (
    EndedSaga,
    OpenFanOut,
    OpenSaga,
    OpenStep,
    SagaKey,
    SagaState,
    new_fan_out,
    new_step,
    parent_span_of,
)
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["Late", "after_end", "forget", "remember"]

_MAX_REMEMBERED = 64
"""Open steps of an ended saga that are remembered at most; the others become spans at once."""


class Late(Enum):
    """The treatment of a late event that gives no spans."""

    COUNTED = 1
    NEW_RUN = 2


def remember(
    state: SagaState,
    key: SagaKey,
    saga: OpenSaga,
    steps: Sequence[OpenStep],
    *,
    end_time: float,
    forget_at_ms: int,
    timed_out: bool = False,
) -> list[SagaSpanRecord]:
    """Remember a saga that was closed, with its open steps. Returns the spans of the steps that are not kept.

    After a time-out no open step or fan-out is kept.
    """
    ended = EndedSaga(
        trace_id=saga.trace_id,
        span_id=saga.span_id,
        end_time=end_time,
        forget_at_ms=forget_at_ms,
        timed_out=timed_out,
        steps=() if timed_out else tuple(steps[:_MAX_REMEMBERED]),
        fan_outs=() if timed_out else saga.fan_outs,
    )
    if state.ended[key] is None:
        state.ended.add(key, ended)
    else:
        state.ended[key] = ended
    if timed_out:
        return _unfinished(key, ended, steps, saga.fan_outs)
    return _unfinished(key, ended, steps[_MAX_REMEMBERED:], ())


def forget(state: SagaState, key: SagaKey, ended: EndedSaga) -> list[SagaSpanRecord]:
    """Forget this saga. Returns the spans of its steps and fan-outs that were still open."""
    state.ended.remove(key)
    return _unfinished(key, ended, ended.steps, ended.fan_outs)


def after_end(
    state: SagaState, key: SagaKey, ended: EndedSaga, kind: str, event: ParsedEvent
) -> Sequence[SagaSpanRecord] | Late:
    """The spans of an event whose saga has ended and is remembered, or the treatment of that event."""
    is_new = event.time > ended.end_time
    if kind == "saga.created":
        return Late.NEW_RUN if is_new else Late.COUNTED
    if kind in _STARTS:
        return Late.NEW_RUN if is_new and not ended.timed_out else _STARTS[kind](state, key, ended, event)
    change = _OTHERS.get(kind)
    return Late.COUNTED if change is None else change(state, key, ended, event)


def _step_started(state: SagaState, key: SagaKey, ended: EndedSaga, event: ParsedEvent) -> Sequence[SagaSpanRecord]:
    started = new_step(event, parent_span_of(event, ended.fan_outs))
    steps = [*(step for step in ended.steps if step.step_id != started.step_id), started]
    state.ended[key] = msgspec.structs.replace(ended, steps=tuple(steps[-_MAX_REMEMBERED:]))
    return _unfinished(key, ended, steps[:-_MAX_REMEMBERED], ())


def _fan_out_started(
    state: SagaState, key: SagaKey, ended: EndedSaga, event: ParsedEvent
) -> Sequence[SagaSpanRecord]:
    fan_outs = [*ended.fan_outs, new_fan_out(event, ended.trace_id, key)]
    state.ended[key] = msgspec.structs.replace(ended, fan_outs=tuple(fan_outs[-_MAX_REMEMBERED:]))
    return _unfinished(key, ended, (), fan_outs[:-_MAX_REMEMBERED])


def _compensating(_: SagaState, __: SagaKey, ended: EndedSaga, event: ParsedEvent) -> Sequence[SagaSpanRecord]:
    return (compensation_span(event, trace_id=ended.trace_id, parent_span_id=ended.span_id),)


def _step_ended(
    state: SagaState, key: SagaKey, ended: EndedSaga, event: ParsedEvent, status: str
) -> Sequence[SagaSpanRecord] | Late:
    step = next((open_step for open_step in ended.steps if open_step.step_id == event.step), None)
    if step is not None:
        others = tuple([other for other in ended.steps if other is not step])
        state.ended[key] = msgspec.structs.replace(ended, steps=others)
    elif ended.timed_out:
        return Late.COUNTED
    else:
        step = new_step(event, parent_span_of(event, ended.fan_outs))
    return (step_span(event, step, status=status, trace_id=ended.trace_id, parent_span_id=ended.span_id),)


def _fan_out_resolved(
    state: SagaState, key: SagaKey, ended: EndedSaga, event: ParsedEvent
) -> Sequence[SagaSpanRecord] | Late:
    fan_out = next((each for each in ended.fan_outs if each.fan_out_id == event.fan_out_id), None)
    if fan_out is None:
        return Late.COUNTED
    others = tuple([other for other in ended.fan_outs if other is not fan_out])
    state.ended[key] = msgspec.structs.replace(ended, fan_outs=others)
    return (fan_out_span(event, fan_out, trace_id=ended.trace_id, parent_span_id=ended.span_id),)


_STARTS = {"saga.step_started": _step_started, "saga.fanout_started": _fan_out_started}
_OTHERS: Mapping[str, Callable[[SagaState, SagaKey, EndedSaga, ParsedEvent], Sequence[SagaSpanRecord] | Late]] = {
    "saga.step_committed": partial(_step_ended, status="ok"),
    "saga.step_failed": partial(_step_ended, status="error"),
    "saga.fanout_resolved": _fan_out_resolved,
    "saga.compensating": _compensating,
}


def _unfinished(
    key: SagaKey, ended: EndedSaga, steps: Sequence[OpenStep], fan_outs: Sequence[OpenFanOut]
) -> list[SagaSpanRecord]:
    return unfinished_spans(
        key,
        steps,
        fan_outs,
        end_time=ended.end_time,
        error_type=TIMED_OUT if ended.timed_out else UNFINISHED,
        trace_id=ended.trace_id,
        parent_span_id=ended.span_id,
    )
