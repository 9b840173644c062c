"""The forms of the answers, as OpenAPI describes them. Answers are never made through these, only held to them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from hypervisor_schemas.events import EventType, HypervisorEvent

__all__ = ["Agent", "Counts", "Events", "OneEvent", "Session", "Sessions", "Trace", "answers"]

_TRACE, _ROOT, _SPAN = "a1b2c3d4e5f6", "01234567", "89abcdef"
_FIRST, _LAST = "2025-01-15T10:30:00+00:00", "2025-01-15T10:30:00.250000+00:00"
_AGENT = "did:mesh:rogue-bot"
_EVENT = HypervisorEvent(
    event_id="0011223344556677",
    event_type=EventType.RING_ELEVATED,
    timestamp=datetime(2025, 1, 15, 10, 30, 0, 250_000, UTC),
    session_id="session-001",
    agent_did=_AGENT,
    causal_trace_id=f"{_TRACE}/{_SPAN}/{_ROOT}",
    parent_event_id="8899aabbccddeeff",
    payload={"from_ring": 2, "to_ring": 1},
).to_dict()
_AGE: dict[str, Any] = {
    "freshness": {
        "includes": {"hypervisor.events.ring": {"0": 15, "3": 4}},
        "lag_records": 2,
        "lag_seconds": 0.42,
    },
    "is_partial": False,
}
_SUMMARY: dict[str, Any] = {
    "first": _FIRST,
    "last": _LAST,
    "event_count": 2,
    "type_counts": {"ring.assigned": 1, "ring.elevated": 1},
}


def _example(**answer: Any) -> ConfigDict:
    """Nothing besides what is described is answered."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [answer]} if answer else None)


class _Form(BaseModel):
    model_config = _example()


class Freshness(_Form):
    """How old an answer is."""

    includes: dict[str, dict[str, int]] = Field(
        description="By topic and partition, the offset up to which the log is included."
    )
    lag_records: int | None = Field(description="Offsets behind those; null where that isn't known.")
    lag_seconds: float | None = Field(
        description="Of the partition that is furthest behind; 0 where none is, null where that isn't known."
    )


class _Aged(_Form):
    freshness: Freshness
    is_partial: bool = Field(description="Whether a partition isn't in the index yet, or nobody can know.")


class Event(_Form):
    """An event, as `HypervisorEvent.to_dict()` has it."""

    event_id: str
    event_type: str
    timestamp: AwareDatetime
    session_id: str | None
    agent_did: str | None
    causal_trace_id: str | None
    parent_event_id: str | None
    payload: dict[str, Any]


class Events(_Aged):
    """Events."""

    model_config = _example(events=[_EVENT], next=None, **_AGE)

    events: list[Event]
    next: str | None = Field(description="The cursor to the events before those; null: there are none.")


class OneEvent(_Aged):
    """An event."""

    model_config = _example(event=_EVENT, **_AGE)

    event: Event


class _Counted(_Form):
    event_count: int
    type_counts: dict[str, int]


class Bucket(_Counted):
    """The events of a length of time."""

    start: AwareDatetime


class Counts(_Aged, _Counted):
    """How many events there are."""

    model_config = _example(
        event_count=2,
        type_counts=_SUMMARY["type_counts"],
        bucket_seconds=3600,
        buckets=[{"start": "2025-01-15T10:00:00+00:00", "event_count": 2, "type_counts": _SUMMARY["type_counts"]}],
        **_AGE,
    )

    bucket_seconds: int = Field(0, description="The length of a bucket; only where `bucket` was given.")
    buckets: list[Bucket] = Field([], description="By time; only where `bucket` was given.")


class _Grouped(_Form):
    event_count: int
    first: AwareDatetime
    last: AwareDatetime


class SessionOfAll(_Grouped):
    """A session, by those of its events that fit."""

    session_id: str


class Sessions(_Aged):
    """Sessions."""

    model_config = _example(
        sessions=[{"session_id": "session-001", "event_count": 2, "first": _FIRST, "last": _LAST}],
        next=None,
        **_AGE,
    )

    sessions: list[SessionOfAll]
    next: str | None = Field(description="The cursor to the sessions behind those; null: there are none.")


