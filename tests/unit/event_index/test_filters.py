"""Filters of the event index by the content of events: the payload, and the spans below a span."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from fastapi import FastAPI

from hypervisor_consumers.event_index.backends.store import EventStore, open_store
from hypervisor_consumers.event_index.query import reader
from hypervisor_consumers.event_index.query.cursors import read_cursor, write_cursor
from hypervisor_consumers.event_index.query.queries import EventFilter, Position
from hypervisor_consumers.event_index.query.subtrees import causal_trace_ids_below
from hypervisor_consumers.runtime.ops.http import HttpServer
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_telemetry.index_client.client import IndexClient
from tests.support.app_client import Client
from tests.support.index_api import answer, index_app, refusal, write

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)


def event(number: int, trace: str | None = None, parent: int | None = None, **payload: Any) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=f"{number:016x}",
        event_type=EventType.RING_ELEVATED,
        timestamp=NOON + timedelta(seconds=number),
        session_id=f"s{number % 2}",
        causal_trace_id=trace,
        parent_event_id=None if parent is None else f"{parent:016x}",
        payload={"number": number, **payload},
    )


EVENTS = [
    event(0, "t/root", to_ring=0, tools=["shell", {"name": "git"}]),
    event(1, "t/child/root", to_ring=1),
    event(2, "t/grandchild/child", to_ring=0),
    event(3, "t/other/root", to_ring=False),
    event(4, "t/by-event", parent=1),  # of the child, by the event that caused it
    event(5, "t/below-it/by-event"),
    event(6, "u/child/root", to_ring=0),  # of another trace
    event(7, "t/elsewhere/other", parent=1),  # its causal trace id says where it stands
    event(8, "t", parent=1),
    event(9, "t/round/about", to_ring="0"),
    event(10, "t/about/round"),
    event(11, None, parent=1),
    event(12, "t/child/root", parent=4),
]


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with closing(open_store(database_url)) as opened:
        write(opened, *EVENTS)
        yield opened


@pytest.fixture
def app(store: EventStore) -> FastAPI:
    return index_app(store)


@pytest.fixture
def client(app: FastAPI) -> Client:
    return Client(app)


def numbers(body: dict[str, Any]) -> list[int]:
    return [document["payload"]["number"] for document in body["events"]]


def payload(wanted: Any) -> str:
    return f"payload={quote(json.dumps(wanted))}"


FILTERS = [
    (payload({"to_ring": 0}), [0, 2, 6]),
    (payload({"to_ring": 0.0}), [0, 2, 6]),
    (payload({"to_ring": False}), [3]),
    (payload({"tools": [{"name": "git"}]}), [0]),
    (payload({"tools": ["shell", "shell"], "number": 0}), [0]),
    (payload({}), list(range(13))),
    (payload({"to_ring": 0}) + "&session_id=s0&event_type=ring&end=2025-01-15T12:00:05Z", [0, 2]),
    ("trace_id=t&subtree=root", [0, 1, 2, 3, 4, 5, 7, 12]),
    ("trace_id=t&subtree=child", [1, 2, 4, 5, 12]),
    ("trace_id=t&subtree=by-event", [4, 5]),
    ("trace_id=t&subtree=other", [3, 7]),
    ("trace_id=t&subtree=about", [9, 10]),  # in a circle
    ("trace_id=t&subtree=nobody", []),
    ("trace_id=u&subtree=root", [6]),
    ("trace_id=t&subtree=child&" + payload({"to_ring": 0}), [2]),
]


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_events_and_counts_are_of_what_fits(client: Client, query: str, expected: list[int]) -> None:
    assert numbers(answer(client, f"/v1/events?{query}")) == expected
    assert numbers(answer(client, f"/v1/events?{query}&limit=1")) == expected[-1:]
    assert answer(client, f"/v1/stats?{query}")["event_count"] == len(expected)


@pytest.mark.parametrize(("query", "expected"), FILTERS)
def test_a_stream_brings_what_fits(app: FastAPI, query: str, expected: list[int]) -> None:
    with closing(HttpServer(app, "127.0.0.1", 0)) as server:
        got: list[int] = []
        given = {**dict(parse_qsl(query)), "last_event_id": "none"}
        for message in IndexClient(server.url).stream("/v1/events/stream", given):
            if message.event is not None:
                got.append(message.event["payload"]["number"])
            if message.id == "t:0.13":
                break
    assert got == expected


@pytest.mark.parametrize(
    "query", [payload({"to_ring": 0}), payload({"to_ring": 0, "number": 2}), "trace_id=t&subtree=child"]
)
def test_a_cursor_belongs_to_them(client: Client, query: str) -> None:
    page = answer(client, f"/v1/events?{payload({'to_ring': 0})}&limit=1")
    path = f"/v1/events?{query}&limit=1&cursor={page['next']}"
    if query == payload({"to_ring": 0}):
        assert numbers(answer(client, path)) == [2]
    else:
        assert refusal(client, path)[0] == ["query", "cursor"]


def test_the_order_of_keys_makes_no_other_filter() -> None:
    position = Position(1, "t", 0, 1)
    cursor = write_cursor(position, EventFilter(payload={"a": 1, "b": {"c": 2, "d": 3}}))
    assert read_cursor(cursor, EventFilter(payload={"b": {"d": 3, "c": 2}, "a": 1})) == position


@pytest.mark.parametrize(
    ("query", "parameter", "says"),
    [
        ("payload=5", "payload", "This is not a JSON object"),
        ("payload=" + "x" * 4097, "payload", "at most 4096 characters"),
        ("subtree=root", "subtree", "A subtree is of a trace; give its trace_id, too."),
        ("trace_id=t&subtree=" + "x" * 1025, "subtree", "at most 1024 characters"),
    ],
)
def test_a_wrong_filter_is_refused(client: Client, query: str, parameter: str, says: str) -> None:
    for path in ("/v1/events", "/v1/stats", "/v1/events/stream"):
        location, sentence = refusal(client, f"{path}?{query}")
        assert location == ["query", parameter]
        assert says in sentence


def test_a_trace_of_too_many_spans_is_refused(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_SPANS", 3)
    for path in ("/v1/events", "/v1/stats", "/v1/events/stream"):
        location, sentence = refusal(client, f"{path}?trace_id=t&subtree=root")
        assert location == ["query", "subtree"]
        assert sentence.startswith("This trace has more than 5000 spans")


def test_a_tree_of_any_depth_is_walked() -> None:
    ids = [f"t/{number + 1}/{number}" for number in range(4000)]
    assert len(causal_trace_ids_below("1", ids, [])) == 4000
    assert causal_trace_ids_below("3999", ids, []) == ["t/3999/3998", "t/4000/3999"]
