"""Texts among the bytes of records say what their objects would, and origins have the numbers of who they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor_consumers.ring_metrics.fold import key_interning as module
from hypervisor_consumers.ring_metrics.fold.key_interning import KeyInterning, KeyTable
from hypervisor_consumers.runtime.decode.batch_decoder import columns_of, origin_of
from hypervisor_consumers.runtime.decode.byte_columns import LONGEST, SPARE, Texts, are_equal, bytes_at
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, encode_event

LAW = settings(deadline=None)
KNOWN = (b"a", b"ab", b"ring.assigned", b"x" * 32, b"x" * 33, b"y" * LONGEST, b"y" * (LONGEST + 1))

values = st.lists(
    st.sampled_from([*KNOWN, b"", b"a\0", b"\0", b"ring.elevated", "é".encode(), b"x" * 31 + b"\xff"])
    | st.binary(max_size=9),
    min_size=1,
    max_size=9,
)


def texts_of(values: list[bytes]) -> Texts:
    """With other bytes before each, and behind the last."""
    ends = np.cumsum([len(value) + 1 for value in values])
    begins = ends - [len(value) for value in values]
    return Texts(b"".join(b"\xfe" + value for value in values) + b"\xfe" + SPARE, begins, ends)


@LAW
@given(values)
def test_texts_are_what_they_are_one_by_one(values: list[bytes]) -> None:
    texts = texts_of(values)
    assert texts.values() == values
    assert [texts.value(place) for place in range(len(values))] == values
    assert texts.lengths.tolist() == [len(value) for value in values]
    assert texts.are_ascii == b"".join(values).isascii()
    assert texts.index_in(KNOWN).tolist() == [KNOWN.index(one) if one in KNOWN else -1 for one in values]
    if texts.rows is None:
        assert max(map(len, values)) > LONGEST
    else:
        width = texts.rows.shape[1] * 8
        assert [row.tobytes() for row in texts.rows] == [value.ljust(width, b"\0") for value in values]
        for value, row in zip(values, texts.rows, strict=True):
            same = are_equal(texts.rows, row)
            padded = value.ljust(width, b"\0")
            assert same.tolist() == [one.ljust(width, b"\0") == padded for one in values]


def test_bytes_are_taken_from_anywhere_up_to_the_end() -> None:
    assert [row.tobytes() for row in bytes_at(b"abcde", np.array([0, 2, 1]), 3)] == [b"abc", b"cde", b"bcd"]


names = st.none() | st.sampled_from(["", "a", "b", "é", "x" * 25, "x" * 60, "x" * 61, "x" * 70, "x" * 128])
batches = st.lists(st.lists(st.tuples(names, names), min_size=1, max_size=6), max_size=6)


def origins_of(batch: list[tuple[str | None, str | None]]) -> Texts:
    events = [HypervisorEvent(session_id=session, agent_did=agent) for session, agent in batch]
    columns = columns_of([encode_event(event) for event in events], SINGLE_OBJECT)
    assert columns is not None
    assert [origin_of(one) for one in columns.origins.values()] == batch
    return columns.origins


@LAW
@given(batches, st.sampled_from(["as it is", "all hashes are one", "all slots are one"]))
def test_an_origin_has_the_number_of_its_agent_and_session(
    batches: list[list[tuple[str | None, str | None]]], hashing: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_INITIAL_ENTRIES", 2)
        if hashing == "all hashes are one":
            patch.setattr(module, "_FACTORS", np.zeros_like(module._FACTORS))
        elif hashing == "all slots are one":
            patch.setattr(module, "_SLOT", np.uint64(0))
            patch.setattr(module, "_FIRST", np.uint64(63))
        known, seen = KeyTable(), set()
        for batch in batches:
            numbers = known.ids_of(origins_of(batch)).tolist()
            seen |= set(batch)
            assert [known.keys[number] for number in numbers] == [
                (agent or UNKNOWN, session or UNKNOWN) for session, agent in batch
            ]
        assert len(known.keys) == len(set(known.keys))
        assert len(known) == len(seen)


def test_origins_begin_anew_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ORIGINS", 2)
    interning = KeyInterning()
    before = interning.table()
    for count in (1, 2, 3):
        assert interning.table() is before
        before.ids_of(origins_of([(f"s{count}", None)]))
    assert interning.table() is not before
    assert len(interning.table()) == 0
    assert before.keys == [(UNKNOWN, "s1"), (UNKNOWN, "s2"), (UNKNOWN, "s3")]
