"""The weekly partitions of PostgreSQL's `events`: creating, filling and dropping them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from hypervisor_consumers.event_index.backends.store import (
    EventStore,
    IndexRow,
    open_store,
)
from hypervisor_schemas.events import EventType, event_type_of
from tests.support.event_rows import NOON, RING, SAGA, Clock, ids, ring_event, ring_rows
from tests.support.index_database import has_exact_counts, partitions
from tests.support.postgres import opened
from tests.support.threads import run_concurrently

pytestmark = pytest.mark.full

WEEK = timedelta(weeks=1)
MONDAY = datetime(2025, 1, 13, tzinfo=UTC)


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[EventStore]:
    with closing(open_store(url, now=clock)) as opened_store:
        yield opened_store


def test_events_lie_in_a_partition_of_their_week_and_the_next_week_is_there(store: EventStore, url: str) -> None:
    times = [MONDAY - timedelta(microseconds=1), MONDAY, MONDAY + WEEK - timedelta(microseconds=1)]
    rows = [IndexRow(RING, 0, n, ring_event(n, timestamp=at)) for n, at in enumerate(times)]
    store.write(rows, {(RING, 0): (None, 3)})
    assert partitions(url) == {
        "events_20250106": 1,
        "events_20250113": 2,
        "events_20250120": 0,
        "events_default": 0,
    }
    assert ids(store.query()) == [0, 1, 2]


def test_impossible_times_make_no_partitions(store: EventStore, url: str) -> None:
    odd = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), NOON + 3 * WEEK, NOON - 105 * WEEK]
    odd += [datetime(year, 1, 1, tzinfo=UTC) for year in range(2, 2000, 7)]
    rows = [IndexRow(RING, 0, n, ring_event(n, timestamp=at)) for n, at in enumerate(odd)]
    assert store.write(rows, {(RING, 0): (None, len(odd))}) == len(odd)
    assert store.write(rows, {(RING, 0): (len(odd), len(odd) + 1)}) == 0
    assert partitions(url) == {"events_20250113": 0, "events_20250120": 0, "events_default": len(odd)}
    assert store.query(limit=1)[0].timestamp == odd[1]
    assert has_exact_counts(url)


def test_what_was_ahead_of_its_time_moves_when_its_week_is_made(store: EventStore, url: str, clock: Clock) -> None:
    ahead = ring_rows(1, timestamp=NOON + 3 * WEEK)
    store.write(ahead, {(RING, 0): (None, 2)})
    assert partitions(url)["events_default"] == 1
    clock.now += (2 * WEEK).total_seconds()
    assert store.write([*ahead, *ring_rows(2, timestamp=NOON + 3 * WEEK)], {(RING, 0): (2, 3)}) == 1
    assert partitions(url)["events_default"] == 0
    assert partitions(url)["events_20250203"] == 2
    assert ids(store.query()) == [1, 2]
    assert has_exact_counts(url)


def test_copies_that_need_a_new_week_at_once_all_write(url: str, clock: Clock) -> None:
    stores = [open_store(url, now=clock) for _ in range(4)]
    start = threading.Barrier(4)

    def write(number: int) -> None:
        start.wait(30)
        for week in range(10):
            rows = [IndexRow(RING, number, week, ring_event(number * 100 + week, timestamp=NOON - week * WEEK))]
            stores[number].write(rows, {(RING, number): (week or None, week + 1)})

    run_concurrently(write, 4)
    assert stores[0].event_count() == 40
    assert sum(partitions(url).values()) == 40
    assert partitions(url)["events_default"] == 0
    for one in stores:
        one.close()


def test_a_week_that_cannot_be_made_now_keeps_nobody_from_writing(store: EventStore, url: str) -> None:
    with opened(url) as reader, reader.transaction():
        reader.execute("SELECT * FROM events_default").fetchall()
        assert store.write(ring_rows(1), {(RING, 0): (None, 2)}) == 1
        assert partitions(url) == {"events_default": 1}
        assert ids(store.query()) == [1]
    store._database._partitions._retry_at = 0.0  # type: ignore[attr-defined]
    store.write(ring_rows(2), {(RING, 0): (2, 3)})
    assert partitions(url) == {"events_20250113": 2, "events_20250120": 0, "events_default": 0}
    assert has_exact_counts(url)


# --- retention


def test_old_weeks_are_dropped_whole_and_counted_out_exactly(url: str, clock: Clock) -> None:
    kinds = [EventType.RING_ASSIGNED, EventType.RING_DEMOTED, event_type_of("odd.one")]
    rows = [
        IndexRow(
            RING if n % 2 else SAGA, n % 3, n, ring_event(n, event_type=kinds[n % 3], timestamp=NOON - n * WEEK / 8)
        )
        for n in range(80)
    ]
    moves = {(topic, partition): (None, 80) for topic in (RING, SAGA) for partition in range(3)}
    with closing(open_store(url, now=clock)) as keeps:
        assert keeps.write(rows, moves) == 80
    assert len(partitions(url)) == 13
    retention = (3 * WEEK).total_seconds()
    with closing(open_store(url, now=clock, retention=retention)) as store:
        steps = list(iter(store.expire, 0))
        assert sum(steps) == store.expired == 80 - 25
        assert store.event_count() == 25
        assert min(event.timestamp for event in store.query()) == NOON - 3 * WEEK
    assert min(partitions(url)) == "events_20241223"
    assert has_exact_counts(url)


def test_a_reader_that_takes_long_holds_up_the_dropping_for_a_second_at_most(url: str, clock: Clock) -> None:
    with closing(open_store(url, now=clock, retention=3600)) as store:
        store.write(ring_rows(*range(10)), {(RING, 0): (None, 10)})
        clock.now += (2 * WEEK).total_seconds()
        with opened(url) as reader, reader.transaction():
            reader.execute("SELECT * FROM events").fetchall()
            assert store.expire() == 10, "row by row instead"
            assert store.write(ring_rows(20, timestamp=NOON + 2 * WEEK), {(RING, 0): (10, 21)}) == 1
        assert store.expire() == 0
        assert "events_20250113" not in partitions(url)
    assert has_exact_counts(url)


def test_one_copy_removes_at_a_time(url: str, clock: Clock) -> None:
    with closing(open_store(url, now=clock, retention=3600)) as store:
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        clock.now += 7200
        with opened(url) as other, other.transaction():
            other.execute("SELECT pg_advisory_xact_lock(%s)", (0x6576_656E_7473_0003,))
            assert store.expire() == 0
        assert store.expire() == 1


def test_what_is_written_while_old_events_go_is_counted_exactly(url: str, clock: Clock) -> None:
    with closing(open_store(url, now=clock)) as keeps:
        keeps.write(ring_rows(*range(20_000)), {(RING, 0): (None, 20_000)})
    done, failed = threading.Event(), []

    def expire() -> None:
        try:
            with closing(open_store(url, now=clock, retention=1)) as store:
                clock.now += 20_001
                while store.expire() or not done.is_set():
                    pass
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            failed.append(error)

    thread = threading.Thread(target=expire)
    thread.start()
    with closing(open_store(url, now=clock)) as store:
        for at in range(30):
            rows = [IndexRow(RING, 0, n, ring_event(n)) for n in range(30_000 + at * 100, 30_100 + at * 100)]
            assert store.write(rows, {(RING, 0): (20_000 + at, 20_001 + at)}) == 100
        done.set()
        thread.join(60)
        assert failed == []
        assert store.event_count() == 3000
    assert has_exact_counts(url)
