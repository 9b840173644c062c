"""Builds the span of each kind: its name, its times, its attributes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from hypervisor_consumers.saga_spans.fold.parsed_event import ParsedEvent
from hypervisor_consumers.saga_spans.fold.span_identity import step_span_id
from hypervisor_consumers.saga_spans.fold.state import Checkpoint, OpenFanOut, OpenSaga, OpenStep, SagaKey
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanEvent

__all__ = [
    "TIMED_OUT",
    "UNFINISHED",
    "compensation_span",
    "ended_saga_span",
    "fan_out_span",
    "step_span",
    "timed_out_span",
    "unfinished_spans",
]

TIMED_OUT = "saga_timeout"
"""The `error_type` of a saga that got no end in time, and of its steps and fan-outs that were open then."""
UNFINISHED = "saga_unfinished"
"""The `error_type` of a step or fan-out that was still open when its saga ended."""

CHECKPOINT = "saga.checkpoint"


def step_span(
    event: ParsedEvent, step: OpenStep, *, status: str, trace_id: str, parent_span_id: str
) -> SagaSpanRecord:
    """A step that has ended; `parent_span_id` is used if the step names none."""
    return _span(
        event,
        step,
        name=f"saga.step.{event.action or event.step_id}",
        step_id=event.step,
        step_action=event.action,
        status=status,
        trace_id=trace_id,
        parent_span_id=step.parent_span_id or parent_span_id,
        checkpoints=step.checkpoints,
    )


def compensation_span(event: ParsedEvent, *, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A compensation, made from its only event. An event that has a duration is sent at the end of it."""
    return _span(
        event,
        OpenStep(event.step, step_span_id(event.event_id), event.time - event.duration_seconds),
        name=f"saga.compensate.{event.action or event.step_id}",
        step_id=event.step_id or "compensation",
        step_action=event.action or "compensate",
        status="compensating",
        trace_id=trace_id,
        parent_span_id=parent_span_id,
    )


def fan_out_span(event: ParsedEvent, fan_out: OpenFanOut, *, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A fan-out that is resolved."""
    policy = fan_out.policy or event.policy
    return _span(
        event,
        fan_out,
        name=f"saga.fanout.{policy or fan_out.fan_out_id}",
        step_id=fan_out.fan_out_id,
        step_action=policy,
        status="error" if event.is_failure else "ok",
        trace_id=trace_id,
        parent_span_id=parent_span_id,
    )


def ended_saga_span(
    event: ParsedEvent, saga: OpenSaga, *, verb: str, step_action: str, status: str
) -> SagaSpanRecord:
    """A saga, from its start to its end."""
    return _span(
        event,
        saga,
        name=f"saga.{verb}.{event.saga_id}",
        step_id="",
        step_action=step_action,
        status=status,
        trace_id=saga.trace_id,
        parent_span_id=None,
        checkpoints=saga.checkpoints,
    )


def timed_out_span(key: SagaKey, saga: OpenSaga, *, seconds: float) -> SagaSpanRecord:
    """A saga that got no end within `seconds`."""
    return _unfinished_span(
        key,
        saga,
        name=f"saga.timed_out.{key[1]}",
        step_id="",
        step_action="time_out",
        end_time=saga.start_time + seconds,
        reason=f"no end came within {seconds:g} s of its first event",
        error_type=TIMED_OUT,
        trace_id=saga.trace_id,
        parent_span_id=None,
        checkpoints=saga.checkpoints,
    )


def unfinished_spans(
    key: SagaKey,
    steps: Sequence[OpenStep],
    fan_outs: Sequence[OpenFanOut],
    *,
    end_time: float,
    error_type: str,
    trace_id: str,
    parent_span_id: str,
) -> list[SagaSpanRecord]:
    """The steps and fan-outs that were open when their saga ended at `end_time`: they end then, too."""
    reason = "no end came before its saga was timed out" if error_type == TIMED_OUT else "open when its saga ended"
    span = partial(
        _unfinished_span, key, end_time=end_time, reason=reason, error_type=error_type, trace_id=trace_id
    )
    return [
        *(
            span(
                step,
                name=f"saga.step.{step.action or step.step_id}",
                step_id=step.step_id,
                step_action=step.action,
                parent_span_id=step.parent_span_id or parent_span_id,
                checkpoints=step.checkpoints,
            )
            for step in steps
        ),
        *(
            span(
                fan_out,
                name=f"saga.fanout.{fan_out.policy or fan_out.fan_out_id}",
                step_id=fan_out.fan_out_id,
                step_action=fan_out.policy,
                parent_span_id=parent_span_id,
            )
            for fan_out in fan_outs
        ),
    ]


_Opened: TypeAlias = OpenSaga | OpenStep | OpenFanOut


def _span(
    event: ParsedEvent,
    opened: _Opened,
    *,
    name: str,
    step_id: str,
    step_action: str,
    status: str,
    trace_id: str,
    parent_span_id: str | None,
    checkpoints: Sequence[Checkpoint] = (),
) -> SagaSpanRecord:
    """The span of something that was opened, and that `event` has ended."""
    attributes = event.attributes()
    attributes["agent.saga.step_id"] = step_id
    attributes["agent.saga.step_action"] = step_action
    attributes["agent.saga.state"] = status
    return SagaSpanRecord(
        name,
        event.saga_id,
        step_id,
        step_action,
        opened.start_time,
        # Clocks of two agents may differ; no backend takes a span that ends before it starts.
        max(opened.start_time, event.time),
        status,
        attributes,
        trace_id,
        opened.span_id,
        parent_span_id,
        opened.causal_trace_id or event.causal_trace_id,
        event.error_type if status == "error" else "",
        _events(checkpoints),
    )


def _unfinished_span(
    key: SagaKey,
    opened: _Opened,
    *,
    name: str,
    step_id: str,
    step_action: str,
    end_time: float,
    reason: str,
    error_type: str,
    trace_id: str,
    parent_span_id: str | None,
    checkpoints: Sequence[Checkpoint] = (),
) -> SagaSpanRecord:
    """The error span of something that was opened, and that no event has ended."""
    session_id, saga_id = key
    attributes = {
        "agent.saga.id": saga_id,
        "agent.saga.step_id": step_id,
        "agent.saga.step_action": step_action,
        "agent.saga.state": "error",
        "agent.saga.reason": reason,
    }
    if opened.agent_did:
        attributes["agent.did"] = opened.agent_did
    if session_id:
        attributes["session.id"] = session_id
    return SagaSpanRecord(
        name,
        saga_id,
        step_id,
        step_action,
        opened.start_time,
        max(opened.start_time, end_time),
        "error",
        attributes,
        trace_id,
        opened.span_id,
        parent_span_id,
        opened.causal_trace_id,
        error_type,
        _events(checkpoints),
    )


def _events(checkpoints: Sequence[Checkpoint]) -> tuple[SpanEvent, ...]:
    if not checkpoints:
        return ()
    return tuple([SpanEvent(CHECKPOINT, saved.time, saved.attributes) for saved in checkpoints])
