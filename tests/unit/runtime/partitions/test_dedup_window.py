"""The ids that a partition knows. The rule is written out again here, over the whole log at once."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.decode.event_ids import id_number
from hypervisor_consumers.runtime.partitions.dedup_window import DedupWindow, first_offset

logs = st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abcdef")), max_size=60)


@given(log=logs, size=st.integers(1, 12))
def test_an_id_is_repeated_if_it_stands_in_the_stretch_of_its_offset_or_the_one_before(log, size):
    window, offset, seen = DedupWindow(size), 0, []
    for step, event_id in log:
        offset += step
        first_known = (offset // size - 1) * size
        assert window.is_repeated(offset, event_id) == any(
            known == event_id and at >= first_known for at, known in seen
        )
        seen.append((offset, event_id))


@given(log=logs, size=st.integers(1, 12))
def test_an_id_within_the_size_is_always_repeated_and_beyond_twice_the_size_never(log, size):
    window, offset, last = DedupWindow(size), 0, {}
    for step, event_id in log:
        offset += step
        distance = offset - last[event_id] if event_id in last else None
        repeated = window.is_repeated(offset, event_id)
        if distance is not None and distance <= size:
            assert repeated
        if distance is None or distance >= 2 * size:
            assert not repeated
        last[event_id] = offset


def test_an_id_that_was_forgotten_is_new_again():
    window = DedupWindow(10)
    assert not window.is_repeated(0, "a")
    window.forget("a")
    assert not window.is_repeated(1, "a")
    assert window.is_repeated(2, "a")


# A take has how far its offset lies behind the one before, its id, and whether it is forgotten at once.
takes = st.tuples(st.integers(1, 9), st.sampled_from("abcdef"), st.booleans())
happenings = st.lists(takes | st.sampled_from(["mark", "rollback"]), max_size=60)


def answers(window, begin, log):
    """The window's answers to each of `logs`, going on from offset `begin`; and the offset reached."""
    said, offset = [], begin
    for step, event_id, forgotten in log:
        offset += step
        repeated = window.is_repeated(offset, event_id)
        said.append(repeated)
        if forgotten and not repeated:
            window.forget(event_id)
    return said, offset


@given(happened=happenings, later=st.lists(takes, max_size=30), size=st.integers(1, 12))
def test_after_rollbacks_a_window_answers_as_one_that_saw_only_what_stayed(happened, later, size):
    window, offset = DedupWindow(size), 0
    stayed, marked = [], 0
    for happening in happened:
        if happening == "mark":
            window.mark()
            marked = len(stayed)
        elif happening == "rollback":
            window.rollback()
            del stayed[marked:]
            offset = sum(step for step, _, _ in stayed)
        else:
            _, offset = answers(window, offset, [happening])
            stayed.append(happening)

    other = DedupWindow(size)
    answers(other, 0, stayed)
    assert answers(window, offset, later) == answers(other, offset, later)


def test_a_rollback_takes_back_also_what_was_forgotten_since_the_mark():
    window = DedupWindow(10)
    window.is_repeated(0, "a")
    window.mark()
    window.forget("a")
    window.rollback()
    assert window.is_repeated(1, "a")


def test_to_forget_what_was_never_known_changes_nothing_nor_does_its_rollback():
    window = DedupWindow(10)
    window.forget("a")
    window.rollback()
    assert not window.is_repeated(0, "a")


def test_a_rollback_goes_back_over_a_whole_window_and_can_come_twice():
    window = DedupWindow(2)
    window.is_repeated(0, "a")
    window.mark()
    for offset in range(1, 9):
        window.is_repeated(offset, f"b{offset}")
    window.rollback()
    window.rollback()
    assert [window.is_repeated(offset, event_id) for offset, event_id in ((1, "b1"), (2, "a"), (3, "b8"))] == [
        False,
        True,
        False,
    ]


@given(
    log=st.lists(takes, max_size=60),
    later=st.lists(takes, max_size=30),
    size=st.integers(1, 12),
    ahead=st.integers(0, 20),
)
def test_a_window_that_is_rebuilt_from_its_first_offset_answers_as_the_original(log, later, size, ahead):
    original, rebuilt = DedupWindow(size), DedupWindow(size)
    repeated, last = answers(original, -1, log)
    # Behind the last record there may be offsets without one: markers of transactions.
    committed = last + 1 + ahead
    begin = first_offset(size, committed)

    offset = -1
    for (step, event_id, forgotten), was_repeated in zip(log, repeated, strict=True):
        offset += step
        if offset >= begin and (was_repeated or not forgotten):
            rebuilt.is_repeated(offset, event_id)

    assert answers(rebuilt, committed - 1, later) == answers(original, committed - 1, later)


@pytest.mark.parametrize(
    ("committed", "begin"),
    [(0, 0), (9, 0), (10, 0), (19, 0), (20, 10), (29, 10), (30, 20)],
)
def test_the_first_offset_is_the_beginning_of_the_stretch_before(committed, begin):
    assert first_offset(10, committed) == begin


@given(committed=st.integers(0, 200), size=st.integers(1, 12))
def test_no_record_is_read_again_that_can_make_no_difference(committed, size):
    begin = first_offset(size, committed)
    window = DedupWindow(size)
    window.is_repeated(begin, "a")
    assert begin == committed or window.is_repeated(committed, "a")


def test_an_id_of_sixteen_hexadecimal_digits_is_its_own_number():
    assert id_number("00000000000000ff") == 255
    assert id_number("ffffffffffffffff") == 2**64 - 1


@pytest.mark.parametrize("other", ["", "FF00000000000000", "ff", "a" * 17, "not-hexadecimal!", "\ud800"])
def test_any_other_id_is_a_hash_of_64_bits(other):
    digest = hashlib.blake2b(other.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    assert id_number(other) == int.from_bytes(digest)
