"""How logs have grown, as far as it is remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.logs import Logs
from hypervisor_consumers.runtime.processor import Place

HERE = Place("t", 0)


def test_nothing_is_known_of_a_log_that_was_not_seen() -> None:
    logs = Logs()
    assert logs.ranges() == {}
    assert logs.longer_since(HERE, 0) is None


def test_a_log_that_was_made_anew_has_no_past() -> None:
    logs = Logs()
    logs.saw({HERE: (0, 10)}, 1)
    logs.saw({HERE: (0, 3)}, 2)
    assert logs.ranges() == {HERE: (0, 3)}
    assert logs.longer_since(HERE, 10) == 2
    assert logs.longer_since(HERE, 2) is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 90))
def test_a_time_is_the_last_one_at_which_the_log_was_that_short(growth: list[int], offset: int) -> None:
    logs, end, expected = Logs(), 0, None
    for now, more in enumerate(growth):
        end += more
        logs.saw({HERE: (0, end)}, now)
        expected = now if end <= offset else expected
    assert logs.longer_since(HERE, offset) == expected


@given(st.integers(1, 5), st.integers(0, 5000))
def test_of_a_long_past_some_is_forgotten_and_a_time_is_never_too_late(step: int, offset: int) -> None:
    logs = Logs()
    for now in range(1000):
        logs.saw({HERE: (0, now * step)}, now)
    right = min(offset // step, 999)
    told = logs.longer_since(HERE, offset)
    if told is None:
        assert right < 500, "the first ends may be forgotten"
    else:
        assert right - max(64, (999 - right) / 2) <= told <= right
