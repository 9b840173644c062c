"""The event index's HTTP API: parameters, responses and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine

from hypervisor_consumers.event_index.backends.store import EventStore, open_store
from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of
from tests.support.app_client import Client
from tests.support.index_api import index_app, write

TOPIC = "hypervisor.events.ring"
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
EVENTS = [
    HypervisorEvent(
        event_id=f"{number:016x}",
        event_type=EventType.RING_ELEVATED if number % 2 else event_type_of("quantum.entangled"),
        timestamp=NOON + timedelta(seconds=number),
        session_id=f"s{number % 3}",
        agent_did="did:mesh:日本語" if number < 4 else None,
        causal_trace_id="a1b2c3d4e5f6/89abcdef/01234567",
        payload={"nested": {"list": [1, {"deep": None}]}, "text": "naïve 😀", "number": number},
    )
    for number in range(6)
]


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with closing(open_store(database_url)) as opened:
        write(opened, *EVENTS, topic=TOPIC)
        yield opened


def client_of(store: EventStore, token: str | None = None) -> Client:
    return Client(index_app(store, token))


@pytest.fixture
def client(store: EventStore) -> Client:
    return client_of(store)


def numbers(client: Client, query: str) -> list[int]:
    response = client.get(f"/v1/events{query}")
    assert response.status_code == 200, response.text
    return [event["payload"]["number"] for event in response.json()["events"]]


def refusals(client: Client, path: str) -> list[Any]:
    response = client.get(path)
    assert response.status_code == 422, response.text
    return [(error["loc"], error["msg"]) for error in response.json()["detail"]]


def test_events_are_answered_in_the_form_of_to_dict(client: Client) -> None:
    response = client.get("/v1/events")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["events", "next", "freshness", "is_partial"]
    assert answer["events"] == [event.to_dict() for event in EVENTS]
    assert answer["next"] is None
    assert [HypervisorEvent.from_dict(data) for data in response.json()["events"]] == EVENTS


def test_stats_count_all_and_each_type(client: Client) -> None:
    response = client.get("/v1/stats")
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["event_count", "type_counts", "freshness", "is_partial"]
    assert answer["event_count"] == 6
    assert answer["type_counts"] == {"quantum.entangled": 3, "ring.elevated": 3}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?event_type=ring.elevated", [1, 3, 5]),
        ("?session_id=s1", [1, 4]),
        ("?agent_did=did:mesh:%E6%97%A5%E6%9C%AC%E8%AA%9E", [0, 1, 2, 3]),
        ("?event_type=ring.elevated&session_id=s0&agent_did=did:mesh:%E6%97%A5%E6%9C%AC%E8%AA%9E", [3]),
        ("?limit=2", [4, 5]),
        ("?limit=1000", [0, 1, 2, 3, 4, 5]),
        ("?event_type=ring.elevated&limit=1", [5]),
        ("?event_type=nobody.knows", []),
        ("?session_id=", []),
        ("?start=2025-01-15T12:00:04Z", [4, 5]),
        ("?start=2025-01-15T12:00:02Z&end=2025-01-15T12:00:03Z", [2, 3]),
        ("?end=2025-01-15T12:00:00.999999", [0]),
        ("?start=2025-01-15T13:00:04%2B01:00", [4, 5]),
        ("?start=2025-01-15T13:00:04+01:00", [4, 5]),
        ("?start=2025-01-15T07:00:04-05:00", [4, 5]),
        ("?start=2025-01-15%2012:00:04", [4, 5]),
        ("?start=2025-01-16", []),
    ],
)
def test_filters_narrow_the_answer(client: Client, query: str, expected: list[int]) -> None:
    assert numbers(client, query) == expected


def test_a_hundred_events_are_the_default(client: Client, store: EventStore) -> None:
    later = [
        HypervisorEvent(timestamp=NOON + timedelta(hours=1, seconds=number), payload={"number": number})
        for number in range(6, 206)
    ]
    write(store, *later, topic=TOPIC)
    assert numbers(client, "") == list(range(106, 206))


@pytest.mark.parametrize(
    ("query", "parameter", "says"),
    [
        ("?limit=0", "limit", "greater than or equal to 1"),
        ("?limit=1001", "limit", "less than or equal to 1000"),
        ("?limit=many", "limit", "valid integer"),
        ("?start=yesterday", "start", "'yesterday' is not a time in ISO 8601, such as 2025-01-15T10:30:00Z"),
        ("?end=1736942400", "end", "not a time in ISO 8601"),
        ("?end=", "end", "not a time in ISO 8601"),
        ("?end=9999-12-31T23:59:59-01:00", "end", "not a time in ISO 8601"),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(client: Client, query: str, parameter: str, says: str) -> None:
    ((location, sentence),) = refusals(client, f"/v1/events{query}")
    assert location == ["query", parameter]
    assert says in sentence


def test_an_unknown_parameter_is_refused_with_those_that_exist(client: Client) -> None:
    assert refusals(client, "/v1/events?sesion_id=s1&limit=5") == [
        (
            ["query", "sesion_id"],
            "This takes event_type, session_id, agent_did, trace_id, start, end, payload, subtree, limit, order, "
            "cursor, after, wait; 'sesion_id' is not among them.",
        )
    ]
    [(location, _)] = refusals(client, "/v1/stats?limit=5")
    assert location == ["query", "limit"]
    assert refusals(client, "/v1/events/1?session_id=s1") == [
        (["query", "session_id"], "This takes after, wait; 'session_id' is not among them.")
    ]


def test_a_parameter_given_twice_is_refused(client: Client) -> None:
    assert refusals(client, "/v1/events?session_id=s1&session_id=s2") == [
        (["query", "session_id"], "Give 'session_id' once, not 2 times.")
    ]


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/0000000000000001", "/v1/stats"])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_changed(client: Client, path: str, method: str) -> None:
    assert client.request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/v1/events", "/v1/stats", "/v1/events?limit=wrong", "/v1/events?sesion_id=s1"])
@pytest.mark.parametrize(
    "header",
    [None, "Bearer wrong", "Bearer", "Bearer ", "Basic s3cret", "s3cret", "Bearer s3cretx", "Bearer s3cre"],
)
def test_with_a_token_nothing_is_answered_without_it(store: EventStore, path: str, header: str | None) -> None:
    response = client_of(store, "s3cret").get(path, headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert "TELEMETRY_API_TOKEN" in response.json()["detail"]
    assert "s3cret" not in response.text


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/0000000000000001", "/v1/stats"])
@pytest.mark.parametrize("token", ["s3cret", "pässwört-日本"])
def test_with_the_token_everything_is_answered(store: EventStore, path: str, token: str) -> None:
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {token}".encode()}
        assert client_of(store, token).get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/0000000000000001", "/v1/stats"])
def test_a_database_that_cannot_answer_is_503_with_a_sentence(client: Client, database_url: str, path: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE events RENAME TO away")
        connection.exec_driver_sql("ALTER TABLE type_counts RENAME TO gone")
    engine.dispose()
    response = client.get(path)
    assert response.status_code == 503
    assert response.json()["detail"].startswith("The event index's database can't be used now: ")
