"""A partition that is restored is the one that went on living, whatever happened to that one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor_consumers.runtime.partitions.changelog import Change, tables_of
from hypervisor_consumers.runtime.partitions.dedup_window import id_number
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.word_count_service import Words, WordState, said

P = Partition[WordState, str]


@dataclass(frozen=True)
class Entry:
    """One record of the source."""

    offset: int
    kind: str
    event_id: str
    word: str
    hole_is_told: bool
    """Whether the offsets without a record before it are told, or found when it comes."""


@st.composite
def logs(draw: st.DrawFn) -> list[Entry]:
    entries, offset = [], 0
    for _ in range(draw(st.integers(0, 40))):
        offset += draw(st.sampled_from([0, 0, 0, 1, 7]))
        kind = draw(st.sampled_from(["good", "good", "good", "other", "unfit", "undecodable", "foreign"]))
        ids, words = st.sampled_from("123456789"), st.sampled_from("ab")
        entries.append(Entry(offset, kind, draw(ids), draw(words), draw(st.booleans())))
        offset += 1
    return entries


ACTIONS = st.lists(
    st.integers(1, 6) | st.sampled_from(["commit", "commit", "rollback", "expire", "abort", "restore"]), max_size=40
)


def take(partition: P, entry: Entry) -> Any:
    """Take a record as the runtime does; returns its result."""
    if entry.hole_is_told:
        partition.advance(entry.offset)
    if entry.kind == "foreign":
        return partition.ignore(entry.offset)
    if entry.kind == "undecodable":
        return partition.reject(entry.offset, "undecodable")
    event = {
        "good": said(entry.word, entry.event_id),
        "other": HypervisorEvent(entry.event_id, EventType.SESSION_CREATED),
        "unfit": said(1, entry.event_id),
    }[entry.kind]
    try:
        answer = partition.apply(entry.offset, event, entry.offset)
    except InvalidPayload as error:
        return partition.reject(entry.offset, error.reason)
    partition.seen(entry.offset + 1)
    return answer


def restore(log: list[Entry], changelog: list[Change], window: int, *, is_compacted: bool, together: int) -> P:
    """`together` says how many events are read again at once."""
    partition: P = Partition(0, Words(), window)
    for change in dict(changelog).items() if is_compacted else changelog:
        partition.load(*change)
    partition.begin(0)
    # Whether an id is readable in what can't be used depends on how it is broken; here it always is.
    again = [
        entry
        for entry in log
        if partition.window_begin <= entry.offset < partition.account.next_offset and entry.kind != "foreign"
    ]
    while again:
        batch, again = again[:together], again[together:]
        first = batch[0].offset
        numbers = np.array([id_number(entry.event_id) for entry in batch], np.uint64)
        if batch[-1].offset != first + len(batch) - 1 or not partition.know_all(first, numbers):
            for entry in batch:
                partition.know(entry.offset, entry.event_id)
    return partition


def kept(partition: P) -> tuple[Any, ...]:
    tables = {name: dict(table) for name, table in tables_of(partition.snapshot()).items()}
    return tables, partition.account, partition.next_offset


def future(partition: P, log: list[Entry]) -> list[Any]:
    """Every answer to what is left of the log, and what would then be written. Nothing of it stays."""
    answers = [take(partition, entry) for entry in log if entry.offset >= partition.next_offset]
    answers += [partition.expire(10**12), dict(partition.changes())]
    partition.rollback()
    return answers


@settings(deadline=None)  # a busy machine is no failure
@given(
    log=logs(), actions=ACTIONS, window=st.integers(1, 12), is_compacted=st.booleans(), together=st.integers(1, 5)
)
def test_a_restored_partition_is_the_one_that_lived_on(
    log: list[Entry], actions: list[int | str], window: int, is_compacted: bool, together: int
):
    living: P = Partition(0, Words(), window)
    living.begin(0)
    changelog: list[Change] = []
    for action in [*actions, "restore"]:
        match action:
            case int():
                for entry in [entry for entry in log if entry.offset >= living.next_offset][:action]:
                    take(living, entry)
            case "commit":
                changelog += living.changes()
                living.commit()
            case "expire":
                living.expire(10**12)
            case "abort" | "rollback":
                if action == "abort":
                    list(living.changes())
                assert living.rollback() == living.account.next_offset
            case "restore":
                living.rollback()
                copy = restore(log, changelog, window, is_compacted=is_compacted, together=together)
                assert kept(copy) == kept(living)
                assert copy.has_changes == living.has_changes
                assert future(copy, log) == future(living, log)
                assert kept(copy) == kept(living)
        assert living.account.difference == 0
