"""The events in answers of the index: categories, traces, pages, single events, counts of a filter."""

from __future__ import annotations

import secrets
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.query.cursors import read_cursor, write_cursor
from hypervisor_consumers.event_index.query.queries import EventFilter, Position
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.events import HypervisorEvent, event_type_of
from tests.support.app_client import Client
from tests.support.index_api import answer, index_app, write

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
KINDS = ["ring.elevated", "ring.demoted", "ringer.called", "ring", "saga.created", "x.y.z", "ring_elevated"]


def event(number: int, **fields: Any) -> HypervisorEvent:
    return HypervisorEvent(
        **{
            "event_id": f"{number:016x}",
            "event_type": event_type_of(KINDS[number % len(KINDS)]),
            "timestamp": NOON + timedelta(seconds=number),
            "session_id": f"s{number % 2}",
            "causal_trace_id": f"t{number % 3}/1/0",
            "payload": {"number": number},
            **fields,
        }
    )


@pytest.fixture
def client(store: EventStore) -> Client:
    write(store, *map(event, range(14)))
    return Client(index_app(store))


def numbers(body: dict[str, Any]) -> list[int]:
    return [document["payload"]["number"] for document in body["events"]]


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("event_type=ring.elevated&event_type=saga.created", {"ring.elevated", "saga.created"}),
        ("event_type=ring", {"ring", "ring.elevated", "ring.demoted"}),
        ("event_type=ring.", {"ring.elevated", "ring.demoted"}),
        ("event_type=ring&event_type=ring.demoted&event_type=ring", {"ring", "ring.elevated", "ring.demoted"}),
        ("event_type=saga&event_type=nobody.knows", {"saga.created"}),
        ("event_type=RING.", set()),
        ("event_type=%25", set()),
        ("event_type=ring_", set()),
        ("event_type=", set()),
    ],
)
def test_types_are_named_one_by_one_or_by_category(client: Client, query: str, kinds: set[str]) -> None:
    expected = [number for number in range(14) if KINDS[number % 7] in kinds]
    assert numbers(answer(client, f"/v1/events?{query}")) == expected
    assert numbers(answer(client, f"/v1/events?{query}&limit=2")) == expected[-2:]
    assert answer(client, f"/v1/stats?{query}")["type_counts"] == {
        kind: sum(KINDS[number % 7] == kind for number in range(14)) for kind in sorted(kinds)
    }


def test_a_trace_is_the_first_part_of_the_causal_trace_id(client: Client) -> None:
    assert numbers(answer(client, "/v1/events?trace_id=t1&session_id=s0")) == [4, 10]
    assert numbers(answer(client, "/v1/events?trace_id=t1/1/0")) == []


def test_counts_of_a_filter_are_of_what_fits(client: Client) -> None:
    stats = answer(client, "/v1/stats?session_id=s0&event_type=ring&end=2025-01-15T12:00:09Z")
    fits = [number for number in range(0, 10, 2) if KINDS[number % 7] in {"ring", "ring.elevated", "ring.demoted"}]
    assert stats["event_count"] == len(fits)
    assert stats["type_counts"] == Counter(KINDS[number % 7] for number in fits)


def test_pages_go_back_in_time_and_leave_nothing_out(client: Client, store: EventStore) -> None:
    for query in ("", "&event_type=ring", "&session_id=s1", "&end=2025-01-15T12:00:09Z"):
        whole = numbers(answer(client, f"/v1/events?limit=1000{query}"))
        for order in ("asc", "desc"):
            got: list[int] = []
            cursor = ""
            while True:
                page = answer(client, f"/v1/events?limit=3&order={order}{query}{cursor}")
                assert len(page["events"]) == 3 or page["next"] is None
                got = [*numbers(page), *got] if order == "asc" else [*got, *numbers(page)]
                if page["next"] is None:
                    break
                cursor = f"&cursor={page['next']}"
            assert got == (whole if order == "asc" else whole[::-1])


def test_a_last_page_that_is_full_has_no_next(client: Client) -> None:
    assert answer(client, "/v1/events?limit=13")["next"] is not None
    assert answer(client, "/v1/events?limit=14")["next"] is None


def test_a_page_is_not_moved_by_events_that_come_meanwhile(client: Client, store: EventStore) -> None:
    page = answer(client, "/v1/events?limit=5")
    write(store, *(event(number) for number in range(20, 30)))
    assert numbers(answer(client, f"/v1/events?limit=5&cursor={page['next']}")) == [4, 5, 6, 7, 8]


def test_events_of_one_moment_are_split_between_pages_by_topic_partition_and_offset(
    client: Client, store: EventStore
) -> None:
    for topic in ("b", "a"):
        write(
            store,
            *(event(100 + n + 10 * (topic == "b"), timestamp=NOON - timedelta(1)) for n in range(3)),
            topic=topic,
        )
    pages, cursor = [], ""
    for _ in range(3):
        page = answer(client, f"/v1/events?end=2025-01-15T11:00:00Z&limit=2{cursor}")
        pages.append(numbers(page))
        cursor = f"&cursor={page['next']}"
    assert pages == [[111, 112], [102, 110], [100, 101]]
    assert page["next"] is None


