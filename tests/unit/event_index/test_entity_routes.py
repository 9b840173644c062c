"""The routes of sessions, agents and traces, and the causal tree of a trace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.query.causal_tree import causal_tree
from hypervisor_schemas.events import HypervisorEvent, event_type_of
from tests.support.app_client import Client
from tests.support.index_api import answer, index_app, write

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)


def at(second: int) -> str:
    return (NOON + timedelta(seconds=second)).isoformat()


def event(
    second: int, kind: str, session: str | None = None, agent: str | None = None, **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=f"{second:016x}",
        event_type=event_type_of(kind),
        timestamp=NOON + timedelta(seconds=second),
        session_id=session,
        agent_did=agent,
        payload=payload,
    )


EVENTS = [
    event(0, "session.created", "s1"),
    event(1, "ring.assigned", "s1", "did:a", ring=3),
    event(2, "ring.elevated", "s1", "did:a", from_ring=3, to_ring=0),
    event(3, "ring.breach_detected", "s1", "did:a", ring=2),
    event(4, "ring.elevated", "s1", "did:a", to_ring="root"),
    event(5, "ring.assigned", "s2", "did:a", ring=1),
    event(6, "saga.created", "s1", "did:b", saga_id="deploy"),
    event(7, "saga.step_committed", "s1", "did:b", saga_id="deploy", step_id="1"),
    event(8, "saga.step_failed", "s1", "did:b", saga_id="deploy", step_id="2", error="no space left"),
    event(9, "saga.compensating", "s1", "did:b", saga_id="deploy", step_id="1"),
    event(10, "saga.completed", "s1", "did:b", saga_id=7),
    event(11, "saga.created", "s1", "did:b", saga_id=["wrong"]),
    event(12, "saga.escalated", "s3", None, saga_id="deploy"),
    event(13, "vfs.write"),
    event(14, "vfs.write", "s/4", "did:web:x/y"),
]


@pytest.fixture
def client(store: EventStore) -> Client:
    write(store, *EVENTS)
    return Client(index_app(store, now=lambda: 0.0))


def content(client: Client, path: str) -> dict[str, Any]:
    """The answer without its freshness."""
    body = answer(client, path)
    assert {"includes", "lag_records", "lag_seconds"} == body.pop("freshness").keys()
    assert body.pop("is_partial") is True
    return body


# --- sessions


def test_sessions_come_with_the_latest_first(client: Client) -> None:
    sessions = content(client, "/v1/sessions")["sessions"]
    assert sessions[0] == {"session_id": "s/4", "event_count": 1, "first": at(14), "last": at(14)}
    assert [(one["session_id"], one["event_count"]) for one in sessions] == [
        ("s/4", 1),
        ("s3", 1),
        ("s1", 11),
        ("s2", 1),
    ]
    assert (sessions[2]["first"], sessions[2]["last"]) == (at(0), at(11))


@pytest.mark.parametrize(
    ("query", "sessions"),
    [
        ("limit=2", {"s/4": 1, "s3": 1}),
        ("agent_did=did:a", {"s2": 1, "s1": 4}),
        ("start=2025-01-15T12:00:05Z&end=2025-01-15T12:00:07Z", {"s1": 2, "s2": 1}),
        ("agent_did=did:a&end=2025-01-15T12:00:02Z", {"s1": 2}),
        ("agent_did=nobody", {}),
    ],
)
def test_sessions_are_found_by_their_events(client: Client, query: str, sessions: dict[str, int]) -> None:
    found = content(client, f"/v1/sessions?{query}")["sessions"]
    assert [(one["session_id"], one["event_count"]) for one in found] == list(sessions.items())


def test_a_session_tells_its_agents_rings_and_sagas(client: Client) -> None:
    assert content(client, "/v1/sessions/s1") == {
        "session_id": "s1",
        "first": at(0),
        "last": at(11),
        "event_count": 11,
        "type_counts": {
            "ring.assigned": 1,
            "ring.breach_detected": 1,
            "ring.elevated": 2,
            "saga.compensating": 1,
            "saga.completed": 1,
            "saga.created": 2,
            "saga.step_committed": 1,
            "saga.step_failed": 1,
            "session.created": 1,
        },
        "agents": [
            {"agent_did": "did:b", "event_count": 6, "first": at(6), "last": at(11), "ring": None},
            {"agent_did": "did:a", "event_count": 4, "first": at(1), "last": at(4), "ring": 0},
        ],
        "sagas": [
            {
                "saga_id": "7",
                "state": "completed",
                "steps_committed": 0,
                "steps_failed": 0,
                "last_error": None,
                "first": at(10),
                "last": at(10),
            },
            {
                "saga_id": "deploy",
                "state": "compensating",
                "steps_committed": 1,
                "steps_failed": 1,
                "last_error": "no space left",
                "first": at(6),
                "last": at(9),
            },
        ],
        "is_whole": True,
    }
    assert content(client, "/v1/sessions/s3")["sagas"][0]["state"] == "escalated"
    assert content(client, "/v1/sessions/s/4")["agents"][0]["agent_did"] == "did:web:x/y"


def test_a_session_with_more_than_is_taken_in_says_so(client: Client, store: EventStore) -> None:
    write(store, *(event(n, "ring.assigned", "long", "did:a", ring=n % 4) for n in range(100, 1101)))
    long = content(client, "/v1/sessions/long")
    assert long["is_whole"] is False
    assert long["event_count"] == 1001
    assert long["agents"][0]["ring"] == 0


# --- agents


def test_an_agent_tells_its_sessions_and_its_ring_in_each(client: Client) -> None:
    assert content(client, "/v1/agents/did:a") == {
        "agent_did": "did:a",
        "first": at(1),
        "last": at(5),
        "event_count": 5,
        "type_counts": {"ring.assigned": 2, "ring.breach_detected": 1, "ring.elevated": 2},
        "sessions": [
            {"session_id": "s2", "event_count": 1, "first": at(5), "last": at(5), "ring": 1},
            {"session_id": "s1", "event_count": 4, "first": at(1), "last": at(4), "ring": 0},
        ],
        "is_whole": True,
    }
    assert content(client, "/v1/agents/did:web:x/y")["event_count"] == 1


# --- traces


def spanned(
    second: int, span: str, kind: str = "vfs.write", after: int | None = None, **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=f"{second:016x}",
        event_type=event_type_of(kind),
        timestamp=NOON + timedelta(seconds=second),
        session_id="s1",
        agent_did=f"did:{span[:1]}",
        causal_trace_id=f"t/{span}" if span else "t",
        parent_event_id=None if after is None else f"{after:016x}",
        payload=payload,
    )


def tree(*events: HypervisorEvent) -> list[tuple[str | None, int]]:
    return [(span["span_id"], span["depth"]) for span in causal_tree(events)]


def test_a_trace_is_its_causal_tree_with_what_failed_marked(client: Client, store: EventStore) -> None:
    events = [
        spanned(20, "a"),
        spanned(21, "b/a"),
        spanned(22, "c/b", "saga.step_failed", error="no space left"),
        spanned(23, "d/a"),
        spanned(24, "b/a"),
    ]
    write(store, *events)
    trace = content(client, "/v1/traces/t")
    spans = trace.pop("spans")
    assert trace == {"trace_id": "t", "event_count": 5, "failed": True, "is_whole": True}
    assert [(one["span_id"], one["parent_span_id"], one["depth"]) for one in spans] == [
        ("a", None, 0),
        ("b", "a", 1),
        ("c", "b", 2),
        ("d", "a", 1),
    ]
    assert [(one["failed"], one["failed_below"]) for one in spans] == [
        (False, True),
        (False, True),
        (True, False),
        (False, False),
    ]
    assert (spans[1]["agents"], spans[1]["sessions"]) == (["did:b"], ["s1"])
    assert spans[1]["events"] == [{**events[n].to_dict(), "failed": False} for n in (1, 4)]
    assert spans[2]["events"][0]["failed"] is True


def test_a_parent_without_events_holds_its_children_together() -> None:
    spans = causal_tree([spanned(1, "b/a"), spanned(2, "c/a")])
    assert [(one["span_id"], one["depth"], len(one["events"])) for one in spans] == [
        ("a", 0, 0),
        ("b", 1, 1),
        ("c", 1, 1),
    ]


def test_where_the_trace_names_no_parent_the_parent_event_does() -> None:
    assert tree(spanned(1, "a"), spanned(2, "b", after=1), spanned(3, "c", after=99), spanned(4, "a", after=2)) == [
        ("a", 0),
        ("b", 1),
        ("c", 0),
    ]
    assert tree(spanned(1, "a"), spanned(2, "", after=1)) == [("a", 0), (None, 1)]


def test_ids_in_a_circle_are_all_there_once() -> None:
    assert tree(spanned(1, "a/b"), spanned(2, "b/a"), spanned(3, "c/b")) == [("a", 0), ("b", 1), ("c", 2)]
    assert tree(spanned(1, "a/a")) == [("a", 0)]
    assert tree(spanned(1, "a", after=1)) == [("a", 0)]


def test_a_chain_of_any_depth_is_a_list(client: Client, store: EventStore) -> None:
    write(store, *(spanned(n, f"{n}/{n - 1}") for n in range(100, 1200)))
    trace = content(client, "/v1/traces/t")
    assert trace["is_whole"] is False
    assert [span["depth"] for span in trace["spans"]] == list(range(1001))


@pytest.mark.parametrize(
    ("kind", "payload", "failed"),
    [
        ("saga.step_failed", {}, True),
        ("saga.escalated", {}, True),
        ("ring.breach_detected", {}, True),
        ("security.agent_killed", {}, True),
        ("saga.fanout_resolved", {"policy_satisfied": False}, True),
        ("saga.fanout_resolved", {"policy_satisfied": True}, False),
        ("quantum.entangled", {"error": "lost"}, True),
        ("quantum.entangled", {"error": None}, False),
        ("saga.completed", {}, False),
    ],
)
def test_what_counts_as_failed(kind: str, payload: dict[str, Any], failed: bool) -> None:
    [span] = causal_tree([spanned(1, "a", kind, **payload)])
    assert span["failed"] is failed


# --- all of them


@pytest.mark.parametrize("path", ["sessions/nobody", "agents/nobody", "traces/nobody"])
def test_what_no_event_names_is_404_with_a_sentence(client: Client, path: str) -> None:
    response = client.get(f"/v1/{path}")
    assert response.status_code == 404
    subject = path.partition("/")[0][:-1]
    assert response.json()["detail"] == f"No event of {subject} 'nobody' is in the index; it may not have come yet."


@pytest.mark.parametrize("path", ["sessions/s1", "agents/did:a", "traces/t", "sessions"])
@pytest.mark.parametrize("query", ["sesion_id=x", "wait=31", "after=x", "wait=1&wait=2"])
def test_what_is_wrong_or_unknown_is_refused(client: Client, path: str, query: str) -> None:
    assert client.get(f"/v1/{path}?{query}").status_code == 422


def test_ids_and_limits_are_bounded(client: Client) -> None:
    long = "x" * 1025
    for path in (f"sessions/{long}", f"agents/{long}", f"traces/{long}", "sessions?limit=1001", "sessions?limit=0"):
        assert client.get(f"/v1/{path}").status_code == 422
