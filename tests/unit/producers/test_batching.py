"""Records of a batch: each is handed over once and in order, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor_producers.kafka_producer.batching import RecordBatch


def batch_of(*names: str) -> RecordBatch:
    batch = RecordBatch(0)
    batch.records.extend((name,) for name in names)
    return batch


def refusing(name: str, taken: list[str]) -> Callable[[str], None]:
    def produce(given: str) -> None:
        if given == name:
            raise BufferError
        taken.append(given)

    return produce


def test_all_go_in_order():
    records, taken = batch_of("a", "b", "c"), []
    records.push(taken.append)
    assert (taken, records.records) == (["a", "b", "c"], [])
    records.push(taken.append)
    assert taken == ["a", "b", "c"]


def test_one_that_is_refused_stays_with_those_behind_it():
    records, taken = batch_of("a", "b", "c"), []
    with pytest.raises(BufferError):
        records.push(refusing("b", taken))
    assert (taken, records.records) == (["a"], [("b",), ("c",)])
    records.push(taken.append)
    assert (taken, records.records) == (["a", "b", "c"], [])


def test_what_comes_meanwhile_goes_too_and_a_push_within_a_push_is_none():
    records, taken = batch_of("a", "b"), []

    def produce(name: str) -> None:
        assert records.is_pushing
        if name == "a":
            records.records.append(("late",))
            records.push(taken.append)
        taken.append(name)

    records.push(produce)
    assert (taken, records.records, records.is_pushing) == (["a", "b", "late"], [], False)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.sampled_from(["add", "push", "refuse", "within"]), max_size=50), st.integers(0, 5))
def test_each_is_handed_over_once_and_in_order(steps: list[str], refused_after: int):
    records, taken, added = RecordBatch(0), [], []

    def add() -> None:
        added.append(len(added))
        records.records.append((added[-1],))

    def produce(refuse_after: int | None, *, adds: bool) -> Callable[..., Any]:
        at_first = len(taken)

        def produce(number: int) -> None:
            if refuse_after is not None and len(taken) - at_first >= refuse_after:
                raise BufferError
            taken.append(number)
            if adds and len(added) < 100:
                add()
                records.push(taken.append)

        return produce

    for step in steps:
        if step == "add":
            add()
            continue
        with suppress(BufferError):
            records.push(produce(refused_after if step == "refuse" else None, adds=step == "within"))
        assert taken + [number for (number,) in records.records] == added
        assert not records.is_pushing
    records.push(taken.append)
    assert taken == added


def test_only_many_events_are_batched():
    records = RecordBatch(10)
    records.decide(10.5, 100)
    records.limit_capacity(1000)
    assert (records.is_on, records.capacity_left) == (False, 0)
    records.decide(11, 201)
    records.limit_capacity(1000)
    assert (records.is_on, records.capacity_left) == (True, 250)
    records.decide(12, 201)
    records.limit_capacity(1000)
    assert (records.is_on, records.capacity_left) == (False, 0)


def test_there_is_room_for_250_and_for_what_the_queue_takes():
    records = batch_of("a", "b")
    records.decide(1, 1000)
    records.limit_capacity(1000)
    assert records.capacity_left == 248
    records.limit_capacity(7)
    assert records.capacity_left == 7


def test_after_one_that_was_refused_none_are_batched_until_the_next_look():
    records = RecordBatch(0)
    records.was_refused = True
    records.decide(1, 1000)
    assert not records.is_on
    records.decide(2, 2000)
    assert records.is_on
