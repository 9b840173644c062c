"""Sagas that have ended, and what still comes of them: events of other agents that were slow, or sent twice. Pure.

As long as a saga is remembered,

- what comes late of it doesn't open it again: a step's end is a span with the step's own start, in the same trace
  under the same saga; a compensation, too; a start from before the end (by event time) waits for its end;
- a second end, a `created` or checkpoint from before the end, and whatever ends after a time-out is counted, not
  exported: its span was sent already;
- a start from after the end, or a `created`, is a new run of the saga.

When it is forgotten, what is still open of it becomes an error span that ends where the saga did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial

import msgspec

from hypervisor_consumers.saga_spans.fold.opening import fan_out_of, is_fan_out_of, parent_of, started_by
from hypervisor_consumers.saga_spans.fold.parsed_event import Facts
from hypervisor_consumers.saga_spans.fold.span_builders import (
    TIMED_OUT,
    UNFINISHED,
    compensation_span,
    fan_out_span,
    step_span,
    unfinished_spans,
)
from hypervisor_consumers.saga_spans.fold.state import EndedSaga, OpenFanOut, OpenSaga, OpenStep, SagaKey, SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["Late", "after_end", "forget", "remember"]

_HELD = 64
"""Steps that are remembered of a saga that has ended; of more, the rest are spans at once."""


class Late(Enum):
    """What an event is that comes after the end of its saga, if not spans."""

    COUNTED = 1
    NEW_RUN = 2


def remember(
    state: SagaState,
    key: SagaKey,
    saga: OpenSaga,
    steps: Sequence[OpenStep],
    *,
    ended_at: float,
    forget_at: int,
    timed_out: bool = False,
) -> list[SagaSpanRecord]:
    """Keep what has to be known of a saga that was closed, with the steps that were open. Returns what isn't kept.

    After a time-out nothing that was open is kept.
    """
    ended = EndedSaga(
        trace_id=saga.trace_id,
        span_id=saga.span_id,
        ended_at=ended_at,
        forget_at=forget_at,
        timed_out=timed_out,
        steps=() if timed_out else tuple(steps[:_HELD]),
        fan_outs=() if timed_out else saga.fan_outs,
    )
    if state.ended[key] is None:
        state.ended.add(key, ended)
    else:
        state.ended[key] = ended
    if timed_out:
        return _unfinished(key, ended, steps, saga.fan_outs)
    return _unfinished(key, ended, steps[_HELD:], ())


def forget(state: SagaState, key: SagaKey, ended: EndedSaga) -> list[SagaSpanRecord]:
    """Remember this saga no longer. Returns what was still open of it."""
    state.ended.remove(key)
    return _unfinished(key, ended, ended.steps, ended.fan_outs)


def after_end(
    state: SagaState, key: SagaKey, ended: EndedSaga, kind: str, facts: Facts
) -> Sequence[SagaSpanRecord] | Late:
    """What an event of a saga that is remembered becomes."""
    is_new = facts.time > ended.ended_at
    if kind == "saga.created":
        return Late.NEW_RUN if is_new else Late.COUNTED
    if kind in _STARTS:
        return Late.NEW_RUN if is_new and not ended.timed_out else _STARTS[kind](state, key, ended, facts)
    change = _OTHERS.get(kind)
    return Late.COUNTED if change is None else change(state, key, ended, facts)


def _step_started(state: SagaState, key: SagaKey, ended: EndedSaga, facts: Facts) -> Sequence[SagaSpanRecord]:
    started = started_by(facts, parent_of(facts, ended.fan_outs))
    steps = [*(step for step in ended.steps if step.step_id != started.step_id), started]
    state.ended[key] = msgspec.structs.replace(ended, steps=tuple(steps[-_HELD:]))
    return _unfinished(key, ended, steps[:-_HELD], ())


def _fan_out_started(state: SagaState, key: SagaKey, ended: EndedSaga, facts: Facts) -> Sequence[SagaSpanRecord]:
    fan_outs = [*ended.fan_outs, fan_out_of(facts, ended.trace_id, key)]
    state.ended[key] = msgspec.structs.replace(ended, fan_outs=tuple(fan_outs[-_HELD:]))
    return _unfinished(key, ended, (), fan_outs[:-_HELD])


def _compensating(_: SagaState, __: SagaKey, ended: EndedSaga, facts: Facts) -> Sequence[SagaSpanRecord]:
    return (compensation_span(facts, trace_id=ended.trace_id, parent_span_id=ended.span_id),)


def _step_ended(
    state: SagaState, key: SagaKey, ended: EndedSaga, facts: Facts, status: str
) -> Sequence[SagaSpanRecord] | Late:
    step = next((one for one in ended.steps if one.step_id == facts.step), None)
    if step is not None:
        others = tuple([one for one in ended.steps if one is not step])
        state.ended[key] = msgspec.structs.replace(ended, steps=others)
    elif ended.timed_out:
        return Late.COUNTED
    else:
        step = started_by(facts, parent_of(facts, ended.fan_outs))
    return (step_span(facts, step, status=status, trace_id=ended.trace_id, parent_span_id=ended.span_id),)


def _fan_out_resolved(
    state: SagaState, key: SagaKey, ended: EndedSaga, facts: Facts
) -> Sequence[SagaSpanRecord] | Late:
    fan_out = next((one for one in ended.fan_outs if is_fan_out_of(one, facts)), None)
    if fan_out is None:
        return Late.COUNTED
    others = tuple([one for one in ended.fan_outs if one is not fan_out])
    state.ended[key] = msgspec.structs.replace(ended, fan_outs=others)
    return (fan_out_span(facts, fan_out, trace_id=ended.trace_id, parent_span_id=ended.span_id),)


_STARTS = {"saga.step_started": _step_started, "saga.fanout_started": _fan_out_started}
_OTHERS: Mapping[str, Callable[[SagaState, SagaKey, EndedSaga, Facts], Sequence[SagaSpanRecord] | Late]] = {
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
        ended_at=ended.ended_at,
        error_type=TIMED_OUT if ended.timed_out else UNFINISHED,
        trace_id=ended.trace_id,
        parent_span_id=ended.span_id,
    )
