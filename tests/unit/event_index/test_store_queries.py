"""Queries of the event index's store on every database: filters, order and limits."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from hypervisor_consumers.event_index.backends.store import (
    EventStore,
    IndexRow,
)
from hypervisor_schemas.events import EventType
from tests.support.event_rows import NOON, RING, SAGA, ids, ring_event, ring_rows


def test_texts_are_in_order_of_their_code_points(store: EventStore) -> None:
    topics = ["t.B", "t.a", "t.Z", "t.é", "t._", "t.-"]
    rows = [IndexRow(topic, 0, 1, ring_event(at, timestamp=NOON)) for at, topic in enumerate(topics)]
    store.write(rows, {(topic, 0): (None, 2) for topic in topics})
    assert [topics[at] for at in ids(store.query())] == sorted(topics)
    assert ids(store.query(limit=2)) == [topics.index(topic) for topic in sorted(topics)[-2:]]


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
    positions = [(SAGA, 0, 1), (RING, 10, 1), (RING, 2, 11), (RING, 2, 9), (RING, 10, 0)]
    rows = [IndexRow(*position, ring_event(at, timestamp=NOON)) for at, position in enumerate(positions)]
    store.write(rows, {(RING, 2): (None, 12), (RING, 10): (None, 2), (SAGA, 0): (None, 2)})
    in_order = [positions.index(position) for position in sorted(positions)]
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
