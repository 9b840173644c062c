"""The models of the responses, for the OpenAPI document. Responses are not made with them; tests compare both."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from hypervisor_consumers.event_index.query.causal_tree import causal_tree
from hypervisor_schemas.events import EventType, HypervisorEvent

__all__ = ["Agent", "Counts", "Events", "OneEvent", "Session", "Sessions", "Trace", "documented_responses"]

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
)
_FRESHNESS: dict[str, Any] = {
    "freshness": {"includes": {"hypervisor.events.ring": {"0": 15, "3": 4}}, "lag_records": 2, "lag_seconds": 0.42},
    "is_partial": False,
}
_SUMMARY: dict[str, Any] = {
    "first": _FIRST,
    "last": _LAST,
    "event_count": 2,
    "type_counts": {"ring.assigned": 1, "ring.elevated": 1},
}
_TIMES: dict[str, Any] = {"event_count": 2, "first": _FIRST, "last": _LAST}


def _example(**answer: Any) -> ConfigDict:
    """The configuration of a model with this example; a response has no other fields."""
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [answer]} if answer else None)


class _ResponseModel(BaseModel):
    model_config = _example()


class Freshness(_ResponseModel):
    """The freshness of a response."""

    includes: dict[str, dict[str, int]] = Field(
        description="By topic and partition, the offset up to which the log is included."
    )
    lag_records: int | None = Field(description="The number of offsets after those; null if unknown.")
    lag_seconds: float | None = Field(
        description="The lag of the partition that is furthest behind; 0 if none is behind, null if unknown."
    )


class _WithFreshness(_ResponseModel):
    freshness: Freshness
    is_partial: bool = Field(description="Whether a partition isn't in the index yet, or that is unknown.")


class Event(_ResponseModel):
    """An event, as `HypervisorEvent.to_dict()` gives it."""

    event_id: str
    event_type: str
    timestamp: AwareDatetime
    session_id: str | None
    agent_did: str | None
    causal_trace_id: str | None
    parent_event_id: str | None
    payload: dict[str, Any]


class Events(_WithFreshness):
    """A page of events."""

    model_config = _example(events=[_EVENT.to_dict()], next=None, **_FRESHNESS)

    events: list[Event]
    next: str | None = Field(description="The cursor to the events before these; null if there are none.")


class OneEvent(_WithFreshness):
    """An event."""

    model_config = _example(event=_EVENT.to_dict(), **_FRESHNESS)

    event: Event


class _WithCounts(_ResponseModel):
    event_count: int
    type_counts: dict[str, int]


class Bucket(_WithCounts):
    """The counts of a time bucket."""

    start: AwareDatetime


class Counts(_WithFreshness, _WithCounts):
    """The number of events."""

    model_config = _example(
        event_count=2,
        type_counts=_SUMMARY["type_counts"],
        bucket_seconds=3600,
        buckets=[{"start": "2025-01-15T10:00:00+00:00", "event_count": 2, "type_counts": _SUMMARY["type_counts"]}],
        **_FRESHNESS,
    )

    bucket_seconds: int = Field(0, description="The length of a bucket; only if `bucket` was given.")
    buckets: list[Bucket] = Field([], description="The counts by time; only if `bucket` was given.")


class _WithTimes(_ResponseModel):
    event_count: int
    first: AwareDatetime
    last: AwareDatetime


class SessionOfAll(_WithTimes):
    """A session, by its matching events."""

    session_id: str


class Sessions(_WithFreshness):
    """A page of sessions."""

    model_config = _example(sessions=[{"session_id": "session-001", **_TIMES}], next=None, **_FRESHNESS)

    sessions: list[SessionOfAll]
    next: str | None = Field(description="The cursor to the sessions after these; null if there are none.")


class _WithRing(_WithTimes):
    ring: int | None = Field(description="The ring that its latest event with a ring names; null if none does.")


class AgentOfSession(_WithRing):
    """An agent, by its events of the session."""

    agent_did: str


class SessionOfAgent(_WithRing):
    """A session, by the agent's events."""

    session_id: str


class Saga(_ResponseModel):
    """A saga, by its events."""

    saga_id: str
    state: str = Field(description="open, compensating, completed or escalated.")
    steps_committed: int
    steps_failed: int
    last_error: str | None
    first: AwareDatetime
    last: AwareDatetime


class _EntitySummary(_WithFreshness, _WithCounts):
    first: AwareDatetime
    last: AwareDatetime
    is_whole: bool = Field(description="Whether everything is included.")


class Session(_EntitySummary):
    """A session."""

    model_config = _example(
        session_id="session-001",
        **_SUMMARY,
        agents=[{"agent_did": _AGENT, **_TIMES, "ring": 1}],
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
        **_FRESHNESS,
    )

    session_id: str
    agents: list[AgentOfSession]
    sagas: list[Saga]


class Agent(_EntitySummary):
    """An agent."""

    model_config = _example(
        agent_did=_AGENT,
        **_SUMMARY,
        sessions=[{"session_id": "session-001", **_TIMES, "ring": 1}],
        is_whole=True,
        **_FRESHNESS,
    )

    agent_did: str
    sessions: list[SessionOfAgent]


class EventOfSpan(Event):
    """An event, and whether it reports a failure."""

    failed: bool


class Span(_ResponseModel):
    """A span, which comes after its parent."""

    span_id: str | None = Field(description="Null for the events whose causal trace id names no span.")
    parent_span_id: str | None
    depth: int
    agents: list[str]
    sessions: list[str]
    failed: bool
    failed_below: bool
    events: list[EventOfSpan]


class Trace(_WithFreshness):
    """The causal tree of a trace."""

    model_config = _example(
        trace_id=_TRACE,
        event_count=1,
        failed=False,
        spans=causal_tree([_EVENT]),
        is_whole=True,
        **_FRESHNESS,
    )

    trace_id: str
    event_count: int
    failed: bool
    spans: list[Span]
    is_whole: bool


class Refusal(_ResponseModel):
    """The reason why a request was refused."""

    detail: str


_REFUSALS = {
    401: ("The token is missing or wrong.", "This needs the header 'Authorization: Bearer <token>' …"),
    503: ("The database can't be used now.", "The event index's database can't be used now: …"),
    504: (
        "The index didn't include the offsets of the read token in time.",
        "The index doesn't include partition 0 of hypervisor.events.ring up to offset 15 after 5 s; it is at 9. …",
    ),
}
_NOT_FOUND = (
    "No event names it.",
    "No event of session 'session-001' is in the index; it may not have come yet.",
)


def documented_responses(model: type[BaseModel], *, may_miss: bool = False) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route in the OpenAPI document, by status; with `may_miss` a 404 is among them."""
    refusals = {**_REFUSALS, **({404: _NOT_FOUND} if may_miss else {})}
    return {
        200: {"model": model, "description": "The requested data."},
        **{
            status: {
                "model": Refusal,
                "description": description,
                "content": {"application/json": {"example": {"detail": detail}}},
            }
            for status, (description, detail) in sorted(refusals.items())
        },
    }
