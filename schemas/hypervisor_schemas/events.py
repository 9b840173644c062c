"""The events: 40 types of the hypervisor, 5 of governance, and the immutable record that carries them.

Names, values and the order of fields are those of the tutorial and of the `agent-hypervisor` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypeAlias

from hypervisor_schemas.ids import random_hex
from hypervisor_schemas.public import public

__all__ = [
    "AnyEventType",
    "EventType",
    "GovernanceEventType",
    "HypervisorEvent",
    "UnknownEventType",
    "event_type_of",
    "type_value",
]


@public
class EventType(str, Enum):  # noqa: UP042 - str(member) is "EventType.X", as in the package
    """The event types of the hypervisor. The part of a value before the dot is the category."""

    SESSION_CREATED = "session.created"
    SESSION_JOINED = "session.joined"
    SESSION_ACTIVATED = "session.activated"
    SESSION_TERMINATED = "session.terminated"
    SESSION_ARCHIVED = "session.archived"

    RING_ASSIGNED = "ring.assigned"
    RING_ELEVATED = "ring.elevated"
    RING_DEMOTED = "ring.demoted"
    RING_ELEVATION_EXPIRED = "ring.elevation_expired"
    RING_BREACH_DETECTED = "ring.breach_detected"

    VOUCH_CREATED = "liability.vouch_created"
    VOUCH_RELEASED = "liability.vouch_released"
    SLASH_EXECUTED = "liability.slash_executed"
    FAULT_ATTRIBUTED = "liability.fault_attributed"
    QUARANTINE_ENTERED = "liability.quarantine_entered"
    QUARANTINE_RELEASED = "liability.quarantine_released"

    SAGA_CREATED = "saga.created"
    SAGA_STEP_STARTED = "saga.step_started"
    SAGA_STEP_COMMITTED = "saga.step_committed"
    SAGA_STEP_FAILED = "saga.step_failed"
    SAGA_COMPENSATING = "saga.compensating"
    SAGA_COMPLETED = "saga.completed"
    SAGA_ESCALATED = "saga.escalated"
    SAGA_FANOUT_STARTED = "saga.fanout_started"
    SAGA_FANOUT_RESOLVED = "saga.fanout_resolved"
    SAGA_CHECKPOINT_SAVED = "saga.checkpoint_saved"

    VFS_WRITE = "vfs.write"
    VFS_DELETE = "vfs.delete"
    VFS_SNAPSHOT = "vfs.snapshot"
    VFS_RESTORE = "vfs.restore"
    VFS_CONFLICT = "vfs.conflict"

    RATE_LIMITED = "security.rate_limited"
    AGENT_KILLED = "security.agent_killed"
    SAGA_HANDOFF = "security.saga_handoff"
    IDENTITY_VERIFIED = "security.identity_verified"

    AUDIT_DELTA_CAPTURED = "audit.delta_captured"
    AUDIT_COMMITTED = "audit.committed"
    AUDIT_GC_COLLECTED = "audit.gc_collected"

    BEHAVIOR_DRIFT = "verification.behavior_drift"
    HISTORY_VERIFIED = "verification.history_verified"


@public
class GovernanceEventType(str, Enum):  # noqa: UP042 - as EventType
    """The event types of the governance kernel, in whichever language it runs."""

    POLICY_DECISION = "governance.policy_decision"
    TRUST_SCORE = "governance.trust_score"
    AUDIT_EVENT = "governance.audit_event"
    AGENT_REGISTERED = "governance.agent_registered"
    AGENT_DEREGISTERED = "governance.agent_deregistered"


@public
class UnknownEventType(str):
    """An event type that this version doesn't know. Agents and services pass it on unchanged."""

    __slots__ = ()

    @property
    def value(self) -> str:
        """The type's value, under the name that it has in an enum."""
        return str(self)


AnyEventType: TypeAlias = EventType | GovernanceEventType | UnknownEventType

_BY_VALUE: Mapping[str, EventType | GovernanceEventType] = {
    member.value: member for kind in (EventType, GovernanceEventType) for member in kind
}


def event_type_of(value: str) -> AnyEventType:
    """The member with this value, or an `UnknownEventType` that carries it."""
    return _BY_VALUE.get(value) or UnknownEventType(value)


