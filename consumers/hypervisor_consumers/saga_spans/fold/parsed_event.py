"""Reads and checks a saga event before anything changes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.payloads import SagaPayload, read_payload
from hypervisor_schemas.wire.codec import ID_CHARACTERS

__all__ = ["MAX_KEPT_CHARACTERS", "ParsedEvent", "parse_event", "parsed_event", "shortened"]

MAX_KEPT_CHARACTERS = 256
"""Characters of a text that is kept while something is open: everything kept is in a record of the changelog."""

_MAX_DURATION_SECONDS = 10 * 365 * 86_400.0
_MAX_BRANCHES = 64


class ParsedEvent(msgspec.Struct, gc=False):
    """The fields of a valid saga event that the fold uses. An absent text is empty."""

    event_id: str
    time: float
    """The event's own time, in seconds since 1970."""
    seen_at_ms: int
    """As in `Fold.apply`; 0 in an agent's process."""
    session_id: str
    agent_did: str
    causal_trace_id: str
    saga_id: str
    step_id: str
    action: str
    payload: SagaPayload

    def attributes(self) -> dict[str, Any]:
        """The attributes that every span of this event has, as a new object."""
        attributes: dict[str, Any] = {"agent.saga.id": self.saga_id}
        if self.agent_did:
            attributes["agent.did"] = self.agent_did
        if self.session_id:
            attributes["session.id"] = self.session_id
        payload, unset = self.payload, msgspec.UNSET
        if payload.error is not unset:
            attributes["agent.saga.error"] = _described(payload.error)
        if payload.reason is not unset:
            attributes["agent.saga.reason"] = _described(payload.reason)
        if payload.result is not unset:
            attributes["agent.saga.result"] = _described(payload.result)
        return attributes

    @property
    def step(self) -> str:
        """The name that the step is found by."""
        return self.step_id or self.action

    @property
    def fan_out_id(self) -> str:
        """The fan-out that the event is about, or that its step is a branch of."""
        payload = self.payload
        if payload.fan_out_id is None and payload.group_id is None:
            return ""
        return _lenient(payload.fan_out_id) or _lenient(payload.group_id)

    @property
    def policy(self) -> str:
        """The policy by which a fan-out counts as done."""
        return _lenient(self.payload.policy)

    @property
    def is_failure(self) -> bool:
        """Whether the end of a fan-out is a failure: its policy is not satisfied, or there is an error."""
        return self.payload.policy_satisfied is False or self.payload.error is not msgspec.UNSET

    @property
    def branches(self) -> tuple[str, ...]:
        """The steps that a fan-out names as its branches."""
        given = self.payload.branches
        if not isinstance(given, list | tuple):
            return ()
        names = [_lenient(branch.get("step_id") if isinstance(branch, Mapping) else branch) for branch in given]
        return tuple(name for name in names[:_MAX_BRANCHES] if name)

    @property
    def error_type(self) -> str:
        """The kind of an error, if the agent gives it."""
        return _lenient(self.payload.error_type)

    @property
    def error_text(self) -> str:
        """The error or reason as text for people."""
        details = (self.payload.error, self.payload.reason)
        texts = [_described(detail) for detail in details if detail is not msgspec.UNSET]
        return next(filter(None, texts), "")

    @property
    def duration_seconds(self) -> float:
        """The duration, if the agent gives it; 0 otherwise."""
        value = self.payload.duration_seconds
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and 0 <= value <= _MAX_DURATION_SECONDS else 0.0

    @property
    def checkpoint(self) -> dict[str, str]:
        """The attributes of a checkpoint's span event."""
        payload = self.payload
        texts = {
            "checkpoint_id": _lenient(payload.checkpoint_id),
            "goal": _lenient(payload.goal) or _lenient(payload.goal_description),
            "goal_hash": _lenient(payload.goal_hash),
        }
        return {f"agent.saga.{name}": value for name, value in texts.items() if value}


def parse_event(event: HypervisorEvent, seen_at_ms: int = 0) -> ParsedEvent:
    """Parse an event, ours or the package's.

    `action` is preferred to `step_action`; a saga without `saga_id` is named by its causal trace id, else
    "unknown"; a step without `step_id` by its action. An empty text counts as absent.

    Raises:
        InvalidPayload: A field has another type than `SagaPayload` says, or an id is too long.
    """
    payload = read_payload(event.payload, SagaPayload)
    return parsed_event(
        payload,
        _text(event.event_id),
        _seconds(event.timestamp),
        seen_at_ms,
        _text(event.session_id),
        _text(event.agent_did),
        _text(event.causal_trace_id),
    )


def parsed_event(  # noqa: PLR0917 - called for each event, and by name it takes longer
    payload: SagaPayload,
    event_id: str,
    time: float,
    seen_at_ms: int,
    session_id: str,
    agent_did: str,
    causal_trace_id: str,
) -> ParsedEvent:
    """Put together an event from fields that are read already.

    Raises:
        InvalidPayload: An id is too long.
    """
    action = _text(payload.action) or _text(payload.step_action)
    step_id = _id("step_id", payload.step_id)
    if not step_id:
        _id("action", action)  # it names the step
    saga_id = _id("saga_id", payload.saga_id) or causal_trace_id or "unknown"
    return ParsedEvent(
        event_id,
        time,
        seen_at_ms,
        session_id,
        agent_did,
        causal_trace_id,
        saga_id,
        step_id,
        action,
        payload,
    )


def shortened(text: str) -> str:
    """The text, cut to `MAX_KEPT_CHARACTERS`."""
    return text if len(text) <= MAX_KEPT_CHARACTERS else text[: MAX_KEPT_CHARACTERS - 1] + "…"


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    return str(value.value if isinstance(value, Enum) else value)


def _lenient(value: Any) -> str:
    """A text or a number as text; "" for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Enum):
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    try:
        return shortened(_text(value))
    except ValueError:  # a number of thousands of digits
        return ""


def _id(name: str, value: str | int | None) -> str:
    if type(value) is str and len(value) <= ID_CHARACTERS:
        return value
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
    except Exception:  # noqa: BLE001 - str() of a foreign object may raise anything
        return f"<{type(value).__name__} that can't be written as text>"


def _seconds(timestamp: datetime) -> float:
    # A time without a zone is UTC here, as on the wire; Python would take it for this machine's zone.
    return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
