"""A partition of a service with a fold, while it is read: its state, and what goes with the next commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.partitions.pending import Pending, Rewrite
from hypervisor_consumers.runtime.records import Record

__all__ = ["CatchUp", "FoldPartition"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols


@dataclass(frozen=True, slots=True)
class CatchUp:
    """The goal of a restored partition: it is not shown before it has come to it."""

    restored_to: int
    """The offset up to which it counted when it was restored."""
    counted_to: int
    """The offset up to which was counted before, as far as it is known."""
    hidden_until: float
    """The time from which it is shown without having come on, in seconds since 1970."""
    began: float
    """The time when its restoring began, by the restorer's clock."""


@dataclass(slots=True)
class FoldPartition(Generic[S, O]):
    """A partition of the source that is read."""

    partition: Partition[S, O]
    catch_up: CatchUp
    next_expiry: float
    """The time to look for idle rows, in seconds since 1970."""
    pending: Pending[O] = field(default_factory=Pending)
    rewrite: Rewrite = field(default_factory=Rewrite)
    at_end: bool = False
    """Whether nothing has come since the log's end was reached."""
    heard_at_ms: int = 0
    """The time when the last record was published or read, whichever was earlier, in milliseconds since 1970."""

    def has_caught_up(self, now: float) -> bool:
        """Whether its numbers may be shown: they are not below some that were shown before."""
        offset, goal = self.partition.account.next_offset, self.catch_up
        has_come_on = offset > goal.restored_to or now >= goal.hidden_until
        return has_come_on and offset >= goal.counted_to

    def took(self, record: Record) -> None:
        """Note when a record that was taken was published."""
        if record.published_ms > 0:
            self.partition.seen(record.published_ms)
            self.pending.published_ms[record.published_ms] += 1

    def commit(self) -> None:
        """Merge what was pending: its transaction went through."""
        self.partition.commit()
        self.pending.clear()
        self.rewrite.committed()

    def rollback(self, *, without_topic: str | None) -> int:
        """Forget what was pending, after an abort. Returns the offset to read again from.

        Args:
            without_topic: The topic whose records of the last commit are not written once more.
        """
        self.rewrite.aborted(without_topic=without_topic)
        self.pending.clear()
        self.at_end = False
        return self.partition.rollback()