class _Ringed(_Grouped):
    ring: int | None = Field(description="By its latest event that names one; null: none does.")


class AgentOfSession(_Ringed):
    """An agent, by its events of the session."""

    agent_did: str


class SessionOfAgent(_Ringed):
    """A session, by the agent's events."""

    session_id: str


class Saga(_Form):
    """A saga, by its events."""

    saga_id: str
    state: str = Field(description="open, compensating, completed or escalated.")
    steps_committed: int
    steps_failed: int
    last_error: str | None
    first: AwareDatetime
    last: AwareDatetime


class _Summary(_Aged, _Counted):
    first: AwareDatetime
    last: AwareDatetime
    is_whole: bool = Field(description="Whether all that there is was taken in.")


class Session(_Summary):
    """A session."""

    model_config = _example(
        session_id="session-001",
        **_SUMMARY,
        agents=[{"agent_did": _AGENT, "event_count": 2, "first": _FIRST, "last": _LAST, "ring": 1}],
        sagas=[
            {
                "saga_id": "deploy-v2",
                "state": "compensating",
                "steps_committed": 2,
                "steps_failed": 1,
                "last_error": "The database refused the migration.",
                "first": _FIRST,
                "last": _LAST,
            }
        ],
        is_whole=True,
        **_AGE,
    )

    session_id: str
    agents: list[AgentOfSession]
    sagas: list[Saga]


class Agent(_Summary):
    """An agent."""

    model_config = _example(
        agent_did=_AGENT,
        **_SUMMARY,
        sessions=[{"session_id": "session-001", "event_count": 2, "first": _FIRST, "last": _LAST, "ring": 1}],
        is_whole=True,
        **_AGE,
    )

    agent_did: str
    sessions: list[SessionOfAgent]


class EventOfSpan(Event):
    """An event, and whether it tells a failure."""

    failed: bool


class Span(_Form):
    """A span, behind its parent."""

    span_id: str | None = Field(description="Null: of the events whose causal trace id names no span.")
    parent_span_id: str | None
    depth: int
    agents: list[str]
    sessions: list[str]
    failed: bool
    failed_below: bool
    events: list[EventOfSpan]


class Trace(_Aged):
    """The causal tree of a trace."""

    model_config = _example(
        trace_id=_TRACE,
        event_count=1,
        failed=False,
        spans=[
            {
                "span_id": _ROOT,
                "parent_span_id": None,
                "depth": 0,
                "agents": [],
                "sessions": [],
                "failed": False,
                "failed_below": False,
                "events": [],
            },
            {
                "span_id": _SPAN,
                "parent_span_id": _ROOT,
                "depth": 1,
                "agents": [_AGENT],
                "sessions": ["session-001"],
                "failed": False,
                "failed_below": False,
                "events": [{**_EVENT, "failed": False}],
            },
        ],
        is_whole=True,
        **_AGE,
    )

    trace_id: str
    event_count: int
    failed: bool
    spans: list[Span]
    is_whole: bool


class Refusal(_Form):
    """Why there is no answer."""

    detail: str


_REFUSALS = {
    401: ("The token is missing or wrong.", "This needs the header 'Authorization: Bearer <token>' …"),
    503: ("The database can't be used now.", "The event index's database can't be used now: …"),
    504: (
        "What the read token tells isn't included in time.",
        "The index doesn't include partition 0 of hypervisor.events.ring up to offset 15 after 5 s; it is at 9. …",
    ),
}
_NOT_THERE = (
    "No event tells of it.",
    "No event of session 'session-001' is in the index; it may not have come yet.",
)


def answers(form: type[BaseModel], *, may_miss: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a route answers with, by status, for its `responses`; `may_miss`: 404 is among them."""
    refusals = {**_REFUSALS, **({404: _NOT_THERE} if may_miss else {})}
    return {
        200: {"model": form, "description": "What was asked for."},
        **{status: _refusal(description, said) for status, (description, said) in sorted(refusals.items())},
    }


def _refusal(description: str, said: str) -> dict[str, Any]:
    """A refusal, with an example of what it says."""
    return {
        "model": Refusal,
        "description": description,
        "content": {"application/json": {"example": {"detail": said}}},
    }
