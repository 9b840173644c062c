"""Builds the span of each kind: its name, its times, its attributes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        name=f"saga.step.{event.action or event.step_id}",
        step_id=event.step,
        step_action=event.action,
        start_time=step.start_time,
        status=status,
        trace_id=trace_id,
        span_id=step.span_id,
        parent_span_id=step.parent_span_id or parent_span_id,
        causal_trace_id=step.causal_trace_id or event.causal_trace_id,
        checkpoints=step.checkpoints,
    )


def compensation_span(event: ParsedEvent, *, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A compensation, made from its only event. An event that has a duration is sent at the end of it."""
    return _span(
        event,
        name=f"saga.compensate.{event.action or event.step_id}",
        step_id=event.step_id or "compensation",
        step_action=event.action or "compensate",
        start_time=event.time - event.duration_seconds,
        status="compensating",
        trace_id=trace_id,
        span_id=step_span_id(event.event_id),
        parent_span_id=parent_span_id,
        causal_trace_id=event.causal_trace_id,
    )


def fan_out_span(event: ParsedEvent, fan_out: OpenFanOut, *, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A fan-out that is resolved."""
    policy = fan_out.policy or event.policy
    return _span(
        event,
        name=f"saga.fanout.{policy or fan_out.fan_out_id}",
        step_id=fan_out.fan_out_id,
        step_action=policy,
        start_time=fan_out.start_time,
        status="error" if event.is_failure else "ok",
        trace_id=trace_id,
        span_id=fan_out.span_id,
        parent_span_id=parent_span_id,
        causal_trace_id=fan_out.causal_trace_id or event.causal_trace_id,
    )


def ended_saga_span(
    event: ParsedEvent, saga: OpenSaga, *, verb: str, step_action: str, status: str
) -> SagaSpanRecord:
    """A saga, from its start to its end."""
    return _span(
        event,
        name=f"saga.{verb}.{event.saga_id}",
        step_id="",
        step_action=step_action,
        start_time=saga.start_time,
        status=status,
        trace_id=saga.trace_id,
        span_id=saga.span_id,
        parent_span_id=None,
        causal_trace_id=saga.causal_trace_id or event.causal_trace_id,
        checkpoints=saga.checkpoints,
    )


def timed_out_span(key: SagaKey, saga: OpenSaga, *, seconds: float) -> SagaSpanRecord:
    """A saga that got no end within `seconds`."""
    return _open_span(
        key,
        name=f"saga.timed_out.{key[1]}",
        step_id="",
        step_action="time_out",
        start_time=saga.start_time,
        end_time=saga.start_time + seconds,
        reason=f"no end came within {seconds:g} s of its first event",
        error_type=TIMED_OUT,
        trace_id=saga.trace_id,
        span_id=saga.span_id,
        parent_span_id=None,
        causal_trace_id=saga.causal_trace_id,
        agent_did=saga.agent_did,
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

    def span(opened: OpenStep | OpenFanOut, **fields: Any) -> SagaSpanRecord:
        return _open_span(
            key,
            start_time=opened.start_time,
            end_time=max(opened.start_time, end_time),
            reason=reason,
            error_type=error_type,
            trace_id=trace_id,
            span_id=opened.span_id,
            causal_trace_id=opened.causal_trace_id,
            agent_did=opened.agent_did,
            **fields,
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


def _span(
    event: ParsedEvent,
    *,
    name: str,
    step_id: str,
    step_action: str,
    start_time: float,
    status: str,
    trace_id: str,
    span_id: str,
    parent_span_id: str | None,
    causal_trace_id: str,
    checkpoints: Sequence[Checkpoint] = (),
) -> SagaSpanRecord:
    attributes = event.attributes()
    attributes["agent.saga.step_id"] = step_id
    attributes["agent.saga.step_action"] = step_action
    attributes["agent.saga.state"] = status
    return SagaSpanRecord(
        name,
        event.saga_id,
        step_id,
        step_action,
        start_time,
        # Clocks of two agents may differ; no backend takes a span that ends before it starts.
        max(start_time, event.time),
        status,
        attributes,
        trace_id,
        span_id,
        parent_span_id,
        causal_trace_id,
        event.error_type if status == "error" else "",
        _events(checkpoints),
    )


def _open_span(
    key: SagaKey,
    *,
    name: str,
    step_id: str,
    step_action: str,
    start_time: float,
    end_time: float,
    reason: str,
    error_type: str,
    trace_id: str,
    span_id: str,
    parent_span_id: str | None,
    causal_trace_id: str,
    agent_did: str,
    checkpoints: Sequence[Checkpoint] = (),
) -> SagaSpanRecord:
    session_id, saga_id = key
    attributes = {
        "agent.saga.id": saga_id,
        "agent.saga.step_id": step_id,
        "agent.saga.step_action": step_action,
        "agent.saga.state": "error",
        "agent.saga.reason": reason,
    }
    if agent_did:
        attributes["agent.did"] = agent_did
    if session_id:
        attributes["session.id"] = session_id
    return SagaSpanRecord(
        name=name,
        saga_id=saga_id,
        step_id=step_id,
        step_action=step_action,
        start_time=start_time,
        end_time=end_time,
        status="error",
        attributes=attributes,
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
        causal_trace_id=causal_trace_id,
        error_type=error_type,
        events=_events(checkpoints),
    )


def _events(checkpoints: Sequence[Checkpoint]) -> tuple[SpanEvent, ...]:
    return (
        tuple([SpanEvent(CHECKPOINT, saved.time, saved.attributes) for saved in checkpoints]) if checkpoints else ()
    )
