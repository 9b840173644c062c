"""A state's rows as records of a compacted topic, and back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import pytest

from hypervisor_consumers.runtime.partitions.changelog import changes_of, load_change, tables_of
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.protocols import Table
from hypervisor_schemas.errors import StateError
from tests.support.word_count_service import Word


@dataclass(slots=True)
class Kinds:
    """A table for every kind of value that the services keep."""

    counts: Table[tuple[str, str], int] = field(default_factory=lambda: Table(int))
    words: Table[tuple[str], Word] = field(default_factory=lambda: Table(Word))
    offsets: Table[tuple[str], list[int]] = field(default_factory=lambda: Table(list[int]))
    names: Table[tuple[str], tuple[str, ...]] = field(default_factory=lambda: Table(tuple[str, ...]))
    account: Table[tuple[str, ...], Account] = field(default_factory=lambda: Table(Account))
    moments: Table[tuple[str], float] = field(default_factory=lambda: Table(float))


def over(base: Kinds) -> Kinds:
    """Changes of a state that hold nothing yet."""
    pending = Kinds()
    for name, table in tables_of(pending).items():
        table.base = getattr(base, name)
    return pending


def contents(state: Kinds) -> dict[str, dict[Any, Any]]:
    return {name: dict(table) for name, table in tables_of(state).items()}


def filled() -> Kinds:
    pending = over(Kinds())
    pending.counts["a", "b"] = 3
    pending.counts['"ä\n', ""] = 0
    pending.words["w",] = Word(1, 1_700_000_000_000)
    pending.offsets["7",] = [7, 9, 2**53 + 1]
    pending.names["n",] = ("x", "")
    pending.account[()] = Account(5, 9, {"applied": 3, "aged_out": 1}, 17)
    pending.moments["m",] = 0.1
    return pending


def test_the_tables_of_a_state_are_its_fields():
    assert list(tables_of(Kinds())) == [field.name for field in fields(Kinds)]


def test_rows_of_every_kind_come_back_as_they_were():
    written, read = filled(), Kinds()

    changes = list(changes_of(3, tables_of(written)))
    for change in changes:
        load_change(3, tables_of(read), *change)

    assert contents(read) == contents(written)
    assert isinstance(read.words["w",], Word)
    assert len({key for key, _ in changes}) == len(changes) == 7


def test_the_key_names_partition_table_and_row():
    pending = over(Kinds())
    pending.counts["a", "b"] = 3
    pending.account[()] = Account(0, 1, {})

    assert list(changes_of(12, tables_of(pending))) == [
        (b'[12,"counts","a","b"]', b"3"),
        (b'[12,"account"]', b"[0,1,{},0]"),
    ]


def test_the_last_record_of_a_row_holds_and_one_without_a_value_takes_it_away():
    state = Kinds()
    for value in (b"1", b"2"):
        load_change(0, tables_of(state), b'[0,"counts","a","b"]', value)
    assert dict(state.counts) == {("a", "b"): 2}

    load_change(0, tables_of(state), b'[0,"counts","a","b"]', None)
    load_change(0, tables_of(state), b'[0,"counts","never","seen"]', None)

    assert contents(state) == contents(Kinds())


def test_only_rows_that_were_committed_get_a_tombstone():
    base = Kinds()
    base.counts["old", ""] = 1
    pending = over(base)
    pending.counts.remove(("old", ""))
    pending.counts.add(("new", ""), 1)
    pending.counts.remove(("new", ""))

    assert list(changes_of(0, tables_of(pending))) == [(b'[0,"counts","old",""]', None)]


def test_what_did_not_change_is_not_written():
    base = Kinds()
    base.counts["old", ""] = 1
    pending = over(base)
    assert pending.counts["old", ""] == 1

    assert list(changes_of(0, tables_of(pending))) == []


@pytest.mark.parametrize(("key", "value"), [(b'[1,"counts","a","b"]', b"4"), (b'[1,"of another service"]', b"?")])
def test_rows_of_another_partition_are_passed_over(key: bytes, value: bytes):
    state = Kinds()

    load_change(0, tables_of(state), key, value)
    load_change(10, tables_of(state), key, value)

    assert contents(state) == contents(Kinds())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, b"1"),
        (b"", b"1"),
        (b"\xff", b"1"),
        (b'{"partition":0}', b"1"),
        (b"[0]", b"1"),
        (b'[0,"no such table","a"]', b"1"),
        (b'[0,["counts"],"a"]', b"1"),
        (b'[0,"counts",["a"]]', b"1"),
        (b'[0,"counts","a","b"]', b""),
        (b'[0,"counts","a","b"]', b'"1"'),
        (b'[0,"counts","a","b"]', b"null"),
        (b'[0,"counts","a","b"]', b"1 2"),
        (b'[0,"words","w"]', b"[1]"),
        (b'[0,"names","n"]', b'["\xff"]'),
    ],
)
def test_a_record_that_is_not_of_this_state_is_named_and_changes_nothing(key: bytes | None, value: bytes | None):
    state = Kinds()

    with pytest.raises(StateError) as caught:
        load_change(0, tables_of(state), key, value)

    sentence = str(caught.value)
    assert sentence.startswith(f"The record with the key {key!r} is not of this service's state (")
    assert sentence.endswith(").")
    assert contents(state) == contents(Kinds())
