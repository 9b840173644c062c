"""The numbers that this copy may show: committed, caught up, and for as long as its lease lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from hypervisor_consumers.runtime.commit.lease import Lease
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment, Phase
from hypervisor_consumers.runtime.partitions.fold_partition import FoldPartition
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.partitions.restoration import TableRows

__all__ = ["Content", "Shown", "Visibility"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols

Content: TypeAlias = FoldPartition[S, O] | TableRows
"""The content of an assigned partition of a service with a fold."""


@dataclass(frozen=True, slots=True)
class Shown(Generic[S]):
    """A snapshot of what may be shown, that nobody changes."""

    states: Mapping[int, S]
    """The committed state of each partition of the source."""
    rows: Mapping[int, Mapping[Any, Any]]
    """The rows of each partition of the public table."""
    state_partitions: int | None
    """The partition count of the source when its state began, if it is known."""
    accounts: Mapping[int, Account] = field(default_factory=dict)
    """Up to where the log is in the committed state, per partition of the source."""


class Visibility(Generic[S, O]):
    """Decides what is shown, and keeps it still while it is looked at.

    Args:
        assignment: The partitions of this copy.
        lease: How long the last transaction is good for.
        now: Seconds since 1970.
        on_shown: Called with each partition from when it is shown.
    """

    def __init__(
        self,
        assignment: Assignment[Content[S, O]],
        lease: Lease,
        now: Callable[[], float],
        on_shown: Callable[[AssignedPartition[Content[S, O]]], None],
    ) -> None:
        self._assignment = assignment
        self.lease = lease
        self._now = now
        self._on_shown = on_shown
        self.lock = threading.Lock()
        """Held while what is shown changes, and while it is looked at."""

    def show_caught_up(self) -> None:
        """Show what was restored and has caught up with what was shown before.

        As a rule nothing more was shown. But a commit that was shown can have been undone (see
        `kafka.hanging_transactions`), and nobody may know: so where there is something to read, the next commit
        comes first, for a while.
        """
        now = self._now()
        for one in self._assignment:
            if one.phase is not Phase.CATCHING_UP:
                continue
            content = one.content
            if isinstance(content, TableRows) or content.has_caught_up(now):
                with self.lock:
                    one.caught_up()
                self._on_shown(one)

    def may_show(self) -> bool:
        """Whether the lease has not run out."""
        return self.lease.is_valid

    def shown(self, state_partitions: int | None) -> Shown[S]:
        """A snapshot of what may be shown now: nothing, if the lease has run out."""
        with self.lock:
            if not self.lease.is_valid:
                return Shown({}, {}, None)
            states: dict[int, S] = {}
            accounts: dict[int, Account] = {}
            rows: dict[int, Mapping[Any, Any]] = {}
            for one in self._assignment:
                if one.phase is Phase.SHOWN:
                    number, content = one.topic_partition.partition, one.content
                    if isinstance(content, TableRows):
                        rows[number] = content.rows.copy()
                    else:
                        states[number] = content.partition.snapshot()
                        accounts[number] = content.partition.account
            return Shown(states, rows, state_partitions, accounts)
