"""The spans: what each kind is called, and what it says. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypervisor_consumers.saga_spans.fold.parsed_event import Facts
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
"""The `error_type` of a saga that got no end in time, and of what was open in it then."""
UNFINISHED = "saga_unfinished"
"""The `error_type` of a step or fan-out that was still open when its saga ended."""

CHECKPOINT = "saga.checkpoint"


def step_span(facts: Facts, step: OpenStep, *, status: str, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A step that ended; `parent_span_id` where the step names none."""
    return _span(
        facts,
        name=f"saga.step.{facts.action or facts.step_id}",
        step_id=facts.step,
        step_action=facts.action,
        start_time=step.start_time,
        status=status,
        trace_id=trace_id,
        span_id=step.span_id,
        parent_span_id=step.parent_span_id or parent_span_id,
        causal_trace_id=step.causal_trace_id or facts.causal_trace_id,
        checkpoints=step.checkpoints,
    )


def compensation_span(facts: Facts, *, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A compensation, at once. Its event comes when it is over, if it says how long it took."""
    return _span(
        facts,
        name=f"saga.compensate.{facts.action or facts.step_id}",
        step_id=facts.step_id or "compensation",
        step_action=facts.action or "compensate",
        start_time=facts.time - facts.duration,
        status="compensating",
        trace_id=trace_id,
        span_id=step_span_id(facts.event_id),
        parent_span_id=parent_span_id,
        causal_trace_id=facts.causal_trace_id,
    )


def fan_out_span(facts: Facts, fan_out: OpenFanOut, *, trace_id: str, parent_span_id: str) -> SagaSpanRecord:
    """A fan-out that is resolved."""
    policy = fan_out.policy or facts.policy
    return _span(
        facts,
        name=f"saga.fanout.{policy or fan_out.fan_out_id}",
        step_id=fan_out.fan_out_id,
        step_action=policy,
        start_time=fan_out.start_time,
        status="error" if facts.is_failure else "ok",
        trace_id=trace_id,
        span_id=fan_out.span_id,
        parent_span_id=parent_span_id,
        causal_trace_id=fan_out.causal_trace_id or facts.causal_trace_id,
    )


def ended_saga_span(facts: Facts, saga: OpenSaga, *, verb: str, step_action: str, status: str) -> SagaSpanRecord:
    """A saga, from its start to its end."""
    return _span(
        facts,
        name=f"saga.{verb}.{facts.saga_id}",
        step_id="",
        step_action=step_action,
        start_time=saga.start_time,
        status=status,
        trace_id=saga.trace_id,
        span_id=saga.span_id,
        parent_span_id=None,
        causal_trace_id=saga.causal_trace_id or facts.causal_trace_id,
        checkpoints=saga.checkpoints,
    )


def timed_out_span(key: SagaKey, saga: OpenSaga, *, seconds: float) -> SagaSpanRecord:
    """A saga that got no end within so many seconds."""
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
    ended_at: float,
    error_type: str,
    trace_id: str,
    parent_span_id: str,
) -> list[SagaSpanRecord]:
    """What was open when its saga ended at `ended_at`, and got no end of its own: it ends there, too."""
    reason = "no end came before its saga was timed out" if error_type == TIMED_OUT else "open when its saga ended"

    def span(one: OpenStep | OpenFanOut, **about: Any) -> SagaSpanRecord:
        return _open_span(
            key,
            start_time=one.start_time,
            end_time=max(one.start_time, ended_at),
            reason=reason,
            error_type=error_type,
            trace_id=trace_id,
            span_id=one.span_id,
            causal_trace_id=one.causal_trace_id,
            agent_did=one.agent_did,
            **about,
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
    facts: Facts,
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
    attributes = facts.attributes()
    attributes["agent.saga.step_id"] = step_id
    attributes["agent.saga.step_action"] = step_action
    attributes["agent.saga.state"] = status
    return SagaSpanRecord(
        name,
        facts.saga_id,
        step_id,
        step_action,
        start_time,
        # Clocks of two agents may differ; no backend takes a span that ends before it starts.
        max(start_time, facts.time),
        status,
        attributes,
        trace_id,
        span_id,
        parent_span_id,
        causal_trace_id,
        facts.error_type if status == "error" else "",
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
    return tuple([SpanEvent(CHECKPOINT, one.time, one.attributes) for one in checkpoints]) if checkpoints else ()
