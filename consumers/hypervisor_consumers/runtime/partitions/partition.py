"""One partition of a service's source: its state, the ids it knows, and its account. Pure.

What the next transaction changes is pending, read first, over what is committed. Only committed values are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from hypervisor_consumers.runtime.partitions.changelog import Change
from hypervisor_consumers.runtime.partitions.dedup_window import SEED
from hypervisor_consumers.runtime.partitions.known_ids import KnownIds
from hypervisor_consumers.runtime.partitions.layered_state import LayeredState
from hypervisor_consumers.runtime.partitions.offset_accounting import Account, Tally
from hypervisor_consumers.runtime.protocols import BatchFold, Fold
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
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols


MAX_REJECTED_IN_ROW = 10_000
"""Offsets of dead letters in one row at most: a record of the changelog has to stay far below Kafka's limit."""


class Partition(Generic[S, O]):
    """Takes records in the order of their offsets; `commit` and `rollback` end what was begun.

    Made empty, it is filled from the changelog by `load`, then `begin` says where the account stands, then the
    window is filled by `know` or `know_all` from `window_begin` on. `seed` is that of `DedupWindow`.
    """

    def __init__(self, number: int, fold: Fold[S, O], window_size: int, seed: int = SEED) -> None:
        self._fold = fold
        self._state = LayeredState(number, fold)
        self._ids = KnownIds(window_size, seed)
        self._batches = fold.batches(self._state.pending) if isinstance(fold, BatchFold) else None
        self._rejected: list[int] = []
        self._tally = Tally(Account(0, 0, {}))
        self._is_new = True
        self._first_left = 0
        self._sent = -1
        self._pruned_to = self._sent_pruned_to = -1
        """The window's beginning up to which offsets of dead letters were forgotten, as committed and as sent."""

    @property
    def committed(self) -> S:
        """The state as committed; it is not to be changed."""
        return self._state.committed

    @property
    def pending(self) -> S:
        """The state that the next transaction changes, over what is committed."""
        self.settle()
        return self._state.pending

    def settle(self) -> None:
        """Put the batches that were taken into the state, which `changes` would do otherwise."""
        if self._batches is not None:
            self._batches.settle()

    def snapshot(self) -> S:
        """A copy of what is committed; rows are immutable, so it costs one `dict` copy per table."""
        return self._state.snapshot()

    def load(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the changelog.

        Raises:
            StateError: It is not one of this service's state.
        """
        self._state.load(key, value)

    @property
    def stored(self) -> Account | None:
        """The account as the changelog had it; None: this partition has no state yet."""
        return self._state.own.account[()]

    def begin(self, offset: int) -> None:
        """Go on from the stored account, or open one at `offset`, with no ids known.

        Where retention has deleted what would come next, `offset` is the first that is left; the gap is counted.
        """
        self._is_new = self.stored is None
        if self._is_new:
            self._state.own.account[()] = Account(offset, offset, {})
        self._first_left = offset
        self._start_over()
        self._ids.begin(offset for _, chunk in self._state.own.rejected.present() for offset in chunk)

    @property
    def window_begin(self) -> int:
        """The offset from which the source has to be read, up to the account's, to know the same ids."""
        return self._ids.first_offset(self.account.next_offset)

    def know(self, offset: int, event_id: str) -> None:
        """Know the id of an event before the account's offset, read again, unless it was a dead letter."""
        self._ids.know(offset, event_id)

    def know_all(self, first_offset: int, id_numbers: Numbers) -> bool:
        """Know the ids of events of consecutive offsets before the account's; `id_numbers` as in `EventColumns`.

        False, and nothing happened, if one was a dead letter or a duplicate: `know` is for each of them.
        """
        return self._ids.know_all(first_offset, id_numbers)

    @property
    def is_new(self) -> bool:
        """Whether nothing of this partition was ever committed."""
        return self._is_new

    @property
    def next_offset(self) -> int:
        """The offset of the next record, pending ones included."""
        return self._tally.next_offset

    @property
    def account(self) -> Account:
        """The account as committed."""
        account = self.stored
        if account is None:
            raise AssertionError("begin() comes first")
        return account

    @property
    def has_changes(self) -> bool:
        """Whether the next transaction has something to write for this partition."""
        return self._is_new or self.next_offset != self.account.next_offset or self._state.has_changes

    def apply(self, offset: int, event: HypervisorEvent, seen_at_ms: int) -> tuple[Result, Sequence[O]]:
        """Fold one event, unless its id was seen in the window.

        Raises:
            InvalidPayload: The event doesn't fit its type; it was not taken, `reject` is to be called.
        """
        outputs: Sequence[O] | None = ()
        if self._ids.window.is_repeated(offset, event.event_id):
            result = Result.DUPLICATE
        else:
            try:
                outputs = self._fold.apply(self.pending, event, seen_at_ms)
            except InvalidPayload:
                self._ids.window.forget(event.event_id)
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
        if batches is None or not self._ids.window.all_new(first_offset, columns.id_numbers):
            return None
        folded = batches.take(columns, seen_at_ms)
        if folded is None:
            self._ids.window.take_back()
            return None
        ignored = folded.ignored
        applied = len(columns) - ignored
        self._tally.passed_all(first_offset, {Result.APPLIED.value: applied, Result.IGNORED.value: ignored})
        return [(first_offset + index, output) for index, output in folded.outputs]

    def ignore(self, offset: int) -> None:
        """Count a record that is for another service."""
        self._tally.passed(offset, Result.IGNORED.value)

    def take_output(self, offset: int) -> None:
        """Count a record that holds an output, not an event: it was refused once, and its event counted then."""
        self._tally.passed(offset, Result.APPLIED.value)

    def reject(self, offset: int, reason: str) -> None:
        """Count a record that can't be used; it becomes a dead letter."""
        self._tally.passed(offset, reason)
        self._rejected.append(offset)

    def advance(self, next_offset: int) -> None:
        """Count the offsets up to `next_offset`: none of them holds a record."""
        self._tally.advance(next_offset)

    def lose(self, next_offset: int) -> None:
        """Count the offsets up to `next_offset`: retention has deleted them unread."""
        self._tally.lose(next_offset)

    def seen(self, published_ms: int) -> None:
        """Note when the record that was passed last was published, since 1970."""
        self._tally.seen(published_ms)

    def expire(self, now_ms: int) -> Sequence[O]:
        """Let the fold remove what has been idle too long at `now_ms`, since 1970."""
        return self._fold.expire(self.pending, now_ms)

    def changes(self) -> Iterator[Change]:
        """The records of the changelog for all that is pending, the account among them."""
        own = self._state.pending_own
        own.account[()] = self._tally.account()
        for index in range(0, len(self._rejected), MAX_REJECTED_IN_ROW):
            chunk = self._rejected[index : index + MAX_REJECTED_IN_ROW]
            own.rejected[(str(chunk[0]),)] = chunk
        self._forget_rejected(self._ids.first_offset(self.next_offset))
        self._sent = self.next_offset
        self.settle()
        return self._state.changes()

    def _forget_rejected(self, begin: int) -> None:
        """Remove the offsets of dead letters before the window; it moves once in many commits."""
        if begin != self._pruned_to:
            rejected = self._state.pending_own.rejected
            for key, chunk in self._state.own.rejected.present():
                if chunk[-1] < begin:
                    rejected[key] = None
        self._sent_pruned_to = begin

    def commit(self) -> None:
        """Merge what `changes` gave: it is committed."""
        if self.next_offset != self._sent:
            raise AssertionError("records were taken while a transaction was under way")
        self._is_new = False
        self._pruned_to = self._sent_pruned_to
        self._state.merge()
        self._ids.window.mark()
        self._start_over()

    def rollback(self) -> int:
        """Forget what is pending. Returns the offset to read again from."""
        self._state.discard()
        self._ids.window.rollback()
        self._start_over()
        return self.next_offset

    def _start_over(self) -> None:
        """Go on where the account ends, or at what is left of the log behind that."""
        if self._batches is not None:
            self._batches.drop()
        self._rejected = []
        self._tally = Tally(self.account)
        self._tally.lose(self._first_left)
