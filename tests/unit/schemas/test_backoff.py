"""Waits between tries: twice as long each time, never longer than the longest, never shorter than asked for."""

from __future__ import annotations

import pytest

from hypervisor_schemas.backoff import MOST_ASKED_FOR, Backoff


def test_each_wait_is_twice_as_long_up_to_the_longest_until_something_succeeds() -> None:
    backoff = Backoff(first_seconds=1.0, longest_seconds=5.0)
    assert [backoff.next_seconds() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    backoff.reset()
    assert backoff.next_seconds() == 1.0
    backoff.exhaust()
    assert [backoff.next_seconds() for _ in range(2)] == [5.0, 5.0]


@pytest.mark.parametrize(("spread", "wait"), [(1.0, 0.2), (0.0, 0.1), (0.5, 0.15)])
def test_by_chance_the_next_try_comes_after_half_of_the_wait_or_more(spread: float, wait: float) -> None:
    backoff = Backoff(100.0)
    assert (backoff.until, backoff.is_pausing) == (100.0, False)
    backoff.again(100.0, spread=spread)
    assert (backoff.until, backoff.is_pausing) == (pytest.approx(100.0 + wait), True)


def test_the_other_side_may_ask_for_a_longer_wait_but_not_for_any() -> None:
    backoff = Backoff(0.0)
    backoff.again(0.0, at_least=30.0)
    assert backoff.until == 30.0
    backoff.again(0.0, at_least=86_400.0)
    assert backoff.until == MOST_ASKED_FOR
