"""One partition: what is pending, what is committed, which ids are known, and what became of every offset."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor_consumers.runtime.partitions.changelog import Change, tables_of
from hypervisor_consumers.runtime.partitions.offset_accounting import AGED_OUT, WITHOUT_RECORD, Account
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.protocols import Table
from hypervisor_consumers.runtime.records import Result
from hypervisor_schemas.errors import InvalidPayload, StateError
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.word_count_service import IDLE_MS, Words, WordState, said, times

P = Partition[WordState, str]
Log = list[tuple[int, str]]
"""Offsets and ids of a source."""


def begun(begin: int = 0, window: int = 100) -> P:
    partition: P = Partition(3, Words(), window)
    partition.begin(begin)
    return partition


def say(partition: P, *words: str) -> None:
    for word in words:
        assert partition.apply(partition.next_offset, said(word), 0) == (Result.APPLIED, [word])


def commit(partition: P) -> list[Change]:
    changes = list(partition.changes())
    partition.commit()
    return changes


def restored(changes: list[Change], log: Log = (), begin: int = 0, window: int = 100) -> P:  # type: ignore[assignment]
    partition: P = Partition(3, Words(), window)
    for change in changes:
        partition.load(*change)
    partition.begin(begin)
    for offset, event_id in log:
        if partition.window_begin <= offset < partition.account.next_offset:
            partition.know(offset, event_id)
    return partition


def committed(partition: P) -> dict[str, int]:
    return times(partition.snapshot())


class TestPendingOverCommitted:
    def test_what_is_pending_is_read_first_and_not_shown(self) -> None:
        partition = begun()
        say(partition, "a", "b", "a")
        assert times(partition.pending) == {"a": 2, "b": 1}
        assert committed(partition) == {}
        commit(partition)
        assert committed(partition) == {"a": 2, "b": 1}
        say(partition, "a")
        assert partition.pending.words["a",].times == 3
        assert committed(partition) == {"a": 2, "b": 1}

    def test_a_commit_writes_only_what_changed_since_the_last_one(self) -> None:
        partition = begun()
        say(partition, "a", "b")
        commit(partition)
        say(partition, "b")
        assert [key for key, _ in commit(partition)] == [
            b'[3,"words","b"]',
            b'[3,"pairs","b","b"]',
            b'[3,"last"]',
            b'[3,"account"]',
        ]

    def test_rolled_back_is_state_account_and_place(self) -> None:
        partition = begun()
        say(partition, "a")
        commit(partition)
        say(partition, "a", "b")
        partition.reject(3, "undecodable")
        partition.seen(5)
        list(partition.changes())

        assert partition.rollback() == 1

        assert partition.next_offset == 1
        assert not partition.has_changes
        assert dict(partition.pending.words.present()) == dict(partition.committed.words)
        assert partition.account == Account(0, 1, {"applied": 1})
        say(partition, "c")
        commit(partition)
        assert partition.account == Account(0, 2, {"applied": 2})
        assert committed(partition) == {"a": 1, "c": 1}

    def test_a_snapshot_does_not_change_later(self) -> None:
        partition = begun()
        say(partition, "a")
        commit(partition)
        snapshot = partition.snapshot()
        say(partition, "a", "b")
        commit(partition)
        assert times(snapshot) == {"a": 1}
        snapshot.words.clear()
        assert committed(partition) == {"a": 2, "b": 1}

    def test_records_taken_between_changes_and_commit_are_refused(self) -> None:
        partition = begun()
        say(partition, "a")
        list(partition.changes())
        say(partition, "b")
        with pytest.raises(AssertionError, match="while a transaction was under way"):
            partition.commit()
        assert committed(partition) == {}

    def test_nothing_is_committed_that_was_not_written(self) -> None:
        partition = begun()
        say(partition, "a")
        with pytest.raises(AssertionError):
            partition.commit()

    def test_rows_that_the_fold_lets_expire_are_tombstones(self) -> None:
        partition = begun()
        say(partition, "a")
        commit(partition)
        assert partition.expire(IDLE_MS) == []
        assert not partition.has_changes
        assert partition.expire(IDLE_MS + 1) == ["no a"]
        assert partition.has_changes
        assert (b'[3,"words","a"]', None) in commit(partition)
        assert committed(partition) == {}


class TestTheAccount:
    def test_says_what_became_of_every_offset(self) -> None:
        partition = begun(10)
        event = said("a", "1")
        partition.apply(10, event, 0)
        partition.apply(11, event, 0)
        partition.apply(12, HypervisorEvent(event_type=EventType.SESSION_CREATED), 0)
        partition.ignore(13)
        partition.reject(14, "undecodable")
        partition.reject(15, "unknown_schema")
        partition.apply(18, said("b"), 0)
        partition.advance(20)
        commit(partition)
        assert partition.account == Account(
            10,
            20,
            {
                "applied": 2,
                "duplicate": 1,
                "ignored": 2,
                "undecodable": 1,
                "unknown_schema": 1,
                WITHOUT_RECORD: 3,
            },
        )
        assert partition.account.difference == 0

    def test_differs_by_what_is_missing(self) -> None:
        assert Account(10, 20, {"applied": 7, WITHOUT_RECORD: 1}).difference == 2

    def test_an_advance_to_where_it_is_already_counts_nothing(self) -> None:
        partition = begun()
        say(partition, "a")
        partition.advance(1)
        partition.advance(0)
        commit(partition)
        assert partition.account == Account(0, 1, {"applied": 1})

    def test_goes_on_after_a_restart(self) -> None:
        partition = begun(10)
        say(partition, "a")
        again = restored(commit(partition), begin=10)
        assert again.next_offset == 11
        assert not again.has_changes
        say(again, "b")
        commit(again)
        assert again.account == Account(10, 12, {"applied": 2})

    def test_of_a_fresh_partition_is_written_even_with_no_record(self) -> None:
        partition = begun(7)
        assert partition.stored == Account(7, 7, {})
        assert partition.has_changes
        partition.rollback()
        assert partition.has_changes
        changes = commit(partition)
        assert changes == [(b'[3,"account"]', b"[7,7,{},0]")]
        assert not partition.has_changes
        assert not restored(changes, begin=7).has_changes

    def test_of_a_partition_without_state_is_not_there_before_it_begins(self) -> None:
        partition: P = Partition(3, Words(), 100)
        assert partition.stored is None
        with pytest.raises(AssertionError):
            _ = partition.account

    def test_keeps_the_time_of_the_last_publishing(self) -> None:
        partition = begun()
        say(partition, "a")
        partition.seen(1000)
        say(partition, "b")
        partition.seen(2000)
        changes = commit(partition)
        assert partition.account.published_ms == 2000
        partition = restored(changes)
        partition.advance(5)
        commit(partition)
        assert partition.account.published_ms == 2000

    def test_does_not_keep_a_time_that_was_rolled_back(self) -> None:
        partition = begun()
        say(partition, "a")
        partition.seen(2000)
        partition.rollback()
        partition.advance(1)
        commit(partition)
        assert partition.account.published_ms == 0

    def test_counts_what_retention_deleted_unread(self) -> None:
        partition = begun()
        say(partition, "a")
        again = restored(commit(partition), begin=5)
        assert again.account == Account(0, 1, {"applied": 1})
        assert again.next_offset == 5
        assert again.has_changes
        say(again, "b")
        commit(again)
        assert again.account == Account(0, 6, {"applied": 2, AGED_OUT: 4})

    def test_counts_what_retention_deleted_under_its_own_name_after_an_aborted_transaction_too(self) -> None:
        partition = begun()
        say(partition, "a")
        again = restored(commit(partition), begin=5)
        say(again, "b")
        list(again.changes())
        assert again.rollback() == 5
        say(again, "b")
        commit(again)
        assert again.account == Account(0, 6, {"applied": 2, AGED_OUT: 4})
        say(again, "c")
        assert again.rollback() == 6


class TestAnEventThatComesTwice:
    def test_counts_once_and_comes_out_once(self) -> None:
        partition = begun()
        event = said("a")
        assert partition.apply(0, event, 0) == (Result.APPLIED, ["a"])
        assert partition.apply(1, event, 0) == (Result.DUPLICATE, ())
        commit(partition)
        assert partition.apply(2, event, 0) == (Result.DUPLICATE, ())
        assert times(partition.pending) == {"a": 1}

    def test_counts_again_after_its_window(self) -> None:
        partition = begun(window=2)
        event = said("a")
        assert partition.apply(1, event, 0)[0] is Result.APPLIED
        assert partition.apply(3, event, 0)[0] is Result.DUPLICATE
        assert partition.apply(8, event, 0)[0] is Result.APPLIED

    def test_is_known_after_a_restart_by_reading_the_window_again(self) -> None:
        partition = begun()
        partition.apply(0, said("a", "1"), 0)
        again = restored(commit(partition), [(0, "1"), (1, "2")])
        assert again.apply(1, said("a", "2"), 0)[0] is Result.APPLIED
        assert again.apply(2, said("a", "1"), 0)[0] is Result.DUPLICATE

    def test_is_new_again_when_the_first_was_rolled_back(self) -> None:
        partition = begun()
        event = said("a")
        for _ in range(2):
            assert partition.apply(0, event, 0)[0] is Result.APPLIED
            partition.rollback()

    def test_is_still_known_when_only_the_second_was_rolled_back(self) -> None:
        partition = begun()
        event = said("a")
        partition.apply(0, event, 0)
        commit(partition)
        for _ in range(2):
            assert partition.apply(1, event, 0)[0] is Result.DUPLICATE
            partition.rollback()

    def test_needs_the_window_from_the_stretch_before_on(self) -> None:
        partition = begun(window=10)
        partition.advance(37)
        assert restored(commit(partition), window=10).window_begin == 20


class TestADeadLetter:
    """Its id was not used: the same event, mended and sent again, counts."""

    def reject(self, partition: P, offset: int, event_id: str) -> None:
        with pytest.raises(InvalidPayload) as caught:
            partition.apply(offset, said(1, event_id), 0)
        partition.reject(offset, caught.value.reason)

    def test_leaves_its_id_unknown(self) -> None:
        partition = begun()
        self.reject(partition, 0, "1")
        assert partition.apply(1, said("a", "1"), 0)[0] is Result.APPLIED
        assert partition.apply(2, said("a", "1"), 0)[0] is Result.DUPLICATE
        commit(partition)
        assert partition.account.results == {"invalid_payload": 1, "applied": 1, "duplicate": 1}

    def test_leaves_its_id_unknown_over_a_restart(self) -> None:
        partition = begun()
        partition.apply(0, said("a", "1"), 0)
        self.reject(partition, 1, "2")
        self.reject(partition, 2, "3")
        changes = commit(partition)
        assert (b'[3,"rejected","1"]', b"[1,2]") in changes
        again = restored(changes, [(0, "1"), (1, "2"), (2, "3")])
        for offset, event_id in enumerate("23", 3):
            assert again.apply(offset, said("a", event_id), 0)[0] is Result.APPLIED
        assert again.apply(5, said("a", "1"), 0)[0] is Result.DUPLICATE

    def test_is_forgotten_behind_the_window(self) -> None:
        partition = begun(window=10)
        self.reject(partition, 3, "1")
        commit(partition)
        self.reject(partition, 11, "1")
        partition.advance(19)
        assert b'[3,"rejected","3"]' not in dict(commit(partition))
        partition.advance(20)
        assert dict(commit(partition))[b'[3,"rejected","3"]'] is None
        partition.advance(29)
        assert b'[3,"rejected","11"]' not in dict(commit(partition))

    def test_is_looked_at_once_for_each_move_of_the_window_not_at_every_commit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        partition = begun(window=10)
        self.reject(partition, 3, "1")
        commit(partition)
        looked = 0
        present = Table.present

        def counting(table: Table[Any, Any]) -> Any:
            nonlocal looked
            looked += 1
            return present(table)

        monkeypatch.setattr(Table, "present", counting)
        for offset in range(4, 19):
            partition.advance(offset)
            commit(partition)
        assert looked == 0
        partition.advance(20)
        list(partition.changes())
        partition.rollback()
        partition.advance(20)
        assert dict(commit(partition))[b'[3,"rejected","3"]'] is None, "an abort has undone it"

    def test_is_kept_as_long_as_one_of_the_same_commit_is_in_the_window(self) -> None:
        partition = begun(window=10)
        self.reject(partition, 9, "1")
        self.reject(partition, 11, "2")
        changes = commit(partition)
        partition.advance(20)
        again = restored([*changes, *commit(partition)], [(9, "1"), (11, "2")], window=10)
        assert again.window_begin == 10
        assert again.apply(20, said("a", "2"), 0)[0] is Result.APPLIED

    def test_whose_transaction_was_aborted_is_not_written_later(self) -> None:
        partition = begun()
        self.reject(partition, 0, "1")
        list(partition.changes())
        partition.rollback()
        say(partition, "a")
        assert [key for key, _ in commit(partition) if b"rejected" in key] == []


def test_a_record_that_is_not_of_its_state_is_refused():
    partition: P = Partition(3, Words(), 100)
    with pytest.raises(StateError):
        partition.load(b'[3,"no such table"]', b"1")
    partition.load(b'[4,"no such table"]', b"1")
    assert all(not table for table in tables_of(partition.snapshot()).values())
