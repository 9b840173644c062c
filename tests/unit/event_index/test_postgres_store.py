"""What is PostgreSQL's own of the index's store: partitions, writers side by side, a server that goes away."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from hypervisor_consumers.event_index.backends.store import (
    EventStore,
    IndexRow,
    LostPartition,
    QueryTooSlow,
    StoreUnavailable,
    open_database,
    open_store,
)
from hypervisor_consumers.event_index.query.queries import Position, Wanted
from hypervisor_consumers.event_index.tables import events as events_table
from hypervisor_consumers.event_index.tables import values_of
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.events import EventType, event_type_of
from tests.support.event_rows import NOON, RING, SAGA, Clock, ids, ring_event, ring_rows
from tests.support.postgres import Postgres, opened
from tests.support.service_processes import eventually

pytestmark = pytest.mark.full

WEEK = timedelta(weeks=1)
MONDAY = datetime(2025, 1, 13, tzinfo=UTC)


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[EventStore]:
    with closing(open_store(url, now=clock)) as it:
        yield it


def partitions(url: str) -> dict[str, int]:
    """Every partition, and how many events are in it."""
    with opened(url) as connection:
        names = connection.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass"
        )
        return {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]  # type: ignore[index,arg-type]  # noqa: S608
            for (name,) in names.fetchall()
        }


def counted(url: str) -> bool:
    """Whether the kept counts are those of the rows, for each topic, partition and type."""
    with opened(url) as connection:
        key = "topic, partition, event_type"
        kept = connection.execute(f"SELECT {key}, count FROM type_counts WHERE count <> 0").fetchall()  # noqa: S608
        rows = connection.execute(f"SELECT {key}, count(*) FROM events GROUP BY {key}").fetchall()  # noqa: S608
    return sorted(kept) == sorted(rows)


# --- partitions


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
    assert counted(url)


def test_what_was_ahead_of_its_time_moves_when_its_week_is_made(store: EventStore, url: str, clock: Clock) -> None:
    ahead = ring_rows(1, timestamp=NOON + 3 * WEEK)
    store.write(ahead, {(RING, 0): (None, 2)})
    assert partitions(url)["events_default"] == 1
    clock.now += (2 * WEEK).total_seconds()
    assert store.write([*ahead, *ring_rows(2, timestamp=NOON + 3 * WEEK)], {(RING, 0): (2, 3)}) == 1
    assert partitions(url)["events_default"] == 0
    assert partitions(url)["events_20250203"] == 2
    assert ids(store.query()) == [1, 2]
    assert counted(url)


def test_copies_that_need_a_new_week_at_once_all_write(url: str, clock: Clock) -> None:
    stores = [open_store(url, now=clock) for _ in range(4)]
    start, failed = threading.Barrier(4), []

    def write(number: int) -> None:
        try:
            start.wait(30)
            for week in range(10):
                rows = [IndexRow(RING, number, week, ring_event(number * 100 + week, timestamp=NOON - week * WEEK))]
                stores[number].write(rows, {(RING, number): (week or None, week + 1)})
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
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
    store._database._partitions._wait_until = 0.0  # type: ignore[attr-defined]
    store.write(ring_rows(2), {(RING, 0): (2, 3)})
    assert partitions(url) == {"events_20250113": 2, "events_20250120": 0, "events_default": 0}
    assert counted(url)


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
    assert counted(url)


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
    assert counted(url)


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
    assert counted(url)


# --- writers side by side


def test_a_writer_waits_for_no_other_partitions_writer(store: EventStore, url: str) -> None:
    store.write([], {(RING, 0): (None, 1), (RING, 1): (None, 1)})
    with opened(url) as other, other.transaction():
        other.execute("UPDATE offsets SET next_offset = 2 WHERE partition = 1")
        assert store.write(ring_rows(1), {(RING, 0): (1, 2)}) == 1
        with closing(open_store(url, busy_seconds=0.1)) as hasty, pytest.raises(StoreUnavailable, match="lock"):
            hasty.write([], {(RING, 1): (1, 2)})
    with pytest.raises(LostPartition):
        store.write([], {(RING, 1): (1, 2)})


def test_copies_that_bring_the_same_events_in_any_order_make_one_row_of_each(url: str) -> None:
    events, failed, added = 400, [], []
    start = threading.Barrier(3)

    def write(partition: int) -> None:
        try:
            with closing(open_store(url)) as own:
                start.wait(30)
                for at in range(10):
                    numbers = [(n * (7, 11, 13)[partition] + at * 31) % events for n in range(events)]
                    rows = [IndexRow(RING, partition, n, ring_event(n)) for n in numbers]
                    added.append(own.write(rows, {(RING, partition): (at or None, at + 1)}))
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            failed.append(error)

    writers = [threading.Thread(target=write, args=(partition,)) for partition in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert failed == []
    assert sum(added) == events
    assert counted(url)


def test_events_that_came_before_are_found_wherever_they_are_in_a_batch(store: EventStore, url: str) -> None:
    added, at = set[int](), 0
    # All new, all there, some there; more batches than are looked at after one with an event that was there.
    batches = [range(10), range(10), range(5, 15), *(range(20 + n, 21 + n) for n in range(25)), range(40, 60)]
    for numbers in batches:
        rows = ring_rows(*numbers, *numbers)
        assert store.write(rows, {(RING, 0): (at or None, at + 1)}) == len({*numbers} - added)
        added, at = added | {*numbers}, at + 1
        assert store.event_count() == len(added)
    assert counted(url)
    with opened(url) as connection:
        [rows_there] = connection.execute("SELECT count(*) FROM events").fetchone() or [0]
    assert rows_there == len(added)


def _waiting(url: str) -> int:
    """How many sessions wait for a lock."""
    with opened(url) as connection:
        rows = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return len(rows.fetchall())


def test_two_copies_that_wait_for_each_other_in_a_circle_both_go_on(url: str) -> None:
    """The store adds 1 and then 2; another one, in one transaction, 2 and then 1."""
    with closing(open_store(url)) as store:
        store.write([], {(RING, 0): (None, 1)})
        held, failed, added = threading.Event(), [], []

        def write() -> None:
            try:
                assert held.wait(30)
                added.append(store.write(ring_rows(1, 2), {(RING, 0): (1, 3)}))
            except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
                failed.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        names = ", ".join(f'"{column.name}"' for column in events_table.columns)
        add = f"INSERT INTO events ({names}) VALUES ({', '.join(['%s'] * len(events_table.columns))})"  # noqa: S608
        with opened(url) as other, other.transaction():
            # Whoever sees the circle first goes back: with a second's patience that is the store.
            other.execute("SET LOCAL deadlock_timeout = '30s'")
            one, two = map(values_of, ring_rows(1, 2))
            other.execute(add, two)
            held.set()
            eventually(lambda: _waiting(url), lambda count: count == 1)
            other.execute(add, one)
        writer.join(60)
        assert failed == []
        assert added == [0]
        assert store.next_offset(RING, 0) == 3
        assert store.event_count() == 0, "the other one didn't count"


def test_a_copy_frozen_in_mid_transaction_cannot_hold_its_partition_for_good(url: str) -> None:
    with closing(open_store(url)) as store, store._database.writer.connect() as connection:
        limit = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
        assert limit == "20s"


# --- a server that goes away


def test_sessions_that_are_ended_are_made_again(store: EventStore, url: str) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    assert store.event_count() == 1
    with opened(url) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'hyper%' AND datname = current_database()"
        )
    assert store.event_count() == 1
    assert store.write(ring_rows(2), {(RING, 0): (2, 3)}) == 1


@pytest.mark.parametrize(
    "where",
    [
        "INSERT INTO offsets",
        "SAVEPOINT",
        "RELEASE",
        "INSERT INTO type_counts",
        "CREATE TEMPORARY",
        "WITH new",
        "COMMIT",
    ],
)
def test_a_session_that_is_ended_in_mid_write_leaves_nothing_and_the_next_try_succeeds(
    store: EventStore, url: str, where: str
) -> None:
    store.write(ring_rows(0), {(SAGA, 0): (None, 1), (RING, 0): (None, 1)})
    if where in {"CREATE TEMPORARY", "WITH new"}:
        # So it goes behind an event that was there.
        assert store.write(ring_rows(0), {(RING, 0): (1, 1)}) == 0
    engine = store._database.writer

    def end(connection: Any) -> None:
        pid = connection.connection.driver_connection.info.backend_pid
        with opened(url) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))

    def before(connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.strip().startswith(where):
            end(connection)

    sqlalchemy_event.listen(engine, "before_cursor_execute", before)
    if where == "COMMIT":
        sqlalchemy_event.listen(engine, "commit", end)
    rows = [*ring_rows(1, 2), IndexRow(RING, 1, 5, ring_event(3))]
    moves = {(RING, 0): (1, 3), (RING, 1): (None, 6)}
    with pytest.raises(StoreUnavailable, match="can't be used now"):
        store.write(rows, moves)
    sqlalchemy_event.remove(engine, "before_cursor_execute", before)
    if where == "COMMIT":
        sqlalchemy_event.remove(engine, "commit", end)
    assert store.next_offset(RING, 0) == 1
    assert store.event_count() == 1
    assert store.write(rows, moves) == 3
    assert counted(url)


def test_a_server_that_is_stopped_and_started_is_found_again(own_postgres: Postgres) -> None:
    with closing(open_store(own_postgres.new_database())) as store:
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        for how in (signal.SIGINT, signal.SIGQUIT):
            at = store.next_offset(RING, 0)
            assert at is not None
            own_postgres.stop(how)
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    store.write(ring_rows(at), {(RING, 0): (at, at + 1)})
                with pytest.raises(StoreUnavailable):
                    store.query()
                with pytest.raises(StoreUnavailable):
                    store.next_offset(RING, 0)
            own_postgres.start()
            assert store.write(ring_rows(at), {(RING, 0): (at, at + 1)}) == 1
            assert ids(store.query())[-1] == at


def test_a_server_that_is_away_at_the_start_is_waited_for(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_postgres.new_database()
    own_postgres.stop()
    with caplog.at_level(logging.DEBUG), closing(open_store(url)) as store:
        assert "It is tried again" in caplog.text
        with pytest.raises(StoreUnavailable, match=r"[Cc]onnection refused"):
            store.next_offset(RING, 0)
        with pytest.raises(StoreUnavailable):
            store.query()
        own_postgres.start()
        assert store.next_offset(RING, 0) is None
        assert store.write(ring_rows(1), {(RING, 0): (None, 2)}) == 1
    assert own_postgres.password not in caplog.text


def test_a_table_that_is_full_leaves_nothing_of_the_batch(store: EventStore, url: str) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    with opened(url) as other:
        # As a full disk is told: the server raises the same condition.
        other.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '53100'; END $$"
        )
        other.execute("CREATE TRIGGER full_disk BEFORE INSERT ON type_counts EXECUTE FUNCTION full_disk()")
    with pytest.raises(StoreUnavailable, match="No space left"):
        store.write(ring_rows(2), {(RING, 0): (2, 3)})
    with opened(url) as other:
        other.execute("DROP TRIGGER full_disk ON type_counts")
    assert store.next_offset(RING, 0) == 2
    assert store.write(ring_rows(2), {(RING, 0): (2, 3)}) == 1
    assert counted(url)


def test_a_reader_that_waits_too_long_does_not_hold_the_writer(url: str) -> None:
    with closing(open_store(url, query_seconds=1)) as store:
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        started, ended = threading.Event(), []

        def sleep() -> None:
            try:
                with store.snapshot() as now:
                    started.set()
                    now._connection.exec_driver_sql("SELECT pg_sleep(60)")
            except StoreUnavailable as error:
                ended.append(type(error))

        readers = [threading.Thread(target=sleep) for _ in range(12)]  # more than there are connections
        for reader in readers:
            reader.start()
        assert started.wait(30)
        for at in range(2, 12):
            assert store.write(ring_rows(at), {(RING, 0): (at, at + 1)}) == 1
        assert store.next_offset(RING, 0) == 12
        for reader in readers:
            reader.join(30)
        assert len(ended) == 12
        assert QueryTooSlow in ended


# --- what is told, and what never is


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        (lambda url: url.replace(":", ":not", 2).replace(":not", ":", 1), "password authentication failed"),
        (lambda url: url.rpartition("/")[0] + "/nowhere", "does not exist"),
        (lambda url: url.replace("127.0.0.1", "hunter2.invalid"), "resolve host"),
        (lambda url: url + "?hunter2=1", "invalid connection option"),
    ],
)
def test_what_cannot_be_opened_is_told_without_what_is_secret(
    url: str, postgres: Postgres, caplog: pytest.LogCaptureFixture, mistake: Any, says: str
) -> None:
    with caplog.at_level(logging.DEBUG), closing(open_store(mistake(url))) as store:
        with pytest.raises(StoreUnavailable) as raised:
            store.write([], {(RING, 0): (None, 1)})
        with pytest.raises(StoreUnavailable):
            store.query()
    assert says in str(raised.value)
    for secret in (postgres.password, "hunter2", "telemetry:", "127.0.0.1"):
        assert secret not in caplog.text
        assert secret not in str(raised.value)
        assert secret not in repr((store, store._database, raised.value))
    assert raised.value.__cause__ is None


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Postgres) -> None:
    with pytest.raises(SettingError, match="whose encoding is LATIN1"):
        open_store(postgres.new_database("LATIN1"))


def applications(url: str) -> set[str]:
    """What the other connections of this database say they are."""
    with opened(url) as connection:
        rows = connection.execute(
            "SELECT application_name FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        return {name for (name,) in rows}


def test_connections_say_whose_they_are(store: EventStore, url: str) -> None:
    store.query()
    assert applications(url) == {"hypervisor-telemetry event-index"}


def test_what_the_url_says_of_the_connection_holds(url: str) -> None:
    with closing(open_store(url + "?application_name=mine&connect_timeout=3")) as store:
        store.query()
        assert applications(url) == {"mine"}


# --- the work that a query costs


@pytest.fixture(scope="module")
def grown(postgres: Postgres) -> str:
    """120,000 events over twenty weeks."""
    url, kinds = postgres.new_database(), list(EventType)
    with closing(open_store(url, now=Clock())) as store:
        for at in range(0, 120_000, 20_000):
            rows = [
                IndexRow(
                    RING,
                    0,
                    n,
                    ring_event(
                        n,
                        timestamp=NOON - timedelta(seconds=100 * n),
                        session_id=f"s{n % 1000}",
                        agent_did=f"did:{n % 300}",
                        event_type=kinds[n % 40],
                        causal_trace_id=f"{n % 2000:012x}/1",
                    ),
                )
                for n in range(at, at + 20_000)
            ]
            store.write(rows, {(RING, 0): (at or None, at + 20_000)})
    with opened(url) as connection:
        connection.execute("ANALYZE")
    return url


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        (Wanted(), {"timestamp"}),
        (Wanted(session_id="s7"), {"session_id_timestamp"}),
        (Wanted(agent_did="did:7"), {"agent_did_timestamp"}),
        (Wanted(trace_id=f"{7:012x}"), {"trace_id_timestamp"}),
        # Of a type that is common a walk along the time finds a hundred as fast.
        (Wanted(["ring.assigned"], start=NOON - 5 * WEEK, end=NOON - WEEK), {"event_type_timestamp", "timestamp"}),
        (Wanted(["ring.assigned"]), {"event_type_timestamp", "timestamp"}),
        (Wanted(["ring.assigned", "saga.created", "ring.demoted"]), {"event_type_timestamp", "timestamp"}),
    ],
)
@pytest.mark.parametrize("before", [None, Position(int((NOON - 3 * WEEK).timestamp() * 1e6), RING, 0, 0)])
def test_the_last_hundred_walk_along_an_index(
    grown: str, wanted: Wanted, before: Position | None, indexes: set[str]
) -> None:
    database, plans = open_database(grown), []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            raw = connection.connection.driver_connection
            explained = raw.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).fetchone()
            plans.append(explained[0][0]["Plan"])

    with closing(EventStore(database)) as store:
        sqlalchemy_event.listen(database.readers, "before_cursor_execute", explain)
        with store.snapshot() as now:
            assert now.page(wanted, 100, before).events
    [plan] = plans
    scans = [node for node in _nodes(plan) if "Scan" in node["Node Type"] and node["Actual Loops"]]
    used = [node for node in scans if node["Node Type"] != "Subquery Scan" and node["Actual Rows"]]
    # Where a week has only a few, it may be by a bitmap of the same index.
    names = {node["Index Name"] for node in used if node["Node Type"] != "Bitmap Heap Scan"}
    assert {name[len("events_20250113_") : -len("_idx")] for name in names} <= indexes
    read = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in used
    )
    assert read < 120_000 / 8


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def test_a_time_range_touches_its_own_weeks_only(grown: str) -> None:
    with opened(grown) as connection:
        start = int((NOON - WEEK).timestamp() * 1e6)
        plan = str(
            connection.execute(
                "EXPLAIN SELECT * FROM events WHERE timestamp >= %s AND timestamp < %s",
                (start, start + 1000),
                prepare=False,
            ).fetchall()
        )
    assert "events_20250106" in plan
    assert plan.count("events_20") <= 3
