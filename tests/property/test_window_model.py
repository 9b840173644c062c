"""The window of known ids is plain sets of numbers, also where a stranger has chosen ids that collide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor_consumers.runtime.partitions.dedup_window import DedupWindow, id_number
from hypervisor_consumers.runtime.partitions.uint64_set import Uint64Set, spread, spread_one

LAW = settings(deadline=None)
SEED = 0xDA942042E4DD58B5
BACK = pow(SEED, -1, 2**64)
ROW = 8


def number_that_spreads_to(spread_number: int) -> int:
    """A number that nobody can choose who doesn't know the seed."""
    half = spread_number * BACK % 2**64
    return (half ^ half >> 32) * BACK % 2**64


crowds = st.sampled_from([0, 1, 2**62, 2**63, 2**64 - 1])
"""Rows where numbers crowd, among them the first and the last, behind which comes the first."""

colliding = st.builds(lambda at, nth: abs(at - nth), crowds, st.integers(0, 40))
"""As they come out of `spread`; 0 is among them."""

anything = colliding | st.integers(0, 2**64 - 1)


def in_order(numbers: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(sorted(set(numbers)), np.uint64)


class Model:
    """A table, and the same as a set."""

    def __init__(self) -> None:
        self.table, self.known = Uint64Set(), set[int]()

    def has_room_for(self, more: int) -> None:
        if self.table.room < more:
            self.table = self.table.grown(more, 512)

    def check(self, others: Sequence[int]) -> None:
        for number in [*self.known, *others]:
            assert (number in self.table) == (number in self.known)
        assert self.table.has_any(in_order(others)) == (not self.known.isdisjoint(others))
        assert self.table.slots // 2 - self.table.room == len(self.known)


batches = st.lists(anything, max_size=60) | st.builds(
    lambda at, count: list(range(at, at + count)),
    crowds.map(lambda at: min(at, 2**64 - 200)) | st.integers(0, 2**64 - 200),
    st.integers(1, 200),
)


class TestTable:
    @LAW
    @given(st.lists(batches, max_size=8), batches)
    def test_takes_a_batch_if_none_of_it_is_there_and_else_nothing(self, taken: list[list[int]], others: list[int]):
        model = Model()
        for batch in taken:
            model.has_room_for(len(batch))
            is_new = model.known.isdisjoint(batch)
            assert (model.table.add(in_order(batch)) is not None) == is_new
            if is_new:
                model.known.update(batch)
            model.check(others)

    @LAW
    @given(st.lists(batches | anything, max_size=12), batches, st.data())
    def test_gives_back_what_was_added_last_and_is_as_before(
        self, taken: list[list[int] | int], others: list[int], data: st.DataObject
    ):
        model, undo = Model(), []
        model.has_room_for(1000)
        for batch in taken:
            before = set(model.known)
            if isinstance(batch, int):
                position = model.table.add_one(batch)
                assert (position < 0) == (batch in before)
                if position >= 0:
                    assert model.table.stands_at(position, batch)
                    undo.append((position, before))
                    model.known.add(batch)
            elif (positions := model.table.add(in_order(batch))) is not None:
                undo.append((positions, before))
                model.known.update(batch)
        for position, before in reversed(undo[data.draw(st.integers(0, len(undo))) :]):
            if isinstance(position, int):
                model.table.take_out_one(position)
            else:
                model.table.take_out(position)
            model.known = before
            model.check(others)
        again = [number for number in others if number not in model.known]
        assert model.table.add(in_order(again)) is not None
        model.known.update(again)
        model.check(others)

    @LAW
    @given(st.lists(anything, min_size=1, max_size=200), st.data())
    def test_is_the_same_without_one_and_grown(self, numbers: list[int], data: st.DataObject):
        model = Model()
        for number in numbers:
            model.has_room_for(1)
            model.table.add_one(number)
            model.known.add(number)
        gone = data.draw(st.sampled_from(numbers))
        model.table = model.table.without(gone)
        model.known.discard(gone)
        model.check(numbers)
        model.table = model.table.grown(0, 2048)
        model.check(numbers)

    def test_is_no_larger_than_was_asked_for_and_never_more_than_half_full(self):
        table = Uint64Set()
        for count in range(0, 5000, 50):
            if table.room < 50:
                table = table.grown(50, 10_000)
            table.add(spread(np.arange(count, count + 50, dtype=np.uint64), SEED)[:0])
            for number in range(count, count + 50):
                table.add_one(spread_one(number, SEED))
            assert table.slots <= 10_000
        assert table.room == 0

    def test_a_row_that_is_full_leads_to_the_next_and_the_last_to_the_first(self):
        table, last = Uint64Set(), range(2**64 - 3 * ROW, 2**64)
        assert table.add(np.array(last, np.uint64)) is not None
        assert all(number in table for number in last)
        assert 2**64 - 3 * ROW - 1 not in table
        assert 1 not in table
        assert not table.has_any(np.arange(1, 30, dtype=np.uint64))
        assert table.add_one(last[0]) < 0

    def test_a_batch_is_looked_for_beyond_the_last_row_too(self):
        table = Uint64Set()
        for number in range(2**64 - ROW - 1, 2**64):
            table.add_one(number)
        others = [*range(2**64 - 100, 2**64 - 60)]
        assert not table.has_any(np.array(others, np.uint64))
        assert table.has_any(np.array([*others, 2**64 - 1], np.uint64))

    def test_what_was_taken_out_leaves_its_slot_free(self):
        table = Uint64Set()
        position = table.add_one(5)
        table.take_out_one(position)
        assert table.add_one(6) == position


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 2**64 - 1))
def test_numbers_are_spread_one_for_one_at_once_as_one_by_one(numbers: list[int], seed: int):
    together = spread(np.array(numbers, np.uint64), seed | 1).tolist()
    assert together == [spread_one(number, seed | 1) for number in numbers]
    assert len(set(together)) == len(set(numbers))
    assert [number_that_spreads_to(spread_one(number, SEED)) for number in numbers] == numbers


