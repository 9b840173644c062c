"""The event index's store: one transaction for rows and offsets, queries as the bus has them, settings."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from hypervisor_consumers.event_index.questions import Position, Wanted
from hypervisor_consumers.event_index.store import (
    EventStore,
    IndexRow,
    LostPartition,
    StoreUnavailable,
    open_engine,
    open_store,
)
from hypervisor_schemas.errors import SettingError, TelemetryError
from hypervisor_schemas.events import EventType, HypervisorEvent, UnknownEventType, event_type_of

RING = "hypervisor.events.ring"
SAGA = "hypervisor.events.saga"
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    with closing(open_store(f"sqlite:///{path}")) as opened:
        yield opened


def ring_event(number: int, **fields: Any) -> HypervisorEvent:
    return HypervisorEvent(
        **{
            "event_id": f"{number:016x}",
            "event_type": EventType.RING_ASSIGNED,
            "timestamp": NOON + timedelta(seconds=number),
            "session_id": "s1",
            "agent_did": "did:mesh:a",
            **fields,
        }
    )


def ring_rows(*numbers: int, **fields: Any) -> list[IndexRow]:
    return [IndexRow(RING, 0, number, ring_event(number, **fields)) for number in numbers]


def ids(events: list[HypervisorEvent]) -> list[int]:
    return [int(event.event_id, 16) for event in events]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


# --- what comes back


def test_an_event_comes_back_as_it_was(store: EventStore) -> None:
    event = HypervisorEvent(
        event_id="00000000000000ff",
        event_type=EventType.SAGA_STEP_FAILED,
        timestamp=datetime(2025, 1, 15, 10, 30, 0, 123457, tzinfo=UTC),
        session_id="s-é",
        agent_did="did:mesh:日本\x00語",
        causal_trace_id="a1b2c3d4e5f6/89abcdef/01234567",
        parent_event_id="00000000000000fe",
        payload={
            "nested": {"list": [1, {"deep": None}], "text": "naïve 😀"},
            "big": 2**70,
            "half": 0.5,
            "yes": True,
        },
    )
    store.write([IndexRow(SAGA, 3, 7, event)], {(SAGA, 3): (None, 8)})
    assert store.query() == [event]
    assert type(store.query()[0].event_type) is EventType


def test_absent_fields_stay_absent(store: EventStore) -> None:
    event = HypervisorEvent(event_type=EventType.AUDIT_COMMITTED)
    store.write([IndexRow("hypervisor.events.audit", 0, 0, event)], {("hypervisor.events.audit", 0): (None, 1)})
    assert store.query() == [event]


def test_an_unknown_event_type_passes_through_unchanged(store: EventStore) -> None:
    store.write(ring_rows(1, event_type=event_type_of("quantum.entangled")), {(RING, 0): (None, 2)})
    (found,) = store.query(event_type="quantum.entangled")
    assert isinstance(found.event_type, UnknownEventType)
    assert found.event_type.value == "quantum.entangled"
    assert store.type_counts() == {"quantum.entangled": 1}


@pytest.mark.parametrize(
    "timestamp",
    [
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(2025, 1, 15, 12, 0, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ],
)
def test_a_timestamp_is_kept_to_the_microsecond(store: EventStore, timestamp: datetime) -> None:
    store.write(ring_rows(1, timestamp=timestamp), {(RING, 0): (None, 2)})
    (found,) = store.query(start=timestamp, end=timestamp)
    assert found.timestamp == timestamp
    assert found.timestamp.utcoffset() == timedelta(0)


def test_a_naive_timestamp_is_utc(store: EventStore) -> None:
    store.write(ring_rows(1, timestamp=datetime(2025, 1, 15, 12)), {(RING, 0): (None, 2)})  # noqa: DTZ001 - the point
    assert store.query()[0].timestamp == NOON


# --- writing


def test_the_same_event_twice_is_one_row_and_counted_once(store: EventStore) -> None:
    assert store.write([*ring_rows(1, 2), *ring_rows(2)], {(RING, 0): (None, 3)}) == 2
    again = [IndexRow(SAGA, 5, 40, ring_event(1)), IndexRow(SAGA, 5, 41, ring_event(3))]
    assert store.write(again, {(SAGA, 5): (None, 42)}) == 1
    assert store.write(ring_rows(1, 2), {(RING, 0): (3, 5)}) == 0
    assert ids(store.query()) == [1, 2, 3]
    assert store.event_count() == 3
    assert store.type_counts() == {"ring.assigned": 3}


def test_of_two_events_with_one_id_the_first_stays(store: EventStore) -> None:
    store.write(ring_rows(1, session_id="first"), {(RING, 0): (None, 2)})
    store.write(ring_rows(1, session_id="second", event_type=EventType.RING_DEMOTED), {(RING, 0): (2, 3)})
    assert [event.session_id for event in store.query()] == ["first"]
    assert store.type_counts() == {"ring.assigned": 1}


def test_types_are_counted_over_topics_and_partitions(store: EventStore) -> None:
    rows = [
        IndexRow(RING, partition, number, ring_event(number, event_type=kind))
        for number, (partition, kind) in enumerate(
            [(0, EventType.RING_ASSIGNED), (1, EventType.RING_ASSIGNED), (1, EventType.RING_ELEVATED)]
        )
    ]
    rows.append(IndexRow(SAGA, 0, 0, ring_event(9, event_type=EventType.SAGA_CREATED)))
    store.write(rows, {(RING, 0): (None, 1), (RING, 1): (None, 3), (SAGA, 0): (None, 1)})
    assert store.type_counts() == {"ring.assigned": 2, "ring.elevated": 1, "saga.created": 1}
    store.write(ring_rows(20, 21), {(RING, 0): (1, 22)})
    assert store.type_counts() == {"ring.assigned": 4, "ring.elevated": 1, "saga.created": 1}
    assert store.event_count() == 6


def test_a_partition_never_written_has_no_offset(store: EventStore) -> None:
    assert store.next_offset(RING, 0) is None


def test_offsets_move_also_without_rows(store: EventStore) -> None:
    assert store.write([], {(RING, 0): (None, 4), (RING, 1): (None, 1)}) == 0
    assert store.write([], {(RING, 0): (4, 9)}) == 0
    assert (store.next_offset(RING, 0), store.next_offset(RING, 1)) == (9, 1)


def test_a_process_that_lost_its_partition_cannot_write(store: EventStore, path: Path) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    with closing(open_store(f"sqlite:///{path}")) as new_owner:
        new_owner.write(ring_rows(2), {(RING, 0): (2, 3)})
    with pytest.raises(LostPartition, match=r"Partition 0 of hypervisor\.events\.ring .* offset 2 ") as raised:
        store.write(ring_rows(2, 3), {(RING, 0): (2, 4)})
    assert isinstance(raised.value, TelemetryError)
    assert (raised.value.topic, raised.value.partition) == (RING, 0)
    assert ids(store.query()) == [1, 2]
    assert store.next_offset(RING, 0) == 3


def test_a_process_that_stands_at_the_same_offset_as_the_owner_cannot_write_either(store: EventStore) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    with pytest.raises(LostPartition):
        store.write(ring_rows(1, 7), {(RING, 0): (1, 2)})
    assert ids(store.query()) == [1]


def test_a_partition_that_has_an_offset_cannot_be_begun_again(store: EventStore) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    with pytest.raises(LostPartition, match="has an offset already"):
        store.write(ring_rows(2), {(RING, 0): (None, 3)})
    assert store.next_offset(RING, 0) == 2
    assert ids(store.query()) == [1]


def test_a_partition_that_has_no_offset_cannot_be_moved(store: EventStore) -> None:
    with pytest.raises(LostPartition):
        store.write(ring_rows(1), {(RING, 0): (0, 2)})
    assert store.next_offset(RING, 0) is None


def test_one_lost_partition_rolls_back_all_of_the_batch(store: EventStore) -> None:
    store.write([], {(RING, 0): (None, 1), (SAGA, 0): (None, 1)})
    rows = [*ring_rows(1), IndexRow(SAGA, 0, 1, ring_event(2, event_type=EventType.SAGA_CREATED))]
    with pytest.raises(LostPartition):
        store.write(rows, {(RING, 0): (1, 2), (RING, 1): (None, 5), (SAGA, 0): (0, 2)})
    assert store.query() == []
    assert store.event_count() == 0
    assert store.type_counts() == {}
    assert [store.next_offset(*place) for place in ((RING, 0), (RING, 1), (SAGA, 0))] == [1, None, 1]
    assert store.write(rows, {(RING, 0): (1, 2), (RING, 1): (None, 5), (SAGA, 0): (1, 2)}) == 2


def test_a_row_without_an_offset_to_cover_it_is_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match=r"nothing for partition 0 of hypervisor\.events\.ring"):
        store.write(ring_rows(1), {(RING, 1): (None, 2)})
    assert store.event_count() == 0


def test_a_full_disk_leaves_nothing_of_the_batch_and_a_later_try_succeeds(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    engine = open_engine(f"sqlite:///{path}")

    def fill(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    sqlalchemy_event.listen(engine, "connect", fill)
    engine.dispose()
    large = {"text": "x" * 1000}
    batch = ring_rows(*range(1, 1000), payload=large)
    with closing(EventStore(engine)) as full:
        full.write(ring_rows(0), {(RING, 0): (None, 1)})
        with pytest.raises(StoreUnavailable, match="full"):
            full.write(batch, {(RING, 0): (1, 1000)})
        assert full.event_count() == 1
        assert full.next_offset(RING, 0) == 1
        assert full.write(ring_rows(1), {(RING, 0): (1, 2)}) == 1
    with closing(open_store(f"sqlite:///{path}")) as roomy:
        assert roomy.write(batch, {(RING, 0): (2, 1000)}) == 998


def test_another_process_that_keeps_the_lock_is_waited_for_and_then_reported(path: Path) -> None:
    with closing(EventStore(open_engine(f"sqlite:///{path}", busy_seconds=0.05))) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="locked"):
                store.write(ring_rows(1), {(RING, 0): (None, 2)})
            assert store.query() == []
        assert store.write(ring_rows(1), {(RING, 0): (None, 2)}) == 1


def test_everything_is_there_after_a_restart(path: Path) -> None:
    with closing(open_store(f"sqlite:///{path}")) as store:
        store.write(ring_rows(1, 2), {(RING, 0): (None, 3)})
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert ids(store.query()) == [1, 2]
        assert store.type_counts() == {"ring.assigned": 2}
        assert store.next_offset(RING, 0) == 3
        assert store.write(ring_rows(2, 3), {(RING, 0): (3, 4)}) == 1


# --- queries


def test_the_last_events_come_oldest_first_whatever_the_order_of_writing(store: EventStore) -> None:
    store.write(ring_rows(4, 1, 5, 2, 3), {(RING, 0): (None, 6)})
    assert ids(store.query(limit=3)) == [3, 4, 5]
    assert ids(store.query()) == [1, 2, 3, 4, 5]
    assert store.query(limit=0) == []


def test_a_negative_limit_is_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match="limit must be 0 or more"):
        store.query(limit=-1)


def test_a_hundred_events_are_the_default(store: EventStore) -> None:
    store.write(ring_rows(*range(150)), {(RING, 0): (None, 150)})
    assert ids(store.query()) == list(range(50, 150))


def test_events_of_one_moment_are_ordered_by_topic_partition_and_offset(store: EventStore) -> None:
    places = [(SAGA, 0, 1), (RING, 10, 1), (RING, 2, 11), (RING, 2, 9), (RING, 10, 0)]
    rows = [IndexRow(*place, ring_event(at, timestamp=NOON)) for at, place in enumerate(places)]
    store.write(rows, {(RING, 2): (None, 12), (RING, 10): (None, 2), (SAGA, 0): (None, 2)})
    in_order = [places.index(place) for place in sorted(places)]
    assert ids(store.query()) == in_order
    assert ids(store.query(limit=2)) == in_order[-2:]


def test_filters_are_and(store: EventStore) -> None:
    rows = [
        *ring_rows(1),
        *ring_rows(2, session_id="s2"),
        *ring_rows(3, agent_did="did:mesh:b"),
        *ring_rows(4, event_type=EventType.RING_DEMOTED),
        *ring_rows(5),
        *ring_rows(6, session_id=None, agent_did=None),
    ]
    store.write(rows, {(RING, 0): (None, 7)})
    assert ids(store.query(session_id="s1")) == [1, 3, 4, 5]
    assert ids(store.query(agent_did="did:mesh:a")) == [1, 2, 4, 5]
    assert ids(store.query(event_type=EventType.RING_ASSIGNED)) == [1, 2, 3, 5, 6]
    assert ids(store.query(event_type="ring.assigned", session_id="s1", agent_did="did:mesh:a")) == [1, 5]
    assert ids(store.query(session_id="s1", agent_did="did:mesh:a", limit=2)) == [4, 5]
    assert ids(store.query(event_type=EventType.RING_DEMOTED, session_id="s2")) == []


def test_an_empty_text_is_a_filter_not_its_absence(store: EventStore) -> None:
    store.write([*ring_rows(1), *ring_rows(2, session_id="")], {(RING, 0): (None, 3)})
    assert ids(store.query(session_id="")) == [2]
    assert store.query(agent_did="") == []


def test_a_filter_is_a_value_never_a_piece_of_sql(store: EventStore) -> None:
    odd = "s' OR '1'='1"
    store.write([*ring_rows(1), *ring_rows(2, session_id=odd)], {(RING, 0): (None, 3)})
    assert ids(store.query(session_id=odd)) == [2]
    assert store.query(session_id="%") == []


def test_time_bounds_are_inclusive_and_naive_ones_are_utc(store: EventStore) -> None:
    store.write(ring_rows(1, 2, 3, 4), {(RING, 0): (None, 5)})
    second = timedelta(seconds=1)
    assert ids(store.query(start=NOON + 2 * second, end=NOON + 3 * second)) == [2, 3]
    assert ids(store.query(start=NOON + 2 * second + timedelta(microseconds=1))) == [3, 4]
    assert ids(store.query(end=NOON + 2 * second - timedelta(microseconds=1))) == [1]
    assert ids(store.query(start=(NOON + 3 * second).replace(tzinfo=None))) == [3, 4]
    assert ids(store.query(end=(NOON + 3 * second).astimezone(timezone(timedelta(hours=-8))))) == [1, 2, 3]
    assert store.query(start=NOON + 4 * second, end=NOON) == []


# --- the work that a query costs


def plan_of(engine: Any, path: Path, ask: Callable[[], object]) -> str:
    """How SQLite goes about the statements that `ask` makes the engine run."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_more: object) -> None:
        if statement.startswith("SELECT"):
            statements.append((statement, parameters))

    sqlalchemy_event.listen(engine, "before_cursor_execute", note)
    ask()
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
    engine = open_engine(f"sqlite:///{path}")
    with closing(EventStore(engine)) as store:
        numbered = [*ring_rows(*range(rows // 2)), *ring_rows(*range(rows // 2, rows), session_id=None)]
        store.write(numbered, {(RING, 0): (None, rows)})
        plan = plan_of(engine, path, lambda: store.query(**filters))
    assert f"USING INDEX {index}" in plan
    # Only events of the same microsecond may be sorted.
    assert "TEMP B-TREE FOR ORDER BY" not in plan


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (Wanted(), "ix_events_time (timestamp<?)"),
        (Wanted(["ring.assigned"]), "ix_events_type (event_type=? AND timestamp<?)"),
        (Wanted(session_id="s1", end=NOON), "ix_events_session (session_id=? AND timestamp<?)"),
        (Wanted(trace_id="t"), "ix_events_trace (trace_id=? AND timestamp<?)"),
    ],
)
def test_a_later_page_is_entered_where_it_begins(path: Path, wanted: Wanted, index: str) -> None:
    engine = open_engine(f"sqlite:///{path}")
    with closing(EventStore(engine)) as store:
        store.write(ring_rows(*range(5_000), causal_trace_id="t/1"), {(RING, 0): (None, 5_000)})

        def ask() -> None:
            with store.snapshot() as now:
                now.page(wanted, 3, Position(0, RING, 0, 0))

        plan = plan_of(engine, path, ask)
    assert f"USING INDEX {index}" in plan
    assert "TEMP B-TREE FOR ORDER BY" not in plan


def test_several_types_are_walked_each_along_its_index(path: Path) -> None:
    kinds = [EventType.RING_ASSIGNED, EventType.RING_ELEVATED, EventType.RING_DEMOTED]
    engine = open_engine(f"sqlite:///{path}")
    with closing(EventStore(engine)) as store:
        rows = [IndexRow(RING, 0, at, ring_event(at, event_type=kinds[at % 3])) for at in range(5_000)]
        store.write(rows, {(RING, 0): (None, 5_000)})

        def ask() -> None:
            with store.snapshot() as now:
                found = now.page(now.named(Wanted(["ring"])), 3)
                assert [event.payload for event in found.events] == [{}] * 3
                assert [int(event.event_id, 16) for event in found.events] == [4999, 4998, 4997]

        plan = plan_of(engine, path, ask)
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

    engine = open_engine(f"sqlite:///{path}")
    with closing(EventStore(engine)) as store:
        store.write([row(number) for number in range(5_000)], {(RING, 0): (None, 5_000)})
        plan = plan_of(
            engine,
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
    engine = open_engine(f"sqlite:///{path}")
    with closing(EventStore(engine)) as store:
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        plan = plan_of(engine, path, lambda: (store.event_count(), store.type_counts()))
    assert "type_counts" in plan
    assert "events" not in plan


# --- readers beside the writer


def test_a_reader_in_the_middle_of_its_answer_does_not_hold_the_writer(path: Path) -> None:
    with closing(EventStore(open_engine(f"sqlite:///{path}", busy_seconds=0.05))) as store:
        store.write(ring_rows(*range(1000)), {(RING, 0): (None, 1000)})
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            answer = reader.execute("SELECT event_id FROM events")
            answer.fetchone()
            assert store.write(ring_rows(1000), {(RING, 0): (1000, 1001)}) == 1
            assert len(answer.fetchall()) == 999


def test_a_write_that_waits_for_another_process_does_not_hold_the_readers(path: Path) -> None:
    engine = open_engine(f"sqlite:///{path}", busy_seconds=60)
    waiting = threading.Event()

    def note(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        if statement == "BEGIN IMMEDIATE":
            waiting.set()

    with closing(EventStore(engine)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        sqlalchemy_event.listen(engine, "before_cursor_execute", note)
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


def test_readers_see_whole_transactions_while_the_writer_writes(store: EventStore) -> None:
    batches, size = 60, 50
    done = threading.Event()
    wrong: list[object] = []
    seen: set[int] = set()

    def read() -> None:
        last = 0
        while not done.is_set():
            try:
                found = ids(store.query(limit=10_000))
                counted = sum(store.type_counts().values())
            except Exception as error:  # noqa: BLE001 - the test's own thread reports it
                wrong.append(error)
                return
            if found != list(range(len(found))) or len(found) % size or not last <= len(found) <= counted:
                wrong.append((last, len(found), counted))
            last = len(found)
            seen.add(last)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for at in range(0, batches * size, size):
        store.write(ring_rows(*range(at, at + size)), {(RING, 0): (at or None, at + size)})
        if at == batches * size // 2:
            wait_until(lambda: wrong or seen)
    wait_until(lambda: wrong or batches * size in seen)
    done.set()
    for reader in readers:
        reader.join(30)
    assert wrong == []
    assert len(seen) > 1


def test_two_processes_that_write_side_by_side_wait_for_each_other(path: Path) -> None:
    batches = 30
    failed: list[BaseException] = []

    def write(partition: int) -> None:
        try:
            with closing(open_store(f"sqlite:///{path}")) as own:
                for at in range(batches):
                    row = IndexRow(RING, partition, at, ring_event(partition * 1000 + at))
                    own.write([row], {(RING, partition): (at or None, at + 1)})
        except BaseException as error:  # noqa: BLE001 - the test's own thread reports it
            failed.append(error)

    writers = [threading.Thread(target=write, args=(partition,)) for partition in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert failed == []
    with closing(open_store(f"sqlite:///{path}")) as store:
        assert store.event_count() == len(store.query(limit=1000)) == 2 * batches


# --- the setting


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("index.db", "is not a database URL"),
        ("", "is not a database URL"),
        ("postgresql://user:hunter2@host/db", "can't be kept in"),
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
            EventStore(open_engine(f"sqlite:///{path}", busy_seconds=0.05))
