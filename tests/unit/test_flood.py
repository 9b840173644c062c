"""When dead letters are so many that somebody has to look."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.flood import FloodWatch


def test_a_share_of_the_last_thousand_is_a_flood():
    watch = FloodWatch(0.2, 10_000)
    watch.batch(900, 0, 0)
    watch.batch(100, 100, 100)
    assert watch.sentence == ""
    watch.batch(100, 100, 100)
    assert watch.sentence == ""  # 200 of 1,100
    watch.batch(100, 100, 100)
    assert watch.sentence == "300 of the last 1200 records could not be used; they are in the dead letters."


def test_a_flood_is_over_when_good_records_have_come():
    watch = FloodWatch(0.2, 10_000)
    watch.batch(500, 400, 400)
    assert watch.sentence
    for _ in range(9):
        watch.batch(100, 0, 0)
        assert watch.sentence
    watch.batch(100, 0, 0)
    assert watch.sentence == ""


def test_batches_are_forgotten_whole_and_never_fewer_than_a_thousand_records_are_kept():
    watch = FloodWatch(0.2, 10_000)
    watch.batch(10, 10, 10)
    watch.batch(990, 200, 0)
    assert watch.sentence.startswith("210 of the last 1000 ")
    watch.batch(9, 0, 0)
    assert watch.sentence.startswith("210 of the last 1009 ")
    watch.batch(1, 0, 0)
    assert watch.sentence.startswith("200 of the last 1000 ")


def test_a_handful_of_records_tells_nothing():
    watch = FloodWatch(0.2, 10_000)
    watch.batch(99, 99, 99)
    assert watch.sentence == ""
    watch.batch(1, 0, 0)
    assert watch.sentence == "99 of the last 100 records could not be used; they are in the dead letters."


def test_many_in_a_row_are_a_flood_however_few_there_were():
    watch = FloodWatch(1.0, 50)
    watch.batch(30, 20, 20)
    watch.batch(29, 29, 29)
    assert watch.sentence == ""
    watch.batch(1, 1, 1)
    assert watch.sentence == "The last 50 records could not be used; they are in the dead letters."
    watch.batch(2, 1, 0)
    assert watch.sentence == ""


def test_a_row_begins_at_the_end_of_a_batch_that_had_good_ones():
    watch = FloodWatch(1.0, 10)
    watch.batch(20, 9, 9)
    watch.batch(20, 19, 4)
    watch.batch(5, 5, 5)
    assert watch.sentence == ""
    watch.batch(1, 1, 1)
    assert watch.sentence.startswith("The last 10 records ")


@pytest.mark.parametrize("ratio", [0.0, 0.2])
def test_good_records_are_never_a_flood(ratio: float):
    watch = FloodWatch(ratio, 50)
    watch.batch(5000, 0, 0)
    assert watch.sentence == ""


def test_with_no_patience_one_bad_record_is_a_flood():
    watch = FloodWatch(0.0, 50)
    watch.batch(5000, 1, 0)
    assert watch.sentence == "1 of the last 5000 records could not be used; they are in the dead letters."
