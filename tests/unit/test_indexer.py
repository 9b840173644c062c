"""Rows and offsets of event-index, on a real database."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from hypervisor_consumers.event_index.indexer import Indexer
from hypervisor_consumers.event_index.store import EventStore, open_store
from hypervisor_consumers.event_index.tables import IndexRow
from hypervisor_consumers.runtime.processor import Place, Result
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.events import HypervisorEvent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE, THERE = Place("events.session", 0), Place("events.session", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def store(path: Path) -> Iterator[EventStore]:
    it = open_store(f"sqlite:///{path}")
    yield it
    it.close()


@pytest.fixture
def indexer(store: EventStore) -> Indexer:
    return Indexer(store)


def take(indexer: Indexer, place: Place, offset: int) -> None:
    assert indexer.apply(place, offset, HypervisorEvent()) is Result.APPLIED


def test_it_goes_on_where_the_database_says_and_not_where_the_group_stands(indexer: Indexer, store: EventStore):
    assert indexer.assigned(HERE, 7, 2, 9) == 2
    for offset in range(2, 5):
        take(indexer, HERE, offset)
    assert indexer.deliver() == {HERE: 5}

    successor = Indexer(store)
    assert successor.assigned(HERE, None, 0, 9) == 5
    take(successor, HERE, 5)
    assert successor.deliver() == {HERE: 6}
    assert store.event_count() == 4


def test_offsets_without_events_are_stored_too(indexer: Indexer, store: EventStore):
    indexer.assigned(HERE, None, 0, 3)

    indexer.advanced(HERE, 3)

    assert indexer.deliver() == {HERE: 3}
    assert store.next_offset(*HERE) == 3


def test_a_partition_that_went_is_not_written_any_more(indexer: Indexer, store: EventStore):
    for place in (HERE, THERE):
        indexer.assigned(place, None, 0, 1)
        take(indexer, place, 0)

    indexer.revoked(HERE)

    assert not indexer.is_restored(HERE)
    assert indexer.deliver() == {THERE: 1}
    assert store.event_count() == 1
    assert store.next_offset(*HERE) is None


def test_a_process_that_lost_its_partition_writes_nothing_until_it_is_told_so(path: Path, indexer: Indexer):
    indexer.assigned(HERE, None, 0, 1)
    indexer.assigned(THERE, None, 0, 1)
    take(indexer, HERE, 0)
    take(indexer, THERE, 0)

    other = open_store(f"sqlite:///{path}")
    successor = Indexer(other)
    successor.assigned(HERE, None, 0, 2)
    take(successor, HERE, 0)
    take(successor, HERE, 1)
    assert successor.deliver() == {HERE: 2}

    for _ in range(2):
        with pytest.raises(OutputUnavailable, match="another process writes it"):
            indexer.deliver()
    assert other.event_count() == 2
    indexer.revoked(HERE)
    assert indexer.deliver() == {THERE: 1}
    assert other.event_count() == 3
    other.close()


def test_a_write_whose_answer_was_lost_is_found_to_be_there(path: Path, indexer: Indexer, store: EventStore):
    event = HypervisorEvent()
    for place in (HERE, THERE):
        indexer.assigned(place, None, 0, 1)
    indexer.apply(HERE, 0, event)
    take(indexer, THERE, 0)
    store.write([IndexRow(*HERE, 0, event)], {HERE: (None, 1)})

    with pytest.raises(OutputUnavailable):
        indexer.deliver()

    assert indexer.deliver() == {HERE: 1, THERE: 1}
    assert store.event_count() == 2
    indexer.advanced(HERE, 2)
    assert indexer.deliver() == {HERE: 2, THERE: 1}


def test_a_database_that_is_locked_is_waited_for_and_nothing_is_lost(
    path: Path, indexer: Indexer, store: EventStore, monkeypatch: pytest.MonkeyPatch
):
    store._writer.exec_driver_sql("PRAGMA busy_timeout = 1")  # instead of 5 s
    store._writer.rollback()
    indexer.assigned(HERE, None, 0, 1)
    take(indexer, HERE, 0)

    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OutputUnavailable, match="locked"):
        indexer.deliver()
    locker.rollback()
    locker.close()

    assert indexer.deliver() == {HERE: 1}
    assert store.event_count() == 1
