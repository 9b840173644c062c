"""A flood of dead letters: so many that somebody has to look."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate


def test_a_share_of_the_last_thousand_is_a_flood():
    broker_monitor = DeadLetterRate(0.2, 10_000)
    broker_monitor.batch(900, 0, 0)
    broker_monitor.batch(100, 100, 100)
    assert broker_monitor.sentence == ""
    broker_monitor.batch(100, 100, 100)
    assert broker_monitor.sentence == ""  # 200 of 1,100
    broker_monitor.batch(100, 100, 100)
    assert (
        broker_monitor.sentence == "300 of the last 1200 records could not be used; they are in the dead letters."
    )


def test_a_flood_is_over_when_good_records_have_come():
    broker_monitor = DeadLetterRate(0.2, 10_000)
    broker_monitor.batch(500, 400, 400)
    assert broker_monitor.sentence
    for _ in range(9):
        broker_monitor.batch(100, 0, 0)
        assert broker_monitor.sentence
    broker_monitor.batch(100, 0, 0)
    assert broker_monitor.sentence == ""


def test_batches_are_forgotten_whole_and_never_fewer_than_a_thousand_records_are_kept():
    broker_monitor = DeadLetterRate(0.2, 10_000)
    broker_monitor.batch(10, 10, 10)
    broker_monitor.batch(990, 200, 0)
    assert broker_monitor.sentence.startswith("210 of the last 1000 ")
    broker_monitor.batch(9, 0, 0)
    assert broker_monitor.sentence.startswith("210 of the last 1009 ")
    broker_monitor.batch(1, 0, 0)
    assert broker_monitor.sentence.startswith("200 of the last 1000 ")


def test_a_handful_of_records_tells_nothing():
    broker_monitor = DeadLetterRate(0.2, 10_000)
    broker_monitor.batch(99, 99, 99)
    assert broker_monitor.sentence == ""
    broker_monitor.batch(1, 0, 0)
    assert broker_monitor.sentence == "99 of the last 100 records could not be used; they are in the dead letters."


def test_many_in_a_row_are_a_flood_however_few_there_were():
    broker_monitor = DeadLetterRate(1.0, 50)
    broker_monitor.batch(30, 20, 20)
    broker_monitor.batch(29, 29, 29)
    assert broker_monitor.sentence == ""
    broker_monitor.batch(1, 1, 1)
    assert broker_monitor.sentence == "The last 50 records could not be used; they are in the dead letters."
    broker_monitor.batch(2, 1, 0)
    assert broker_monitor.sentence == ""


def test_a_row_begins_at_the_end_of_a_batch_that_had_good_ones():
    broker_monitor = DeadLetterRate(1.0, 10)
    broker_monitor.batch(20, 9, 9)
    broker_monitor.batch(20, 19, 4)
    broker_monitor.batch(5, 5, 5)
    assert broker_monitor.sentence == ""
    broker_monitor.batch(1, 1, 1)
    assert broker_monitor.sentence.startswith("The last 10 records ")


@pytest.mark.parametrize("ratio", [0.0, 0.2])
def test_good_records_are_never_a_flood(ratio: float):
    broker_monitor = DeadLetterRate(ratio, 50)
    broker_monitor.batch(5000, 0, 0)
    assert broker_monitor.sentence == ""


def test_with_no_patience_one_bad_record_is_a_flood():
    broker_monitor = DeadLetterRate(0.0, 50)
    broker_monitor.batch(5000, 1, 0)
    assert broker_monitor.sentence == "1 of the last 5000 records could not be used; they are in the dead letters."
