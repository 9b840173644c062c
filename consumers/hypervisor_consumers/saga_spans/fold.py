"""Saga events to spans. Pure: the same code runs in an agent's process and in the Kafka service.

- A saga is known by session and saga id. Whichever of its events comes first opens it and gives it its identity;
  a `saga.created` that comes later moves its start back, never forward. An event without a session belongs to
  the open saga of its id that was opened last.
- `saga.completed` and `saga.escalated` end it and drop its open steps. What comes afterwards opens a new saga.
  A saga is kept until it ends, however long that takes.
- A step or saga that ends without a start has length zero, and so has one whose end lies before its start.
- Names, states and attributes are the seed's. `action` goes before `step_action`; a saga without `saga_id` goes by
  its causal trace id, else "unknown"; a step without `step_id` by its action. An empty text counts as absent.
- A span's `agent.did` and `session.id` are those of the event that finished it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from hypervisor_consumers.runtime.contract import Fold
from hypervisor_consumers.saga_spans.identity import saga_span_id, saga_trace_id, step_span_id
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_consumers.saga_spans.state import OpenSaga, OpenStep, SagaKey, SagaState
from hypervisor_schemas.codec import ID_CHARACTERS
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, HypervisorEvent, type_value
from hypervisor_schemas.payloads import SagaPayload, read_payload

__all__ = ["SAGA_LIFECYCLE", "SagaFold"]


class SagaFold(Fold[SagaState, SagaSpanRecord]):
    """The rules above, for the seven event types of `SAGA_LIFECYCLE`; every other event is ignored."""

    def new_state(self) -> SagaState:
        """No saga is open."""
        return SagaState()

    def apply(
        self,
        state: SagaState,
        event: HypervisorEvent,
        seen_at: int = 0,  # noqa: ARG002 - nothing here expires
    ) -> Sequence[SagaSpanRecord] | None:
        """Change `state` by one event; returns the span that it finished, if any, or None: ignored.

        Raises:
            InvalidPayload: A field has another type than `SagaPayload` says; `state` is as it was.
        """
        change = _CHANGES.get(type_value(event.event_type))
        return None if change is None else change(state, _read(event))

    def expire(self, state: SagaState, now: int) -> Sequence[SagaSpanRecord]:  # noqa: ARG002 - nothing expires
        """Remove nothing: open sagas and steps are kept until they end."""
        return ()


class _Facts(msgspec.Struct):
    """What an event says, read and checked before anything changes. An absent text is empty."""

    event_id: str
    time: float
    session_id: str
    causal_trace_id: str
    saga_id: str
    step_id: str
    action: str
    attributes: dict[str, Any]
    """Those that every span of this event has."""


def _read(event: HypervisorEvent) -> _Facts:
    payload = read_payload(event.payload, SagaPayload)
    session_id, causal_trace_id = _text(event.session_id), _text(event.causal_trace_id)
    agent_did = _text(event.agent_did)
    action = _text(payload.action) or _text(payload.step_action)
    step_id = _id("step_id", payload.step_id)
    if not step_id:
        _id("action", action)  # the step goes by it
    saga_id = _id("saga_id", payload.saga_id) or causal_trace_id or "unknown"
    attributes: dict[str, Any] = {"agent.saga.id": saga_id}
    if agent_did:
        attributes["agent.did"] = agent_did
    if session_id:
        attributes["session.id"] = session_id
    for name, value in (("error", payload.error), ("reason", payload.reason), ("result", payload.result)):
        if value is not msgspec.UNSET:
            attributes[f"agent.saga.{name}"] = _described(value)
    return _Facts(
        event_id=_text(event.event_id),
        time=_seconds(event.timestamp),
        session_id=session_id,
        causal_trace_id=causal_trace_id,
        saga_id=saga_id,
        step_id=step_id,
        action=action,
        attributes=attributes,
    )


def _created(state: SagaState, facts: _Facts) -> tuple[SagaSpanRecord, ...]:
    key, saga = _opened(state, facts)
    if facts.time < saga.start_time:
        state.sagas[key] = msgspec.structs.replace(saga, start_time=facts.time)
    return ()


def _step_started(state: SagaState, facts: _Facts) -> tuple[SagaSpanRecord, ...]:
    key, saga = _opened(state, facts)
    state.start_step(key, saga, _started_by(facts))
    return ()


def _step_ended(status: str) -> Callable[[SagaState, _Facts], tuple[SagaSpanRecord, ...]]:
    def change(state: SagaState, facts: _Facts) -> tuple[SagaSpanRecord, ...]:
        key, saga = _opened(state, facts)
        step = state.end_step(key, saga, _step_id(facts)) or _started_by(facts)
        return (
            _span(
                facts,
                name=f"saga.step.{facts.action or facts.step_id}",
                step_id=_step_id(facts),
                step_action=facts.action,
                start_time=step.start_time,
                status=status,
                trace_id=saga.trace_id,
                span_id=step.span_id,
                parent_span_id=saga.span_id,
            ),
        )

    return change


def _compensating(state: SagaState, facts: _Facts) -> tuple[SagaSpanRecord, ...]:
    _, saga = _opened(state, facts)
    return (
        _span(
            facts,
            name=f"saga.compensate.{facts.action or facts.step_id}",
            step_id=facts.step_id or "compensation",
            step_action=facts.action or "compensate",
            start_time=facts.time,
            status="compensating",
            trace_id=saga.trace_id,
            span_id=step_span_id(facts.event_id),
            parent_span_id=saga.span_id,
        ),
    )


def _saga_ended(
    verb: str, step_action: str, status: str
) -> Callable[[SagaState, _Facts], tuple[SagaSpanRecord, ...]]:
    def change(state: SagaState, facts: _Facts) -> tuple[SagaSpanRecord, ...]:
        saga = state.close_saga(_saga_key(state, facts)) or _first_seen(facts)
        return (
            _span(
                facts,
                name=f"saga.{verb}.{facts.saga_id}",
                step_id="",
                step_action=step_action,
                start_time=saga.start_time,
                status=status,
                trace_id=saga.trace_id,
                span_id=saga.span_id,
                parent_span_id=None,
            ),
        )

    return change


_CHANGES: Mapping[str, Callable[[SagaState, _Facts], tuple[SagaSpanRecord, ...]]] = {
    "saga.created": _created,
    "saga.step_started": _step_started,
    "saga.step_committed": _step_ended("ok"),
    "saga.step_failed": _step_ended("error"),
    "saga.compensating": _compensating,
    "saga.completed": _saga_ended("completed", "complete", "ok"),
    "saga.escalated": _saga_ended("escalated", "escalate", "error"),
}

SAGA_LIFECYCLE: tuple[EventType, ...] = tuple(map(EventType, _CHANGES))
"""The event types that spans are made of."""


def _saga_key(state: SagaState, facts: _Facts) -> SagaKey:
    """The saga that the event belongs to, open or not."""
    latest = None if facts.session_id else state.latest_saga(facts.saga_id)
    return latest or (facts.session_id, facts.saga_id)


def _opened(state: SagaState, facts: _Facts) -> tuple[SagaKey, OpenSaga]:
    """The saga that the event belongs to; opened by this event where none of its events came before."""
    key = _saga_key(state, facts)
    saga = state.sagas[key]
    return key, saga or state.open_saga(key, _first_seen(facts))


def _first_seen(facts: _Facts) -> OpenSaga:
    trace_id = saga_trace_id(facts.causal_trace_id, facts.session_id, facts.saga_id)
    return OpenSaga(trace_id, saga_span_id(trace_id, facts.session_id, facts.saga_id), facts.time)


def _started_by(facts: _Facts) -> OpenStep:
    return OpenStep(_step_id(facts), step_span_id(facts.event_id), facts.time)


def _step_id(facts: _Facts) -> str:
    return facts.step_id or facts.action


def _span(
    facts: _Facts,
    *,
    name: str,
    step_id: str,
    step_action: str,
    start_time: float,
    status: str,
    trace_id: str,
    span_id: str,
    parent_span_id: str | None,
) -> SagaSpanRecord:
    facts.attributes["agent.saga.step_id"] = step_id
    facts.attributes["agent.saga.step_action"] = step_action
    facts.attributes["agent.saga.state"] = status
    return SagaSpanRecord(
        name=name,
        saga_id=facts.saga_id,
        step_id=step_id,
        step_action=step_action,
        start_time=start_time,
        # Clocks of two agents may differ; no backend takes a span that ends before it starts.
        end_time=max(start_time, facts.time),
        status=status,
        attributes=facts.attributes,
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
    )


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    return str(value.value if isinstance(value, Enum) else value)


def _id(name: str, value: str | int | None) -> str:
    try:
        text = _text(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        raise InvalidPayload(
            f"The payload doesn't fit: {name} is too large a number; give it as a string."
        ) from None
    if len(text) > ID_CHARACTERS:
        raise InvalidPayload(
            f"The payload doesn't fit: {name} has {len(text)} characters; an id has {ID_CHARACTERS} at most."
        )
    return text


def _described(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - str() of a stranger's object may raise anything
        return f"<{type(value).__name__} that can't be written as text>"


def _seconds(timestamp: datetime) -> float:
    # A time without a zone is UTC here as it is on the wire; Python would take it for this machine's zone.
    return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
