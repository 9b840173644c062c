"""The HTTP API of the event index for sessions, agents and traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Response

from hypervisor_consumers.event_index.api.parameters import (
    MAX_ID_CHARACTERS,
    SessionParameters,
    WaitParameters,
    read_or_refuse,
)
from hypervisor_consumers.event_index.api.response_models import Agent, Session, Sessions, Trace
from hypervisor_consumers.event_index.api.responses import Responder, route_options
from hypervisor_consumers.event_index.query.causal_tree import causal_tree
from hypervisor_consumers.event_index.query.cursors import read_group_cursor, write_group_cursor
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.event_index.query.reader import Group, Page, Snapshot
from hypervisor_consumers.event_index.query.summaries import RING_TYPES, SAGA_TYPES, latest_rings, summarize_sagas

__all__ = ["add_entity_routes"]

_SUMMARY_LIMIT = 1000
"""The most events, and the most groups, that a summary is made of."""

_SUMMARY_BYTES = 4 * 1024 * 1024
"""The size of the events that a summary is made of; as objects they take many times as much."""

_Id = Annotated[str, Path(max_length=MAX_ID_CHARACTERS)]


def add_entity_routes(router: APIRouter, responder: Responder) -> None:
    """Add the routes of sessions, agents and traces; 404 for one that no event names."""

    @router.get("/sessions", **route_options(Sessions, SessionParameters))
    async def sessions(parameters: Annotated[SessionParameters, Query()]) -> Response:
        """The sessions with matching events, the latest first; counts and times are those of the matching events.

        `next` is the cursor to the sessions after them. A session that gets an event meanwhile moves to the front.
        """
        event_filter = EventFilter(agent_did=parameters.agent_did, start=parameters.start, end=parameters.end)
        after = read_or_refuse(read_group_cursor, parameters.cursor, event_filter)

        def read(snapshot: Snapshot) -> dict[str, Any]:
            page = snapshot.groups(event_filter, "session_id", parameters.limit, after)
            return {
                "sessions": _group_documents(page.groups, "session_id"),
                "next": None if page.resume_at is None else write_group_cursor(page.resume_at, event_filter),
            }

        return await responder.respond(parameters, read)

    @router.get("/sessions/{session_id:path}", **route_options(Session, WaitParameters, may_miss=True))
    async def session(session_id: _Id, parameters: Annotated[WaitParameters, Query()]) -> Response:
        """A session: its events by type, its agents with their rings, its sagas.

        `is_whole` is false if only its latest agents, ring events or saga events (1,000 each) are included.
        """

        def read(snapshot: Snapshot) -> dict[str, Any]:
            event_filter = EventFilter(session_id=session_id)
            summary = _summary(snapshot, event_filter, f"session {session_id!r}")
            agents = snapshot.groups(event_filter, "agent_did", _SUMMARY_LIMIT)
            ring_events = _latest_of_types(snapshot, event_filter, RING_TYPES)
            saga_events = _latest_of_types(snapshot, event_filter, SAGA_TYPES)
            rings = latest_rings(lambda event: event.agent_did, ring_events.events)
            return {
                "session_id": session_id,
                **summary,
                "agents": _group_documents(agents.groups, "agent_did", rings),
                "sagas": summarize_sagas(saga_events.events),
                "is_whole": all(page.resume_at is None for page in (agents, ring_events, saga_events)),
            }

        return await responder.respond(parameters, read)

    @router.get("/agents/{agent_did:path}", **route_options(Agent, WaitParameters, may_miss=True))
    async def agent(agent_did: _Id, parameters: Annotated[WaitParameters, Query()]) -> Response:
        """An agent: its events by type, its sessions with its ring in each.

        `is_whole` is false if only its latest sessions or ring events (1,000 each) are included.
        """

        def read(snapshot: Snapshot) -> dict[str, Any]:
            event_filter = EventFilter(agent_did=agent_did)
            summary = _summary(snapshot, event_filter, f"agent {agent_did!r}")
            sessions = snapshot.groups(event_filter, "session_id", _SUMMARY_LIMIT)
            ring_events = _latest_of_types(snapshot, event_filter, RING_TYPES)
            rings = latest_rings(lambda event: event.session_id, ring_events.events)
            return {
                "agent_did": agent_did,
                **summary,
                "sessions": _group_documents(sessions.groups, "session_id", rings),
                "is_whole": sessions.resume_at is None and ring_events.resume_at is None,
            }

        return await responder.respond(parameters, read)

    @router.get("/traces/{trace_id}", **route_options(Trace, WaitParameters, may_miss=True))
    async def trace(trace_id: _Id, parameters: Annotated[WaitParameters, Query()]) -> Response:
        """The causal tree of a trace: its spans, each after its parent, with `depth`, events and failures.

        `failed_below` is true if a span further down failed. `is_whole` is false if only the latest 1,000 events
        are included.
        """

        def read(snapshot: Snapshot) -> dict[str, Any]:
            page = snapshot.page(EventFilter(trace_id=trace_id), _SUMMARY_LIMIT, max_bytes=_SUMMARY_BYTES)
            events = page.events[::-1]
            if not events:
                raise _not_found(f"trace {trace_id!r}")
            spans = causal_tree(events)
            return {
                "trace_id": trace_id,
                "event_count": len(events),
                "failed": any(span["failed"] for span in spans),
                "spans": spans,
                "is_whole": page.resume_at is None,
            }

        return await responder.respond(parameters, read)


def _latest_of_types(snapshot: Snapshot, event_filter: EventFilter, types: Sequence[str]) -> Page:
    return snapshot.page(replace(event_filter, event_types=types), _SUMMARY_LIMIT, max_bytes=_SUMMARY_BYTES)


def _summary(snapshot: Snapshot, event_filter: EventFilter, entity: str) -> dict[str, Any]:
    time_range = snapshot.time_range(event_filter)
    if time_range is None:
        raise _not_found(entity)
    counts = snapshot.type_counts(event_filter)
    return {
        "first": time_range[0].isoformat(),
        "last": time_range[1].isoformat(),
        "event_count": sum(counts.values()),
        "type_counts": counts,
    }


def _not_found(entity: str) -> HTTPException:
    return HTTPException(404, f"No event of {entity} is in the index; it may not have come yet.")


def _group_documents(
    groups: Sequence[Group], value_name: str, rings: dict[str, int] | None = None
) -> list[dict[str, Any]]:
    return [
        {
            value_name: group.value,
            "event_count": group.events,
            "first": group.first.isoformat(),
            "last": group.last.isoformat(),
            **({} if rings is None else {"ring": rings.get(group.value)}),
        }
        for group in groups
    ]
