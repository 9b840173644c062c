"""The event index's store on SQLite: its file, its single writer, its query plans."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from hypervisor_consumers.event_index.backends.store import (
    EventStore,
    IndexRow,
    StoreUnavailable,
    open_database,
    open_store,
)
from hypervisor_consumers.event_index.query.queries import EventFilter, Position
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.events import EventType, event_type_of
from tests.support.event_rows import NOON, RING, ids, ring_event, ring_rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    with closing(open_store(f"sqlite:///{path}")) as opened:
        yield opened


def test_a_full_disk_leaves_nothing_of_the_batch_and_a_later_try_succeeds(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    database = open_database(f"sqlite:///{path}")

    def fill(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    sqlalchemy_event.listen(database.writer, "connect", fill)
    database.writer.dispose()
    large = {"text": "x" * 1000}
    batch = ring_rows(*range(1, 1000), payload=large)
    with closing(EventStore(database)) as full:
        full.write(ring_rows(0), {(RING, 0): (None, 1)})
        with pytest.raises(StoreUnavailable, match="full"):
            full.write(batch, {(RING, 0): (1, 1000)})
        assert full.event_count() == 1
        assert full.next_offset(RING, 0) == 1
        assert full.write(ring_rows(1), {(RING, 0): (1, 2)}) == 1
    with closing(open_store(f"sqlite:///{path}")) as roomy:
        assert roomy.write(batch, {(RING, 0): (2, 1000)}) == 998


def test_another_process_that_keeps_the_lock_is_waited_for_and_then_reported(path: Path) -> None:
    with closing(open_store(f"sqlite:///{path}", busy_seconds=0.05)) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                store.write(ring_rows(1), {(RING, 0): (None, 2)})
            assert store.query() == []
        assert store.write(ring_rows(1), {(RING, 0): (None, 2)}) == 1


def plan_of(engine: Any, path: Path, run: Callable[[], object]) -> str:
    """The plan of SQLite for the statements that `run` makes the engine execute."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_more: object) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    sqlalchemy_event.listen(engine, "before_cursor_execute", note)
    run()
    sqlalchemy_event.remove(engine, "before_cursor_execute", note)
    with closing(sqlite3.connect(path)) as connection:
        steps = [
            step
            for query in statements
            for (*_, step) in connection.execute(f"EXPLAIN QUERY PLAN {query[0]}", query[1])
        ]
    return "\n".join(steps)


