"""The event index's store on every database: events come back as they were, and writes are transactions."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from random import Random

import pytest
from sqlalchemy import delete, func, select

from hypervisor_consumers.event_index.backends.store import (
    EventStore,
    IndexRow,
    LostPartition,
    QueryTooSlow,
    StoreUnavailable,
    open_store,
)
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.event_index.tables import events
from hypervisor_schemas.errors import TelemetryError
from hypervisor_schemas.events import EventType, HypervisorEvent, UnknownEventType, event_type_of
from tests.support.event_rows import NOON, RING, SAGA, ids, ring_event, ring_rows
from tests.support.processes import wait_until
from tests.support.threads import run_concurrently


def test_an_event_comes_back_as_it_was(store: EventStore) -> None:
    event = HypervisorEvent(
        event_id="00000000000000ff",
        event_type=EventType.SAGA_STEP_FAILED,
        timestamp=datetime(2025, 1, 15, 10, 30, 0, 123457, tzinfo=UTC),
        session_id="s-é",
        agent_did="did:mesh:日本語",
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


def test_of_many_events_with_one_id_in_one_batch_the_first_stays(store: EventStore) -> None:
    rows = [IndexRow(RING, 0, n, ring_event(n % 40, payload={"n": n}, timestamp=NOON)) for n in range(2000, 0, -1)]
    assert store.write(rows, {(RING, 0): (None, 2001)}) == 40
    assert {event.payload["n"] for event in store.query()} == set(range(1961, 2001))


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


def test_a_process_that_lost_its_partition_cannot_write(store: EventStore, database_url: str) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    with closing(open_store(database_url)) as new_owner:
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
    assert [store.next_offset(*topic_partition) for topic_partition in ((RING, 0), (RING, 1), (SAGA, 0))] == [
        1,
        None,
        1,
    ]
    assert store.write(rows, {(RING, 0): (1, 2), (RING, 1): (None, 5), (SAGA, 0): (1, 2)}) == 2


def test_a_row_without_an_offset_to_cover_it_is_refused(store: EventStore) -> None:
    with pytest.raises(ValueError, match=r"nothing for partition 0 of hypervisor\.events\.ring"):
        store.write(ring_rows(1), {(RING, 1): (None, 2)})
    assert store.event_count() == 0


def test_everything_is_there_after_a_restart(database_url: str) -> None:
    with closing(open_store(database_url)) as store:
        store.write(ring_rows(1, 2), {(RING, 0): (None, 3)})
    with closing(open_store(database_url)) as store:
        assert ids(store.query()) == [1, 2]
        assert store.type_counts() == {"ring.assigned": 2}
        assert store.next_offset(RING, 0) == 3
        assert store.write(ring_rows(2, 3), {(RING, 0): (3, 4)}) == 1


def test_events_without_an_id_get_one_from_topic_partition_and_offset(store: EventStore) -> None:
    rows = ring_rows(1, 2, event_id="")
    assert store.write(rows, {(RING, 0): (None, 3)}) == 2
    # Read again, as after an offset that was set back by hand.
    assert store.write(rows, {(RING, 0): (3, 4)}) == 0
    assert [event.event_id for event in store.query()] == [f"{RING}:0:1", f"{RING}:0:2"]
    assert store.type_counts() == {"ring.assigned": 2}
    with store.snapshot() as snapshot:
        assert snapshot.event(f"{RING}:0:2") == store.query()[1]


def test_a_nul_in_any_field_is_stored(store: EventStore, database_url: str) -> None:
    kept = "\0" if database_url.startswith("sqlite") else "\N{REPLACEMENT CHARACTER}"
    odd = {
        "event_type": event_type_of("odd.\0"),
        "session_id": "s\0",
        "agent_did": "\0",
        "causal_trace_id": "t\0/1",
        "parent_event_id": "\0p",
        "payload": {"\0": ["\0", "\\u0000", "\\\0", {"deep": "a\0b"}]},
    }
    assert store.write([IndexRow(RING, 0, 1, ring_event(1, **odd))], {(RING, 0): (None, 2)}) == 1
    assert store.write([IndexRow(RING, 0, 2, ring_event(1, **odd))], {(RING, 0): (2, 3)}) == 0
    [found] = store.query(session_id="s\0", agent_did="\0", event_type="odd.\0")
    assert found.parent_event_id == f"{kept}p"
    assert found.payload == {kept: [kept, "\\u0000", f"\\{kept}", {"deep": f"a{kept}b"}]}
    assert store.type_counts() == {f"odd.{kept}": 1}
    with store.snapshot() as snapshot:
        assert snapshot.resolve(EventFilter(["odd.\0"])).event_types == [f"odd.{kept}"]
        assert snapshot.page(EventFilter(trace_id="t\0"), 5).events == [found]


@pytest.mark.parametrize("letter", ["x", "é", "😀", "random"])
@pytest.mark.parametrize("length", [600, 2400, 200_000])
def test_an_id_of_any_length_is_stored_and_found(store: EventStore, letter: str, length: int) -> None:
    random = Random(length)
    names = ("event_id", "session_id", "agent_did", "causal_trace_id")
    ids_of = {name: _long(random, letter, length) for name in names}
    kind = event_type_of(_long(random, letter, length))
    event = HypervisorEvent(event_type=kind, timestamp=NOON, **ids_of)
    other = replace(event, **{name: text[:-1] + "y" for name, text in ids_of.items()})
    topic = "t" * 249
    rows = [IndexRow(topic, 0, 1, event), IndexRow(topic, 0, 2, other), IndexRow(topic, 0, 3, event)]
    assert store.write(rows, {(topic, 0): (None, 4)}) == 2
    assert list(store.type_counts().values()) == [2]
    [found] = store.query(
        session_id=event.session_id, agent_did=event.agent_did, event_type=kind, start=NOON, end=NOON
    )
    with store.snapshot() as snapshot:
        assert snapshot.event(event.event_id) == found
        assert snapshot.page(EventFilter(trace_id=event.causal_trace_id), 5).events == [found]
        assert snapshot.page(snapshot.resolve(EventFilter([kind.value, "other"])), 5).events[-1] == found
    assert found.causal_trace_id == event.causal_trace_id
    if length == 600:
        assert found == event


def _long(random: Random, letter: str, length: int) -> str:
    """A text of this length. Random letters can't be compressed, so an index has no room for more of them."""
    return (
        "".join(map(chr, random.choices(range(0x4E00, 0x9FA0), k=length)))
        if letter == "random"
        else letter * length
    )