def type_value(event_type: Any) -> str:
    """The value of an event type: ours, the package's own enum, or a plain string."""
    return str(getattr(event_type, "value", event_type))


_ABSENT: Any = object()


@public
@dataclass(frozen=True, slots=True, init=False)
class HypervisorEvent:
    """One thing that happened, as an immutable record.

    By default `event_id` is 16 random hexadecimal digits and `timestamp` is the current time in UTC.
    """

    event_id: str = field(default_factory=lambda: random_hex(16))
    event_type: AnyEventType = EventType.SESSION_CREATED
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))
    session_id: str | None = None
    agent_did: str | None = None
    causal_trace_id: str | None = None
    parent_event_id: str | None = None
    payload: dict[str, Any] = field(default_factory=dict)

    def __init__(  # noqa: PLR0917 - the package's order
        self,
        event_id: str = _ABSENT,
        event_type: AnyEventType = EventType.SESSION_CREATED,
        timestamp: datetime = _ABSENT,
        session_id: str | None = None,
        agent_did: str | None = None,
        causal_trace_id: str | None = None,
        parent_event_id: str | None = None,
        payload: dict[str, Any] = _ABSENT,
    ) -> None:
        if event_id is _ABSENT:
            event_id = random_hex(16)
        if timestamp is _ABSENT:
            timestamp = datetime.now(UTC)
        if payload is _ABSENT:
            payload = {}
        # What a frozen dataclass would generate calls object.__setattr__ for each field, at twice the cost.
        _set_event_id(self, event_id)
        _set_event_type(self, event_type)
        _set_timestamp(self, timestamp)
        _set_session_id(self, session_id)
        _set_agent_did(self, agent_did)
        _set_causal_trace_id(self, causal_trace_id)
        _set_parent_event_id(self, parent_event_id)
        _set_payload(self, payload)

    def to_dict(self) -> dict[str, Any]:
        """All fields under their names, with the type's value and the timestamp in ISO 8601."""
        return {
            "event_id": self.event_id,
            "event_type": type_value(self.event_type),
            "timestamp": self.timestamp.isoformat(),
            "session_id": self.session_id,
            "agent_did": self.agent_did,
            "causal_trace_id": self.causal_trace_id,
            "parent_event_id": self.parent_event_id,
            "payload": self.payload,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HypervisorEvent:
        """The event that `to_dict` described; absent fields get their defaults.

        Raises:
            ValueError: A field is unknown or has the wrong type; the sentence names it.
        """
        unknown = sorted(repr(name) for name in data if name not in _FIELDS)
        if unknown:
            raise ValueError(f"an event has no field {unknown[0]}; it has {', '.join(_FIELDS)}")
        given: dict[str, Any] = {}
        for name, value in data.items():
            if not isinstance(value, _FIELDS[name]) or (name in _REQUIRED and value is None):
                raise ValueError(f"{name} must be {_EXPECTED[name]}, not {type(value).__name__}")
            given[name] = value
        if "event_type" not in given:
            raise ValueError(f"event_type is missing; give one such as {EventType.RING_ASSIGNED.value!r}")
        given["event_type"] = event_type_of(type_value(given["event_type"]))
        if isinstance(given.get("timestamp"), str):
            given["timestamp"] = _parse_timestamp(given["timestamp"])
        return cls(**given)


(
    _set_event_id,
    _set_event_type,
    _set_timestamp,
    _set_session_id,
    _set_agent_did,
    _set_causal_trace_id,
    _set_parent_event_id,
    _set_payload,
) = (vars(HypervisorEvent)[name].__set__ for name in HypervisorEvent.__slots__)
"""The setters of the slots: a frozen class refuses `self.event_id = …`."""

_TEXT = (str, type(None))
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "event_id": (str,),
    "event_type": (str,),
    "timestamp": (str, datetime),
    "session_id": _TEXT,
    "agent_did": _TEXT,
    "causal_trace_id": _TEXT,
    "parent_event_id": _TEXT,
    "payload": (dict,),
}
_REQUIRED = {name for name, types in _FIELDS.items() if type(None) not in types}
_EXPECTED = {
    name: {"timestamp": "an ISO 8601 string", "payload": "an object"}.get(
        name, "a string" if name in _REQUIRED else "a string or null"
    )
    for name in _FIELDS
}


def _parse_timestamp(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"timestamp must be an ISO 8601 string, not {text!r}") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
