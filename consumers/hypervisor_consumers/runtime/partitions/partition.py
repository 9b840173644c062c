"""One partition of a service's source: its state, the ids it knows, and its account. Pure.

What the next transaction changes is pending, read first, over what is committed. Only committed values are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from hypervisor_consumers.runtime.partitions.changelog import Change, changes_of, load_change, tables_of
from hypervisor_consumers.runtime.partitions.dedup_window import SEED, DedupWindow, first_offset
from hypervisor_consumers.runtime.partitions.offset_accounting import Account, Tally
from hypervisor_consumers.runtime.protocols import BatchFold, Fold, Table
from hypervisor_consumers.runtime.records import Result
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import HypervisorEvent

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
    from hypervisor_consumers.runtime.partitions.uint64_set import Numbers

__all__ = ["Partition"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the contract


REJECTED_IN_A_ROW = 10_000
"""Offsets of dead letters in one row at most: a record of the changelog has to stay far below Kafka's limit."""


@dataclass(slots=True)
class _Own:
    """The runtime's own rows of a partition's state, beside the fold's."""

    account: Table[tuple[str, ...], Account] = field(default_factory=lambda: Table(Account))

    rejected: Table[tuple[str], list[int]] = field(default_factory=lambda: Table(list[int]))
    """The offsets of dead letters, under the first of each commit: their ids were not used, and may come again."""


