"""What a saga event says, read and checked before anything changes. Pure."""

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

__all__ = ["SHORT", "Facts", "facts_of", "shortened"]

SHORT = 256
"""Characters of a text that is kept while something is open: what is kept is a record of the changelog."""

_LONGEST_DURATION = 10 * 365 * 86_400.0
_MOST_BRANCHES = 64


class Facts(msgspec.Struct, gc=False):
    """Of one event. An absent text is empty."""

    event_id: str
    time: float
    """Seconds since 1970, the event's own."""
    seen_at: int
    """Milliseconds since 1970: when it was published, or now if that is earlier; 0 in an agent's process."""
    session_id: str
    agent_did: str
    causal_trace_id: str
    saga_id: str
    step_id: str
    action: str
    payload: SagaPayload

    def attributes(self) -> dict[str, Any]:
        """Those that every span of this event has; a new object each time."""
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
        """What the step goes by."""
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
        """When a fan-out counts as done."""
        return _lenient(self.payload.policy)

    @property
    def is_failure(self) -> bool:
        """Of the end of a fan-out: it is not as its policy wants it."""
        return self.payload.policy_satisfied is False or self.payload.error is not msgspec.UNSET

    @property
    def branches(self) -> tuple[str, ...]:
        """The steps that a fan-out names as its branches."""
        given = self.payload.branches
        if not isinstance(given, list | tuple):
            return ()
        names = [_lenient(one.get("step_id") if isinstance(one, Mapping) else one) for one in given]
        return tuple(name for name in names[:_MOST_BRANCHES] if name)

    @property
    def error_type(self) -> str:
        """The kind of an error, if the agent says it."""
        return _lenient(self.payload.error_type)

    @property
    def error_text(self) -> str:
        """What went wrong, for people."""
        given = (self.payload.error, self.payload.reason)
        texts = [_described(one) for one in given if one is not msgspec.UNSET]
        return next(filter(None, texts), "")

    @property
    def duration(self) -> float:
        """How long it took, in seconds, if the agent says it; 0 otherwise."""
        value = self.payload.duration_seconds
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and 0 <= value <= _LONGEST_DURATION else 0.0

    @property
    def checkpoint(self) -> dict[str, str]:
        """What a checkpoint says of itself, as attributes of a span event."""
        payload = self.payload
        told = {
            "checkpoint_id": _lenient(payload.checkpoint_id),
            "goal": _lenient(payload.goal) or _lenient(payload.goal_description),
            "goal_hash": _lenient(payload.goal_hash),
        }
        return {f"agent.saga.{name}": value for name, value in told.items() if value}


def facts_of(event: HypervisorEvent, seen_at: int = 0) -> Facts:
    """The facts of an event, ours or the package's.

    `action` goes before `step_action`; a saga without `saga_id` goes by its causal trace id, else "unknown"; a
    step without `step_id` by its action. An empty text counts as absent.

    Raises:
        InvalidPayload: A field has another type than `SagaPayload` says, or an id is too long.
    """
    payload = read_payload(event.payload, SagaPayload)
    return facts_from(
        payload,
        _text(event.event_id),
        _seconds(event.timestamp),
        seen_at,
        _text(event.session_id),
        _text(event.agent_did),
        _text(event.causal_trace_id),
    )


def facts_from(  # noqa: PLR0917 - called for each event, and by name it takes longer
    payload: SagaPayload,
    event_id: str,
    time: float,
    seen_at: int,
    session_id: str,
    agent_did: str,
    causal_trace_id: str,
) -> Facts:
    """The facts, of an event that is in pieces.

    Raises:
        InvalidPayload: An id is too long.
    """
    action = _text(payload.action) or _text(payload.step_action)
    step_id = _id("step_id", payload.step_id)
    if not step_id:
        _id("action", action)  # the step goes by it
    saga_id = _id("saga_id", payload.saga_id) or causal_trace_id or "unknown"
    return Facts(
        event_id,
        time,
        seen_at,
        session_id,
        agent_did,
        causal_trace_id,
        saga_id,
        step_id,
        action,
        payload,
    )


def shortened(text: str) -> str:
    """The text, cut to `SHORT`."""
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    return str(value.value if isinstance(value, Enum) else value)


def _lenient(value: Any) -> str:
    """A text or a number; whatever else is there is none of ours."""
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
    except Exception:  # noqa: BLE001 - str() of a stranger's object may raise anything
        return f"<{type(value).__name__} that can't be written as text>"


def _seconds(timestamp: datetime) -> float:
    # A time without a zone is UTC here as it is on the wire; Python would take it for this machine's zone.
    return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
