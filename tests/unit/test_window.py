"""Which ids a partition remembers. The rule is written out again here, over the whole log at once."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.window import IdWindow, id_number

logs = st.lists(st.tuples(st.integers(1, 9), st.sampled_from("abcdef")), max_size=60)


@given(log=logs, size=st.integers(1, 12))
def test_an_id_is_repeated_if_it_stands_in_the_stretch_of_its_offset_or_the_one_before(log, size):
    window, offset, seen = IdWindow(size), 0, []
    for step, event_id in log:
        offset += step
        first_known = (offset // size - 1) * size
        assert window.is_repeated(offset, event_id) == any(
            known == event_id and at >= first_known for at, known in seen
        )
        seen.append((offset, event_id))


@given(log=logs, size=st.integers(1, 12))
def test_an_id_within_the_size_is_always_repeated_and_beyond_twice_the_size_never(log, size):
    window, offset, last = IdWindow(size), 0, {}
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
    window = IdWindow(10)
    assert not window.is_repeated(0, "a")
    window.forget("a")
    assert not window.is_repeated(1, "a")
    assert window.is_repeated(2, "a")


def test_an_id_of_sixteen_hexadecimal_digits_is_its_own_number():
    assert id_number("00000000000000ff") == 255
    assert id_number("ffffffffffffffff") == 2**64 - 1


@pytest.mark.parametrize("other", ["", "FF00000000000000", "ff", "a" * 17, "not-hexadecimal!", "\ud800"])
def test_any_other_id_is_a_hash_of_64_bits(other):
    digest = hashlib.blake2b(other.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    assert id_number(other) == int.from_bytes(digest)