class Partition(Generic[S, O]):
    """Takes records in the order of their offsets; `commit` and `rollback` end what was begun.

    Made empty, it is filled from the changelog by `load`, then `begin` says where the account stands, then the
    window is filled by `know` or `know_all` from `window_begin` on. `seed` is that of `DedupWindow`.
    """

    def __init__(self, number: int, fold: Fold[S, O], window_size: int, seed: int = SEED) -> None:
        self.number = number
        self._fold = fold
        self._window_size, self._seed = window_size, seed
        self.committed: S = fold.new_state()
        self._pending: S = fold.new_state()
        self._own, self._pending_own = _Own(), _Own()
        if taken := tables_of(self.committed).keys() & tables_of(self._own).keys():
            raise ValueError(f"A fold's tables can't be named {', '.join(sorted(taken))}: the runtime has such.")
        self._committed_tables = {**tables_of(self.committed), **tables_of(self._own)}
        self._pending_tables = {**tables_of(self._pending), **tables_of(self._pending_own)}
        for name, table in self._pending_tables.items():
            table.base = self._committed_tables[name]
        self._batches = fold.batches(self._pending) if isinstance(fold, BatchFold) else None
        self._window = DedupWindow(window_size, seed)
        self._rejected_before: set[int] = set()
        self._rejected: list[int] = []
        self._tally = Tally(Account(0, 0, {}))
        self._is_new = True
        self._first_left = 0
        self._sent = -1

    @property
    def pending(self) -> S:
        """The state that the next transaction changes, over what is committed."""
        self.settle()
        return self._pending

    def settle(self) -> None:
        """Put the batches that were taken into the state, which `changes` would do otherwise."""
        if self._batches is not None:
            self._batches.settle()

    def snapshot(self) -> S:
        """A copy of what is committed; rows are immutable, so it costs one `dict` copy per table."""
        state = self._fold.new_state()
        for name, table in tables_of(state).items():
            table.update(self._committed_tables[name])
        return state

    def load(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the changelog.

        Raises:
            StateError: It is not one of this service's state.
        """
        load_change(self.number, self._committed_tables, key, value)

    @property
    def stored(self) -> Account | None:
        """The account as the changelog had it; None: this partition has no state yet."""
        return self._own.account[()]

    def begin(self, offset: int) -> None:
        """Go on from the stored account, or open one at `offset`, with no ids known.

        Where retention has deleted what would come next, `offset` is the first that is left; the gap is counted.
        """
        self._window = DedupWindow(self._window_size, self._seed)
        self._is_new = self.stored is None
        if self._is_new:
            self._own.account[()] = Account(offset, offset, {})
        self._first_left = offset
        self._start_over()
        self._rejected_before = {offset for _, chunk in self._own.rejected.present() for offset in chunk}

    @property
    def window_begin(self) -> int:
        """From where the source has to be read again, up to the account's offset, to know the same ids."""
        return first_offset(self._window_size, self.account.next_offset)

    def know(self, offset: int, event_id: str) -> None:
        """An event before the account's offset, read again: its id is known, unless it was a dead letter."""
        if offset not in self._rejected_before:
            self._window.is_repeated(offset, event_id)
            self._window.mark()

    def know_all(self, first_offset: int, id_numbers: Numbers) -> bool:
        """Events of consecutive offsets before the account's, read again; `id_numbers` as in `EventColumns`.

        False, and nothing happened, if one was a dead letter or a duplicate: `know` is for each of them.
        """
        rejected = self._rejected_before
        if rejected and not rejected.isdisjoint(range(first_offset, first_offset + len(id_numbers))):
            return False
        if not self._window.all_new(first_offset, id_numbers):
            return False
        self._window.mark()
        return True

    @property
    def is_new(self) -> bool:
        """Whether nothing of this partition was ever committed."""
        return self._is_new

    @property
    def next_offset(self) -> int:
        """Of the next record, pending ones included."""
        return self._tally.next_offset

    @property
    def account(self) -> Account:
        """As committed."""
        account = self.stored
        if account is None:
            raise AssertionError("begin() comes first")
        return account

    @property
    def has_changes(self) -> bool:
        """Whether the next transaction has something to write for this partition."""
        is_new = self._is_new
        return is_new or self.next_offset != self.account.next_offset or any(self._pending_tables.values())

    def apply(self, offset: int, event: HypervisorEvent, seen_at: int) -> tuple[Result, Sequence[O]]:
        """Fold one event, unless its id was seen in the window.

        Raises:
            InvalidPayload: The event doesn't fit its type; it was not taken, `reject` is to be called.
        """
        outputs: Sequence[O] | None = ()
        if self._window.is_repeated(offset, event.event_id):
            result = Result.DUPLICATE
        else:
            try:
                outputs = self._fold.apply(self.pending, event, seen_at)
            except InvalidPayload:
                self._window.forget(event.event_id)
                raise
            result = Result.IGNORED if outputs is None else Result.APPLIED
        self._tally.passed(offset, result.value)
        return result, outputs or ()

    def apply_columns(
        self, first_offset: int, columns: EventColumns, seen_at_ms: npt.NDArray[np.int64]
    ) -> Sequence[tuple[int, O]] | None:
        """Fold events of consecutive offsets at once, if the fold can, and all are new and valid.

        Returns the outputs, each with the offset of its event. None if nothing happened, and `apply` has to be
        called for each event.
        """
        batches = self._batches
        if batches is None or not self._window.all_new(first_offset, columns.id_numbers):
            return None
        folded = batches.take(columns, seen_at_ms)
        if folded is None:
            self._window.take_back()
            return None
        ignored = folded.ignored
        applied = len(columns) - ignored
        self._tally.passed_all(first_offset, {Result.APPLIED.value: applied, Result.IGNORED.value: ignored})
        return [(first_offset + index, output) for index, output in folded.outputs]

    def ignore(self, offset: int) -> None:
        """A record that is for another service."""
        self._tally.passed(offset, Result.IGNORED.value)

    def take_output(self, offset: int) -> None:
        """A record that holds an output, not an event: it was refused once, and its event counted then."""
        self._tally.passed(offset, Result.APPLIED.value)

    def reject(self, offset: int, reason: str) -> None:
        """A record that can't be used; it becomes a dead letter."""
        self._tally.passed(offset, reason)
        self._rejected.append(offset)

    def advance(self, next_offset: int) -> None:
        """The log goes on at `next_offset`; between here and there is no record."""
        self._tally.advance(next_offset)

    def lose(self, next_offset: int) -> None:
        """Retention has deleted what would come next, up to `next_offset`."""
        self._tally.lose(next_offset)

    def seen(self, published: int) -> None:
        """The time of publishing of the record that was passed last, in milliseconds since 1970."""
        self._tally.seen(published)

    def expire(self, now: int) -> Sequence[O]:
        """Let the fold remove what has been idle too long at `now`, milliseconds since 1970."""
        return self._fold.expire(self.pending, now)

    def changes(self) -> Iterator[Change]:
        """The records of the changelog for all that is pending, the account among them."""
        own = self._pending_own
        own.account[()] = self._tally.account()
        for at in range(0, len(self._rejected), REJECTED_IN_A_ROW):
            chunk = self._rejected[at : at + REJECTED_IN_A_ROW]
            own.rejected[(str(chunk[0]),)] = chunk
        begin = first_offset(self._window_size, self.next_offset)
        for key, chunk in self._own.rejected.present():
            if chunk[-1] < begin:
                own.rejected[key] = None
        self._sent = self.next_offset
        self.settle()
        yield from changes_of(self.number, self._pending_tables)

    def commit(self) -> None:
        """Merge what `changes` gave: it is committed."""
        if self.next_offset != self._sent:
            raise AssertionError("records were taken while a transaction was under way")
        self._is_new = False
        for table in self._pending_tables.values():
            table.merge_changes()
        self._window.mark()
        self._start_over()

    def rollback(self) -> int:
        """Forget what is pending. Returns the offset to read again from."""
        for table in self._pending_tables.values():
            table.discard_changes()
        self._window.rollback()
        self._start_over()
        return self.next_offset

    def _start_over(self) -> None:
        """From where the account ends, or from what is left of the log behind that."""
        if self._batches is not None:
            self._batches.drop()
        self._rejected = []
        self._tally = Tally(self.account)
        self._tally.lose(self._first_left)