@pytest.mark.parametrize("rows", [0, 5_000])
@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({"event_type": "ring.assigned"}, "ix_events_type (event_type=?)"),
        ({"session_id": "s1"}, "ix_events_session (session_id=?)"),
        ({"agent_did": "did:mesh:a"}, "ix_events_agent (agent_did=?)"),
        ({"start": NOON, "end": NOON}, "ix_events_time (timestamp>? AND timestamp<?)"),
        ({"start": NOON}, "ix_events_time (timestamp>?)"),
        ({"session_id": "s1", "start": NOON}, "ix_events_session (session_id=? AND timestamp>?)"),
        ({}, "ix_events_time"),
    ],
)
def test_every_single_filter_walks_an_index_in_order_of_time(
    path: Path, rows: int, filters: dict[str, Any], index: str
) -> None:
    database = open_database(f"sqlite:///{path}")
    with closing(EventStore(database)) as store:
        numbered = [*ring_rows(*range(rows // 2)), *ring_rows(*range(rows // 2, rows), session_id=None)]
        store.write(numbered, {(RING, 0): (None, rows)})
        plan = plan_of(database.readers, path, lambda: store.query(**filters))
    assert f"USING INDEX {index}" in plan
    # Only events of the same microsecond may be sorted.
    assert "TEMP B-TREE FOR ORDER BY" not in plan


@pytest.mark.parametrize(
    ("event_filter", "index"),
    [
        (EventFilter(), "ix_events_time (timestamp<?)"),
        (EventFilter(["ring.assigned"]), "ix_events_type (event_type=? AND timestamp<?)"),
        (EventFilter(session_id="s1", end=NOON), "ix_events_session (session_id=? AND timestamp<?)"),
        (EventFilter(trace_id="t"), "ix_events_trace (trace_id=? AND timestamp<?)"),
    ],
)
def test_a_later_page_is_entered_where_it_begins(path: Path, event_filter: EventFilter, index: str) -> None:
    database = open_database(f"sqlite:///{path}")
    with closing(EventStore(database)) as store:
        store.write(ring_rows(*range(5_000), causal_trace_id="t/1"), {(RING, 0): (None, 5_000)})

        def run() -> None:
            with store.snapshot() as snapshot:
                snapshot.page(event_filter, 3, Position(0, RING, 0, 0))

        plan = plan_of(database.readers, path, run)
    assert f"USING INDEX {index}" in plan
    assert "TEMP B-TREE FOR ORDER BY" not in plan


def test_several_types_are_walked_each_along_its_index(path: Path) -> None:
    kinds = [EventType.RING_ASSIGNED, EventType.RING_ELEVATED, EventType.RING_DEMOTED]
    database = open_database(f"sqlite:///{path}")
    with closing(EventStore(database)) as store:
        rows = [IndexRow(RING, 0, at, ring_event(at, event_type=kinds[at % 3])) for at in range(5_000)]
        store.write(rows, {(RING, 0): (None, 5_000)})

        def run() -> None:
            with store.snapshot() as snapshot:
                found = snapshot.page(snapshot.resolve(EventFilter(["ring"])), 3)
                assert [event.payload for event in found.events] == [{}] * 3
                assert [int(event.event_id, 16) for event in found.events] == [4999, 4998, 4997]

        plan = plan_of(database.readers, path, run)
    assert plan.count("USING INDEX ix_events_type (event_type=?)") == 3
    # Each walk is in order of time; what is put in order afterwards is the few events that they found.
    assert plan.count("TEMP B-TREE FOR RIGHT PART OF ORDER BY") == 3


def test_the_trace_index_answers_for_one_trace(store: EventStore, path: Path) -> None:
    store.write(ring_rows(*range(100), causal_trace_id="a1b2c3d4e5f6/89abcdef/01234567"), {(RING, 0): (None, 100)})
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT count(payload) FROM events WHERE trace_id = ? AND timestamp >= ?"
        steps = str(connection.execute(f"EXPLAIN QUERY PLAN {query}", ("a1b2c3d4e5f6", 0)).fetchall())
        assert "ix_events_trace (trace_id=? AND timestamp>?)" in steps
        assert connection.execute(query, ("a1b2c3d4e5f6", 0)).fetchone() == (100,)


@pytest.mark.parametrize("narrow", ["session", "agent", "type"])
def test_two_filters_take_the_narrower_index_once_the_index_has_grown(path: Path, narrow: str) -> None:
    def row(number: int) -> IndexRow:
        kinds = list(EventType)
        return IndexRow(
            RING,
            0,
            number,
            ring_event(
                number,
                session_id=f"s{number % 500}" if narrow == "session" else "s0",
                agent_did=f"did:mesh:{number % 500}" if narrow == "agent" else "did:mesh:0",
                event_type=kinds[number % len(kinds)] if narrow == "type" else kinds[0],
            ),
        )

    database = open_database(f"sqlite:///{path}")
    with closing(EventStore(database)) as store:
        store.write([row(number) for number in range(5_000)], {(RING, 0): (None, 5_000)})
        plan = plan_of(
            database.readers,
            path,
            lambda: store.query(session_id="s0", agent_did="did:mesh:0", event_type=EventType.SESSION_CREATED),
        )
    assert f"USING INDEX ix_events_{narrow} " in plan


def test_open_connections_use_the_statistics_of_a_grown_index(store: EventStore, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as early:

        def plan() -> str:
            early.execute(
                "SELECT 1 FROM events"
            ).fetchone()  # EXPLAIN alone doesn't look whether the schema changed
            query = "SELECT * FROM events WHERE session_id = 's1' AND event_type = 'ring.assigned'"
            return str(early.execute(f"EXPLAIN QUERY PLAN {query} LIMIT {store.event_count()}").fetchall())

        first = [row for at in range(2_000) for row in ring_rows(at, session_id=f"s{at}")]
        store.write(first, {(RING, 0): (None, 2_000)})
        assert "ix_events_session" in plan()
        then = [
            row
            for at in range(2_000, 20_000)
            for row in ring_rows(at, session_id=f"s{at % 10}", event_type=event_type_of(f"ring.{at}"))
        ]
        store.write(then, {(RING, 0): (2_000, 20_000)})
        assert "ix_events_type" in plan()


def test_counting_never_reads_the_events(path: Path) -> None:
    database = open_database(f"sqlite:///{path}")
    with closing(EventStore(database)) as store:
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        plan = plan_of(database.readers, path, lambda: (store.event_count(), store.type_counts()))
    assert "type_counts" in plan
    assert "events" not in plan


def test_a_reader_in_the_middle_of_its_answer_does_not_hold_the_writer(path: Path) -> None:
    with closing(open_store(f"sqlite:///{path}", busy_seconds=0.05)) as store:
        store.write(ring_rows(*range(1000)), {(RING, 0): (None, 1000)})
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            answer = reader.execute("SELECT event_id FROM events")
            answer.fetchone()
            assert store.write(ring_rows(1000), {(RING, 0): (1000, 1001)}) == 1
            assert len(answer.fetchall()) == 999


def test_a_write_that_waits_for_another_process_does_not_hold_the_readers(path: Path) -> None:
    database = open_database(f"sqlite:///{path}", busy_seconds=60)
    waiting = threading.Event()

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement == "BEGIN IMMEDIATE":
            waiting.set()

    with closing(EventStore(database)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        sqlalchemy_event.listen(database.writer, "before_cursor_execute", note)
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=store.write, args=(ring_rows(1), {(RING, 0): (None, 2)}))
        writer.start()
        assert waiting.wait(30)
        assert store.query() == []
        assert store.event_count() == 0
        assert writer.is_alive()
        other.execute("ROLLBACK")
        writer.join(60)
        assert ids(store.query()) == [1]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("index.db", "is not a database URL"),
        ("", "is not a database URL"),
        ("postgresql+psycopg2://user:hunter2@host/db", "names a driver that isn't here"),
        ("nonsense://user:hunter2@host:5/db", "can't be kept in"),
        ("sqlite://user:hunter2@host:port/db", "is not a database URL"),
        ("sqlite://", "must name a file"),
        ("sqlite:///", "must name a file"),
        ("sqlite:///:memory:", "must name a file"),
        ("sqlite:///file:x?mode=memory&uri=true", "must name a file"),
        ("sqlite://index.db", "must name a file"),
        ("sqlite://user:hunter2@/index.db", "must name a file"),
        ("sqlite:///user:hunter2@host/db", "in a folder that isn't there"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence_without_its_password(url: str, says: str) -> None:
    with pytest.raises(SettingError) as raised:
        open_store(url)
    assert raised.value.setting == "TELEMETRY_DATABASE_URL"
    assert str(raised.value).startswith("TELEMETRY_DATABASE_URL ")
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="unable to open database file"):
        open_store(f"sqlite:///{tmp_path}")


def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("a letter to my mother, at least a hundred bytes of it" * 20)
    with pytest.raises(SettingError, match="file is not a database"):
        open_store(f"sqlite:///{path}")
    assert path.read_text().startswith("a letter")


def test_a_database_that_stays_locked_is_reported_when_it_is_opened(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            open_store(f"sqlite:///{path}", busy_seconds=0.05)