def test_a_query_that_takes_too_long_is_ended_with_a_sentence(database_url: str) -> None:
    with closing(open_store(database_url, query_seconds=0.2)) as impatient:
        impatient.write(ring_rows(*range(3000)), {(RING, 0): (None, 3000)})
        first, *others = (events.alias(f"e{n}") for n in range(4))
        endless = select(func.count()).select_from(first)
        for other in others:
            endless = endless.join(other, other.c.offset != -1)
        with pytest.raises(QueryTooSlow, match=r"TELEMETRY_QUERY_TIMEOUT .* narrow the filter"):  # noqa: SIM117
            with impatient.snapshot() as snapshot:
                snapshot._rows(endless)
        assert ids(impatient.query(limit=1)) == [2999]
        assert impatient.write(ring_rows(3000), {(RING, 0): (3000, 3001)}) == 1


def test_a_reader_cannot_write(store: EventStore) -> None:
    with pytest.raises(StoreUnavailable, match=r"read-?only"), store.snapshot() as snapshot:
        snapshot._connection.execute(delete(events))
    assert store.write(ring_rows(1), {(RING, 0): (None, 2)}) == 1


def test_a_snapshot_is_one_moment_whatever_is_written_meanwhile(store: EventStore) -> None:
    with store.snapshot() as snapshot:
        assert snapshot.offsets() == {}
        store.write(ring_rows(1), {(RING, 0): (None, 2)})
        assert snapshot.page(EventFilter(), 5).events == []
        assert snapshot.type_counts(EventFilter()) == {}
        assert snapshot.offsets() == {}
    assert store.event_count() == 1


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
                count = sum(store.type_counts().values())
            except Exception as error:  # noqa: BLE001 - the test's own thread reports it
                wrong.append(error)
                return
            if found != list(range(len(found))) or len(found) % size or not last <= len(found) <= count:
                wrong.append((last, len(found), count))
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


def test_two_processes_that_write_side_by_side_wait_for_each_other(database_url: str) -> None:
    batches = 30

    def write(partition: int) -> None:
        with closing(open_store(database_url)) as own:
            for offset in range(batches):
                row = IndexRow(RING, partition, offset, ring_event(partition * 1000 + offset))
                own.write([row], {(RING, partition): (offset or None, offset + 1)})

    run_concurrently(write, 2)
    with closing(open_store(database_url)) as store:
        assert store.event_count() == len(store.query(limit=1000)) == 2 * batches
