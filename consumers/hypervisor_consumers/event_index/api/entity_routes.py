"""The HTTP API of the event index about whole subjects: sessions, agents, traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response

from hypervisor_consumers.event_index.api.parameters import (
    MAX_ID_CHARACTERS,
    Asked,
    SessionFilter,
    only,
    read_or_refuse,
)
from hypervisor_consumers.event_index.api.response_models import Agent, Session, Sessions, Trace, answers
from hypervisor_consumers.event_index.api.responses import Answers
from hypervisor_consumers.event_index.query.causal_tree import causal_tree
from hypervisor_consumers.event_index.query.cursors import read_group_cursor, write_group_cursor
from hypervisor_consumers.event_index.query.queries import Wanted
from hypervisor_consumers.event_index.query.reader import Group, Snapshot
from hypervisor_consumers.event_index.query.summaries import RING_TYPES, SAGA_TYPES, rings_by, sagas_of

__all__ = ["add_subjects"]

_AT_MOST = 1000
"""Events, and groups of them, that a summary is made of."""

_BYTES = 4 * 1024 * 1024
"""Of events that are read for it: as objects they take many times as much."""

_Id = Annotated[str, Path(max_length=MAX_ID_CHARACTERS)]


def add_subjects(router: APIRouter, answer: Answers) -> None:
    """Add the routes of sessions, agents and traces; 404 for one that no event names."""

    @router.get("/sessions", responses=answers(Sessions), dependencies=[Depends(only(SessionFilter))])
    async def sessions(asked: Annotated[SessionFilter, Query()]) -> Response:
        """The sessions with events that fit, the one of the latest event first; counts and times are of those.

        `next` is the cursor to those behind them. A session that gets an event meanwhile moves to the front.
        """
        wanted = Wanted(agent_did=asked.agent_did, start=asked.start, end=asked.end)
        behind = None if asked.cursor is None else read_or_refuse(read_group_cursor, asked.cursor, wanted)

        def look(now: Snapshot) -> dict[str, Any]:
            found = now.groups(wanted, "session_id", asked.limit, behind)
            return {
                "sessions": _described(found.groups, "session_id"),
                "next": None if found.last is None else write_group_cursor(found.last, wanted),
            }

        return await answer.to(asked, look)

    @router.get(
        "/sessions/{session_id:path}",
        responses=answers(Session, may_miss=True),
        dependencies=[Depends(only(Asked))],
    )
    async def session(session_id: _Id, asked: Annotated[Asked, Query()]) -> Response:
        """A session: its events by type, its agents with their rings, its sagas.

        `is_whole` is false where only the latest of its agents, ring or saga events (1,000 each) are taken in.
        """

        def look(now: Snapshot) -> dict[str, Any]:
            wanted = Wanted(session_id=session_id)
            summary = _summary(now, wanted, f"No event of session {session_id!r} is in the index")
            agents = now.groups(wanted, "agent_did", _AT_MOST)
            moves = now.page(replace(wanted, event_types=RING_TYPES), _AT_MOST, max_bytes=_BYTES)
            of_sagas = now.page(replace(wanted, event_types=SAGA_TYPES), _AT_MOST, max_bytes=_BYTES)
            rings = rings_by(lambda event: event.agent_did, moves.events)
            return {
                "session_id": session_id,
                **summary,
                "agents": _described(agents.groups, "agent_did", rings),
                "sagas": sagas_of(of_sagas.events),
                "is_whole": agents.last is None and moves.last is None and of_sagas.last is None,
            }

        return await answer.to(asked, look)

    @router.get(
        "/agents/{agent_did:path}", responses=answers(Agent, may_miss=True), dependencies=[Depends(only(Asked))]
    )
    async def agent(agent_did: _Id, asked: Annotated[Asked, Query()]) -> Response:
        """An agent: its events by type, its sessions with its ring in each.

        `is_whole` is false where only the latest of its sessions or ring events (1,000 each) are taken in.
        """

        def look(now: Snapshot) -> dict[str, Any]:
            wanted = Wanted(agent_did=agent_did)
            summary = _summary(now, wanted, f"No event of agent {agent_did!r} is in the index")
            its = now.groups(wanted, "session_id", _AT_MOST)
            moves = now.page(replace(wanted, event_types=RING_TYPES), _AT_MOST, max_bytes=_BYTES)
            rings = rings_by(lambda event: event.session_id, moves.events)
            return {
                "agent_did": agent_did,
                **summary,
                "sessions": _described(its.groups, "session_id", rings),
                "is_whole": its.last is None and moves.last is None,
            }

        return await answer.to(asked, look)

    @router.get("/traces/{trace_id}", responses=answers(Trace, may_miss=True), dependencies=[Depends(only(Asked))])
    async def trace(trace_id: _Id, asked: Annotated[Asked, Query()]) -> Response:
        """The causal tree of a trace: its spans, each behind its parent, with `depth`, its events, and what failed.

        `failed_below` tells that a span further down failed. `is_whole` is false where only the latest 1,000 events
        are taken in.
        """

        def look(now: Snapshot) -> dict[str, Any]:
            page = now.page(Wanted(trace_id=trace_id), _AT_MOST, max_bytes=_BYTES)
            events = page.events[::-1]
            if not events:
                raise _not_there(f"No event of trace {trace_id!r} is in the index")
            spans = causal_tree(events)
            return {
                "trace_id": trace_id,
                "event_count": len(events),
                "failed": any(span["failed"] for span in spans),
                "spans": spans,
                "is_whole": page.last is None,
            }

        return await answer.to(asked, look)


def _summary(now: Snapshot, wanted: Wanted, nothing: str) -> dict[str, Any]:
    extent = now.extent(wanted)
    if extent is None:
        raise _not_there(nothing)
    counts = now.type_counts(wanted)
    return {
        "first": extent[0].isoformat(),
        "last": extent[1].isoformat(),
        "event_count": sum(counts.values()),
        "type_counts": counts,
    }


def _not_there(nothing: str) -> HTTPException:
    return HTTPException(404, f"{nothing}; it may not have come yet.")


def _described(groups: Sequence[Group], called: str, rings: dict[str, int] | None = None) -> list[dict[str, Any]]:
    return [
        {
            called: group.value,
            "event_count": group.events,
            "first": group.first.isoformat(),
            "last": group.last.isoformat(),
            **({} if rings is None else {"ring": rings.get(group.value)}),
        }
        for group in groups
    ]
