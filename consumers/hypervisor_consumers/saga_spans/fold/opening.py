"""What a first event opens: a saga, a step, a fan-out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor_consumers.saga_spans.fold.parsed_event import Facts, shortened
from hypervisor_consumers.saga_spans.fold.span_identity import (
    fan_out_span_id,
    saga_span_id,
    saga_trace_id,
    step_span_id,
)
from hypervisor_consumers.saga_spans.fold.state import OpenFanOut, OpenSaga, OpenStep, SagaKey

__all__ = ["fan_out_of", "first_seen", "is_fan_out_of", "parent_of", "started_by"]


def first_seen(facts: Facts) -> OpenSaga:
    """The saga whose first event this is."""
    trace_id = saga_trace_id(facts.causal_trace_id, facts.session_id, facts.saga_id)
    return OpenSaga(
        trace_id,
        saga_span_id(trace_id, facts.session_id, facts.saga_id),
        facts.time,
        seen_at=facts.seen_at,
        causal_trace_id=shortened(facts.causal_trace_id),
        agent_did=shortened(facts.agent_did),
    )


def started_by(facts: Facts, parent_span_id: str) -> OpenStep:
    """The step that this event starts, or ends without a start; `parent_span_id` is that of its fan-out, or ""."""
    return OpenStep(
        facts.step,
        step_span_id(facts.event_id),
        facts.time,
        shortened(facts.action),
        shortened(facts.agent_did),
        shortened(facts.causal_trace_id),
        parent_span_id,
    )


def fan_out_of(facts: Facts, trace_id: str, key: SagaKey) -> OpenFanOut:
    """The fan-out that this event starts, or resolves without a start."""
    fan_out_id = facts.fan_out_id
    return OpenFanOut(
        fan_out_id=fan_out_id,
        span_id=fan_out_span_id(trace_id, *key, fan_out_id) if fan_out_id else step_span_id(facts.event_id),
        start_time=facts.time,
        policy=facts.policy,
        branches=facts.branches,
        agent_did=shortened(facts.agent_did),
        causal_trace_id=shortened(facts.causal_trace_id),
    )


def is_fan_out_of(fan_out: OpenFanOut, facts: Facts) -> bool:
    """Whether the event is about this fan-out."""
    return fan_out.fan_out_id == facts.fan_out_id


def parent_of(facts: Facts, fan_outs: Sequence[OpenFanOut]) -> str:
    """The span id of the fan-out, of those that are open, that a step is a branch of; "" if it is of none."""
    if not fan_outs:
        return ""
    named, step = facts.fan_out_id, facts.step
    for fan_out in fan_outs:
        if fan_out.fan_out_id == named if named else step in fan_out.branches:
            return fan_out.span_id
    return ""
