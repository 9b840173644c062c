"""The event index's store on PostgreSQL: concurrent writers, and a server that goes away."""

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
    open_store,
)
from hypervisor_consumers.event_index.tables import events as events_table
from hypervisor_consumers.event_index.tables import values_of
from hypervisor_schemas.errors import SettingError
from tests.support.event_rows import RING, SAGA, Clock, ids, ring_event, ring_rows
from tests.support.index_database import has_exact_counts
from tests.support.postgres import Postgres, opened
from tests.support.service_processes import eventually
from tests.support.threads import run_concurrently

pytestmark = pytest.mark.full

WEEK = timedelta(weeks=1)
MONDAY = datetime(2025, 1, 13, tzinfo=UTC)


@pytest.fixture
def store(url: str, clock: Clock) -> Iterator[EventStore]:
    with closing(open_store(url, now=clock)) as opened_store:
        yield opened_store


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
    events, added = 400, []
    start = threading.Barrier(3)

    def write(partition: int) -> None:
        with closing(open_store(url)) as own:
            start.wait(30)
            for at in range(10):
                numbers = [(n * (7, 11, 13)[partition] + at * 31) % events for n in range(events)]
                rows = [IndexRow(RING, partition, n, ring_event(n)) for n in numbers]
                added.append(own.write(rows, {(RING, partition): (at or None, at + 1)}))

    run_concurrently(write, 3, seconds=120)
    assert sum(added) == events
    assert has_exact_counts(url)


def test_events_that_came_before_are_found_wherever_they_are_in_a_batch(store: EventStore, url: str) -> None:
    added, at = set[int](), 0
    # All new, all there, some there; more batches than are looked at after one with an event that was there.
    batches = [range(10), range(10), range(5, 15), *(range(20 + n, 21 + n) for n in range(25)), range(40, 60)]
    for numbers in batches:
        rows = ring_rows(*numbers, *numbers)
        assert store.write(rows, {(RING, 0): (at or None, at + 1)}) == len({*numbers} - added)
        added, at = added | {*numbers}, at + 1
        assert store.event_count() == len(added)
    assert has_exact_counts(url)
    with opened(url) as connection:
        [rows_there] = connection.execute("SELECT count(*) FROM events").fetchone() or [0]
    assert rows_there == len(added)


def _waiting(url: str) -> int:
    """The number of sessions that wait for a lock."""
    with opened(url) as connection:
        rows = connection.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return len(rows.fetchall())


def test_two_copies_that_wait_for_each_other_in_a_circle_both_go_on(url: str) -> None:
    """The store adds event 1 and then 2, while another transaction adds 2 and then 1."""
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
    assert has_exact_counts(url)


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
    assert has_exact_counts(url)


def test_a_reader_that_waits_too_long_does_not_hold_the_writer(url: str) -> None:
    with closing(open_store(url, query_seconds=1)) as store:
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        started, ended = threading.Event(), []

        def sleep() -> None:
            try:
                with store.snapshot() as snapshot:
                    started.set()
                    snapshot._connection.exec_driver_sql("SELECT pg_sleep(60)")
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


# --- error messages without secrets


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
    """The application names of the other connections of this database."""
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