@pytest.mark.parametrize("step", [1, 2**16, 2**32, 2**44, 2**56])
def test_ids_that_are_chosen_in_steps_fill_rows_as_random_ones_do(step: int):
    numbers = np.arange(100_000, dtype=np.uint64) * np.uint64(step)
    rows = (spread(np.unique(numbers), SEED) >> np.uint64(64 - 15)).astype(np.intp)
    in_each = np.bincount(rows)
    # Evenly it would be 3 in each; of random numbers 15 come to one row once in 20 tries.
    assert in_each.max() <= 20


class SetWindow:
    """The promises of `DedupWindow`, kept without regard to memory or speed."""

    def __init__(self, size: int) -> None:
        self.size, self.stretch = size, -1
        self.now: frozenset[int] = frozenset()
        self.before: frozenset[int] = frozenset()
        self.mark()

    def move(self, offset: int) -> None:
        stretch = offset // self.size
        if stretch != self.stretch:
            self.before = self.now if stretch == self.stretch + 1 else frozenset()
            self.now, self.stretch = frozenset(), stretch

    def is_repeated(self, offset: int, number: int) -> bool:
        self.move(offset)
        known = number in self.now or number in self.before
        self.now |= {number}
        return known

    def all_new(self, first: int, numbers: Sequence[int]) -> bool:
        self.at_batch = before = self.state
        if any([self.is_repeated(first + nth, number) for nth, number in enumerate(numbers)]):  # noqa: C419 - all
            self.state = before
            return False
        return True

    def take_back(self) -> None:
        self.state = self.at_batch

    def forget(self, number: int) -> None:
        self.now -= {number}

    def mark(self) -> None:
        self.marked = self.state

    def rollback(self) -> None:
        self.state = self.marked

    @property
    def state(self) -> tuple[int, frozenset[int], frozenset[int]]:
        return self.stretch, self.now, self.before

    @state.setter
    def state(self, state: tuple[int, frozenset[int], frozenset[int]]) -> None:
        self.stretch, self.now, self.before = state


happenings = st.one_of(
    st.tuples(st.just("one"), anything, st.integers(0, 40)),
    st.tuples(st.just("forgotten"), anything, st.integers(0, 40)),
    st.tuples(st.just("batch"), batches, st.integers(0, 40)),
    st.tuples(st.just("taken back"), batches, st.integers(0, 40)),
    st.tuples(st.sampled_from(["mark", "rollback"]), st.none(), st.none()),
)


@LAW
@given(st.lists(happenings, max_size=25), st.integers(1, 300), st.lists(anything, max_size=20))
def test_a_window_is_two_sets(happened: list[tuple[str, object, int]], size: int, later: list[int]):
    window, model = DedupWindow(size, SEED), SetWindow(size)
    offset = marked = 0
    for kind, what, more in happened:
        if kind == "mark":
            window.mark()
            model.mark()
            marked = offset
        elif kind == "rollback":
            window.rollback()
            model.rollback()
            offset = marked
        elif kind in ("one", "forgotten"):
            offset += more
            event_id = f"{number_that_spreads_to(what):016x}"
            repeated = window.is_repeated(offset, event_id)
            assert repeated == model.is_repeated(offset, id_number(event_id))
            offset += 1
            if kind == "forgotten" and not repeated:
                window.forget(event_id)
                model.forget(id_number(event_id))
        else:
            numbers = [number_that_spreads_to(number) for number in what]
            first = offset + more
            is_new = window.all_new(first, np.array(numbers, np.uint64))
            assert is_new == model.all_new(first, numbers)
            if is_new and kind == "taken back":
                window.take_back()
                model.take_back()
            elif is_new:
                offset = first + len(numbers)
    for number in later:
        event_id = f"{number_that_spreads_to(number):016x}"
        assert window.is_repeated(offset, event_id) == model.is_repeated(offset, id_number(event_id))
        offset += 1
