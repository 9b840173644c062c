"""The retention on every database: old events are removed and no longer counted, and don't come back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest

from hypervisor_consumers.event_index.backends.store import EventStore, IndexRow, open_store
from hypervisor_consumers.event_index.errors import StoreUnavailable
from hypervisor_consumers.event_index.metric_defs import index_families
from hypervisor_consumers.event_index.retention import remove_expired
from hypervisor_schemas.events import EventType
from tests.support.event_rows import RING, SAGA, Clock, ids, ring_event, ring_rows


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[EventStore]:
    """A store that keeps events for an hour."""
    with closing(open_store(database_url, retention=3600, now=clock)) as opened:
        yield opened


def removed(store: EventStore) -> int:
    """Remove old events until none is left; returns how many there were."""
    return sum(iter(store.expire, 0))


def test_what_is_older_than_the_retention_goes_and_is_not_counted(store: EventStore, clock: Clock) -> None:
    rows = [*ring_rows(*range(1200)), IndexRow(SAGA, 1, 1, ring_event(5000, event_type=EventType.SAGA_CREATED))]
    store.write(rows, {(RING, 0): (None, 1200), (SAGA, 1): (None, 2)})
    assert removed(store) == 0
    clock.now += 3600 + 1100
    assert removed(store) == 1100
    assert ids(store.query(limit=1000)) == [*range(1100, 1200), 5000]
    assert store.type_counts() == {"ring.assigned": 100, "saga.created": 1}
    assert store.event_count() == 101
    clock.now += 10_000
    assert removed(store) == 101
    assert store.type_counts() == {}
    assert store.next_offset(RING, 0) == 1200
    assert (store.expired, store.not_added) == (1201, 0)


def test_an_event_that_comes_too_late_is_not_added_and_its_offset_moves(store: EventStore, clock: Clock) -> None:
    clock.now += 3600 + 2
    assert store.write(ring_rows(1, 2, 3), {(RING, 0): (None, 4)}) == 2
    assert ids(store.query()) == [2, 3]
    assert store.type_counts() == {"ring.assigned": 2}
    assert store.not_added == 1
    assert store.next_offset(RING, 0) == 4


def test_an_event_that_has_gone_and_comes_again_is_not_counted_again(store: EventStore, clock: Clock) -> None:
    store.write(ring_rows(1, 2), {(RING, 0): (None, 3)})
    clock.now += 3600 + 2
    assert removed(store) == 1
    assert store.write(ring_rows(1, 2), {(RING, 0): (3, 5)}) == 0
    assert removed(store) == 0
    assert store.type_counts() == {"ring.assigned": 1}


def test_an_event_that_a_copy_with_another_clock_brings_back_goes_again(
    store: EventStore, clock: Clock, database_url: str
) -> None:
    store.write(ring_rows(1, 2), {(RING, 0): (None, 3)})
    clock.now += 3600 + 2
    assert removed(store) == 1
    with closing(open_store(database_url, retention=3600, now=Clock(clock.now - 60))) as late:
        assert late.write([IndexRow(RING, 1, 1, ring_event(1))], {(RING, 1): (None, 2)}) == 1
    assert store.type_counts() == {"ring.assigned": 2}
    assert removed(store) == 1
    assert store.type_counts() == {"ring.assigned": 1}


def test_events_of_the_first_year_go_and_those_of_the_last_stay(database_url: str, clock: Clock) -> None:
    first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
    with closing(open_store(database_url, now=clock)) as keeps:
        keeps.write([*ring_rows(1, timestamp=first), *ring_rows(2, timestamp=last)], {(RING, 0): (None, 3)})
        assert removed(keeps) == 0
    with closing(open_store(database_url, retention=3600, now=clock)) as forgets:
        assert removed(forgets) == 1
        assert ids(forgets.query()) == [2]
        assert forgets.type_counts() == {"ring.assigned": 1}


def test_the_metrics_tell_what_became_of_old_events(store: EventStore, clock: Clock) -> None:
    store.write(ring_rows(1, 2, 3), {(RING, 0): (None, 4)})
    clock.now += 3600 + 3
    removed(store)
    store.write(ring_rows(1), {(RING, 0): (4, 5)})
    [family] = index_families(removed=store.expired, not_added=store.not_added)
    assert {sample.labels["outcome"]: sample.value for sample in family.samples} == {"removed": 2, "not_added": 1}


def test_the_retention_removes_all_there_is_and_looks_again_later(store: EventStore, clock: Clock) -> None:
    store.write(ring_rows(*range(1200)), {(RING, 0): (None, 1200)})
    clock.now += 3600 + 1200
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) > 5 and store.next_offset(RING, 1) is None:
            store.write([IndexRow(RING, 1, 0, ring_event(5000))], {(RING, 1): (None, 1)})
            clock.now += 10_000

    remove_expired(store, lambda: store.expired == 1201, sleep)
    assert store.event_count() == 0
    assert sum(slept) < 60


def test_the_retention_goes_on_when_the_database_is_back(
    store: EventStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(ring_rows(1), {(RING, 0): (None, 2)})
    clock.now += 7200
    expire, failures = store.expire, iter([True, True])

    def sometimes() -> int:
        if next(failures, False):
            raise StoreUnavailable("It is away.")
        return expire()

    monkeypatch.setattr(store, "expire", sometimes)
    remove_expired(store, lambda: store.expired == 1, lambda _: None)
    assert store.event_count() == 0
