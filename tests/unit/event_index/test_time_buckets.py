"""Counts in time buckets, pages of sessions, and the largest size of answers."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.query.bounded_fetch import MAX_BYTES
from hypervisor_consumers.event_index.query.cursors import read_group_cursor, write_group_cursor
from hypervisor_consumers.event_index.query.queries import EventFilter, GroupPosition
from hypervisor_schemas.events import HypervisorEvent, event_type_of
from tests.support.app_client import Client
from tests.support.index_api import answer, index_app, refusal, write

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)


def event(number: int, at: datetime, **fields: Any) -> HypervisorEvent:
    return HypervisorEvent(
        **{
            "event_id": f"{number:016x}",
            "event_type": event_type_of("ring.elevated" if number % 2 else "vfs.write"),
            "timestamp": at,
            "session_id": f"s{number % 3}",
            "payload": {"number": number},
            **fields,
        }
    )


EVENTS = [
    event(number, NOON + timedelta(seconds=second)) for number, second in enumerate([0, 1, 59.999999, 60, 61, 300])
]


@pytest.fixture
def client(store: EventStore) -> Client:
    return Client(index_app(store))


# --- buckets


def counted(client: Client, query: str) -> list[tuple[str, int]]:
    return [(one["start"][11:19], one["event_count"]) for one in answer(client, f"/v1/stats?{query}")["buckets"]]


def test_events_are_counted_in_time_buckets(client: Client, store: EventStore) -> None:
    write(store, *EVENTS)
    stats = answer(client, "/v1/stats?bucket=1m")
    assert list(stats) == [
        *("event_count", "type_counts", "bucket_seconds", "buckets", "freshness", "is_partial"),
    ]
    assert stats["bucket_seconds"] == 60
    assert [one["event_count"] for one in stats["buckets"]] == [3, 2, 0, 0, 0, 1]
    assert stats["buckets"][0] == {
        "start": "2025-01-15T12:00:00+00:00",
        "event_count": 3,
        "type_counts": {"ring.elevated": 1, "vfs.write": 2},
    }
    assert stats["event_count"] == 6
    assert stats["type_counts"] == {"ring.elevated": 3, "vfs.write": 3}
    assert stats["type_counts"] == sum((Counter(one["type_counts"]) for one in stats["buckets"]), Counter())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("bucket=60&event_type=ring&end=2025-01-15T12:02:00Z", [("12:00:00", 1), ("12:01:00", 1), ("12:02:00", 0)]),
        ("bucket=2m&end=2025-01-15T12:01:00Z", [("12:00:00", 4)]),
        ("bucket=300s", [("12:00:00", 5), ("12:05:00", 1)]),
        ("bucket=1h", [("12:00:00", 6)]),
        ("bucket=1d", [("00:00:00", 6)]),
        ("bucket=1&start=2025-01-15T12:00:59Z&end=2025-01-15T12:01:00Z", [("12:00:59", 1), ("12:01:00", 1)]),
        (
            "bucket=1m&start=2025-01-15T11:58:30Z&end=2025-01-15T12:00:30Z",
            [("11:58:00", 0), ("11:59:00", 0), ("12:00:00", 2)],
        ),
        ("bucket=1h&start=2025-01-16&end=2025-01-16T01:00:00Z", [("00:00:00", 0), ("01:00:00", 0)]),
        ("bucket=1h&start=2025-01-16", []),
        ("bucket=1h&start=2025-01-16&end=2025-01-14", []),
        ("bucket=1h&session_id=nobody", []),
        ("bucket=1m&session_id=s1&payload={}", [("12:00:00", 1), ("12:01:00", 1)]),
    ],
)
def test_buckets_are_of_the_filter(
    client: Client, store: EventStore, query: str, expected: list[tuple[str, int]]
) -> None:
    write(store, *EVENTS)
    assert counted(client, query) == expected


def test_times_before_1970_and_at_the_ends_of_time_have_buckets_too(client: Client, store: EventStore) -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    before = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    write(store, event(0, first), event(1, before), event(2, before + timedelta(microseconds=1)), event(3, last))
    assert counted(client, "bucket=1m&start=1969-12-31T23:59:00Z&end=1970-01-01") == [
        ("23:59:00", 1),
        ("00:00:00", 1),
    ]
    buckets = answer(client, "/v1/stats?bucket=3660d")["buckets"]
    assert [one["event_count"] for one in buckets if one["event_count"]] == [1, 1, 1, 1]
    assert buckets[0]["start"] == "0001-01-01T00:00:00+00:00"


def test_too_many_buckets_are_refused_with_the_size_that_would_do(client: Client, store: EventStore) -> None:
    write(store, *EVENTS, event(6, NOON + timedelta(days=7)))
    location, sentence = refusal(client, "/v1/stats?bucket=1m")
    assert location == ["query", "bucket"]
    assert sentence == ("That would be 10,081 buckets; 1,000 are the most. Give 606 or more, or start and end.")
    assert len(answer(client, "/v1/stats?bucket=606")["buckets"]) <= 1000


def test_buckets_of_very_many_types_are_refused(client: Client, store: EventStore) -> None:
    write(store, *(event(n, NOON, event_type=event_type_of(f"x.{n}")) for n in range(20_001)))
    location, sentence = refusal(client, "/v1/stats?bucket=1m")
    assert location == ["query", "bucket"]
    assert "too many different types" in sentence
    assert len(answer(client, "/v1/stats?bucket=1m&event_type=x.7")["buckets"]) == 1


@pytest.mark.parametrize("size", ["0", "", "-1", "1.5", "1w", "m", "01", "9999d", "1 m", "1e3", "%EF%BC%91"])
def test_a_size_that_is_none_is_refused_with_a_sentence(client: Client, size: str) -> None:
    location, sentence = refusal(client, f"/v1/stats?bucket={size}")  # the last one is a full-width 1
    assert location == ["query", "bucket"]
    assert "is not a size from a second to ten years, such as 60, 5m, 1h or 1d" in sentence


# --- sessions page by page


def test_sessions_come_page_by_page(client: Client, store: EventStore) -> None:
    moments = [NOON + timedelta(seconds=n // 4) for n in range(30)]  # several end at the same time
    write(store, *(event(n, at, session_id=f"s{n % 17:02}") for n, at in enumerate(moments)))
    whole = answer(client, "/v1/sessions")
    assert whole["next"] is None
    assert len(whole["sessions"]) == 17
    for limit in (1, 4, 16, 17):
        got, cursor = [], ""
        while True:
            page = answer(client, f"/v1/sessions?limit={limit}{cursor}")
            got += page["sessions"]
            if page["next"] is None:
                break
            assert len(page["sessions"]) == limit
            cursor = f"&cursor={page['next']}"
        assert got == whole["sessions"]


def test_a_cursor_of_sessions_belongs_to_their_filter(client: Client, store: EventStore) -> None:
    write(store, *EVENTS)
    cursor = answer(client, "/v1/sessions?limit=1")["next"]
    events = answer(client, "/v1/events?limit=1")["next"]
    assert refusal(client, f"/v1/sessions?agent_did=a&cursor={cursor}")[1].startswith(
        "This cursor belongs to another"
    )
    for wrong in (events, "x", ""):
        assert refusal(client, f"/v1/sessions?cursor={wrong}")[1].startswith("This is not a cursor")


@pytest.mark.parametrize("value", ["", "s", "日本\x00\"'", "x" * 5000, "\x01" * 1024])
def test_a_position_among_sessions_is_read_as_it_was_written(value: str) -> None:
    cursor = write_group_cursor(GroupPosition(-5, value), EventFilter())
    assert len(cursor) <= 16_384
    last, read = read_group_cursor(cursor, EventFilter())
    assert last == -5
    assert read == value or (len(value) > 1024 and read > value)


# --- answers that are never too large


def test_an_answer_ends_where_it_would_be_too_large_and_the_next_goes_on(client: Client, store: EventStore) -> None:
    text = "x" * 900_000
    for first in range(0, 45, 15):
        write(
            store,
            *(event(n, NOON + timedelta(seconds=n), payload={"text": text}) for n in range(first, first + 15)),
        )
    sizes, got, cursor = [], [], ""
    while True:
        response = client.get(f"/v1/events?limit=1000{cursor}")
        sizes.append(len(response.content))
        page = response.json()
        got = [*(one["event_id"] for one in page["events"]), *got]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert got == [f"{number:016x}" for number in range(45)]
    assert len(sizes) == 3
    assert max(sizes) < MAX_BYTES + 1_000_000


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL keeps none
def test_long_ids_are_bounded_too(client: Client, store: EventStore) -> None:
    write(store, *(event(n, NOON, session_id=f"{n:02}" + "x" * 900_000) for n in range(20)))
    first = answer(client, "/v1/sessions")
    second = answer(client, f"/v1/sessions?cursor={first['next']}")
    assert [one["session_id"][:2] for page in (first, second) for one in page["sessions"]] == [
        f"{n:02}" for n in range(20)
    ]
    assert second["next"] is None


def test_a_summary_tells_that_it_is_not_of_all(client: Client, store: EventStore) -> None:
    write(store, *(event(n, NOON, causal_trace_id="t/1", payload={"text": "x" * 900_000}) for n in range(6)))
    trace = answer(client, "/v1/traces/t")
    assert trace["event_count"] == 5
    assert trace["is_whole"] is False


def test_a_payload_is_answered_as_it_is_kept(client: Client, store: EventStore) -> None:
    payload = {"text": 'ä"\\\n😀', "deep": [1, 1.5, None, {"a": []}], "big": 2**70}
    one = event(0, NOON, payload=payload)
    write(store, one)
    [document] = answer(client, "/v1/events")["events"]
    assert document == one.to_dict()
    assert list(document) == list(one.to_dict())