@pytest.mark.parametrize(
    ("cursor", "says"),
    [
        ("", "not a cursor"),
        ("x", "not a cursor"),
        ("ä", "not a cursor"),
        ("W10", "not a cursor"),
        ("x" * 1025, "at most 1024 characters"),
        (write_cursor(Position(2**70, "t", 0, 0), EventFilter()), "not a cursor"),
        (write_cursor(Position(0, "t", 2**40, 0), EventFilter()), "not a cursor"),
        (write_cursor(Position(0, "t", 0, 0), EventFilter(session_id="s1")), "belongs to another filter"),
    ],
)
def test_a_cursor_that_is_none_or_of_another_filter_is_refused(client: Client, cursor: str, says: str) -> None:
    response = client.get(f"/v1/events?cursor={quote(cursor)}")
    assert response.status_code == 422
    [error] = response.json()["detail"]
    assert error["loc"] == ["query", "cursor"]
    assert says in error["msg"]


@pytest.mark.parametrize("given", [EventFilter(), EventFilter(["a", "b"], "s", "a", "t", start=NOON, end=NOON)])
def test_a_cursor_is_read_as_it_was_written(given: EventFilter) -> None:
    position = Position(-(2**62), "hypervisor.events.ring", 11, 2**62)
    assert read_cursor(write_cursor(position, given), given) == position


def test_the_order_of_types_makes_no_other_filter() -> None:
    position = Position(1, "t", 0, 1)
    assert read_cursor(write_cursor(position, EventFilter(["a", "b"])), EventFilter(["b", "a", "a"])) == position


@pytest.mark.parametrize(
    "query", ["order=up", f"session_id={'x' * 1025}", "&".join(["event_type=a"] * 51), "order=asc&order=asc"]
)
def test_what_is_out_of_bounds_is_refused(client: Client, query: str) -> None:
    assert client.get(f"/v1/events?{query}").status_code == 422


def test_one_event_is_found_by_its_id(client: Client, store: EventStore) -> None:
    assert answer(client, f"/v1/events/{5:016x}")["event"] == event(5).to_dict()
    write(store, event(50, event_id="of/another kind"))
    assert answer(client, "/v1/events/of/another%20kind")["event"]["payload"] == {"number": 50}


def test_an_event_that_is_not_there_is_404_with_a_sentence(client: Client) -> None:
    response = client.get("/v1/events/nowhere")
    assert response.status_code == 404
    assert response.json()["detail"] == "No event 'nowhere' is in the index; it may not have come yet."
    assert client.get(f"/v1/events/{5:016x}?limit=3").status_code == 422


# --- the size of the texts of an answer


def test_a_page_ends_with_the_event_that_reaches_its_bound(store: EventStore) -> None:
    # Of two bytes per character, and one that a database keeps apart from its row.
    large = [event(n, payload={"text": secrets.token_hex(20_000) if n == 7 else "ä" * 1_000}) for n in range(10)]
    write(store, *large)
    with store.snapshot() as snapshot:
        whole = snapshot.page(EventFilter(), 10)
        assert [one.payload for one in whole.events] == [one.payload for one in reversed(large)]
        assert whole.resume_at is None
        sizes = [sum(len(value.encode()) for value in row if isinstance(value, str)) for row in whole.rows]
        for count in range(1, 11):
            # To the byte: with one less they are as many, with one more it is one more.
            reached = sum(sizes[:count])
            for more, given in ((-1, count), (0, count), (1, count + 1)):
                page = snapshot.page(EventFilter(), 10, max_bytes=reached + more)
                assert page.rows == whole.rows[:given]
                assert (page.resume_at is None) == (given >= 10)
        assert len(snapshot.page(EventFilter(), 10, max_bytes=0).rows) == 1
        assert len(snapshot.page(EventFilter([KINDS[1], KINDS[2]]), 10, max_bytes=1).rows) == 1
        assert len(snapshot.page(EventFilter(), 3, max_bytes=sum(sizes[:3])).rows) == 3


def test_the_events_of_a_partition_end_with_the_one_that_reaches_the_bound(store: EventStore) -> None:
    write(store, *(event(n, payload={"text": "x" * 1_000}) for n in range(10)))
    topic_partition = TopicPartition("t", 0)
    with store.snapshot() as snapshot:
        found, end = snapshot.partition_events(topic_partition, (2, 9), EventFilter(), limit=100, max_bytes=2_500)
        assert ([offset for offset, _ in found], end) == ([2, 3, 4], 5)
        found, end = snapshot.partition_events(topic_partition, (2, 9), EventFilter(), limit=2, max_bytes=1 << 20)
        assert ([offset for offset, _ in found], end) == ([2, 3], 4)
        found, end = snapshot.partition_events(topic_partition, (7, 9), EventFilter(), limit=100, max_bytes=2_000)
        assert ([offset for offset, _ in found], end) == ([7, 8], 9)
