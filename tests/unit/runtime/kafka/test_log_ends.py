"""The growth of logs, as far as it is remembered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.kafka.log_ends import LogEnds
from hypervisor_consumers.runtime.records import TopicPartition

HERE = TopicPartition("t", 0)


def test_nothing_is_known_of_a_log_that_was_not_seen() -> None:
    log_ends = LogEnds()
    assert log_ends.ranges() == {}
    assert log_ends.longer_since(HERE, 0) is None


def test_a_log_that_was_made_anew_has_no_past() -> None:
    log_ends = LogEnds()
    log_ends.saw({HERE: (0, 10)}, 1)
    log_ends.saw({HERE: (0, 3)}, 2)
    assert log_ends.ranges() == {HERE: (0, 3)}
    assert log_ends.longer_since(HERE, 10) == 2
    assert log_ends.longer_since(HERE, 2) is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 90))
def test_a_time_is_the_last_one_at_which_the_log_was_that_short(growth: list[int], offset: int) -> None:
    log_ends, end, expected = LogEnds(), 0, None
    for now, more in enumerate(growth):
        end += more
        log_ends.saw({HERE: (0, end)}, now)
        expected = now if end <= offset else expected
    assert log_ends.longer_since(HERE, offset) == expected


@given(st.integers(1, 5), st.integers(0, 5000))
def test_of_a_long_past_some_is_forgotten_and_a_time_is_never_too_late(step: int, offset: int) -> None:
    log_ends = LogEnds()
    for now in range(1000):
        log_ends.saw({HERE: (0, now * step)}, now)
    right = min(offset // step, 999)
    told = log_ends.longer_since(HERE, offset)
    if told is None:
        assert right < 500, "the first ends may be forgotten"
    else:
        assert right - max(64, (999 - right) / 2) <= told <= right
