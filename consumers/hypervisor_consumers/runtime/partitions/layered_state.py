"""A fold's state in two layers: what is committed, and over it what the next transaction changes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hypervisor_consumers.runtime.partitions.changelog import Change, changes_of, load_change, tables_of
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.protocols import Fold, Table

__all__ = ["LayeredState", "OwnTables"]

S = TypeVar("S")


@dataclass(slots=True)
class OwnTables:
    """The runtime's own rows of a partition's state, beside the fold's."""

    account: Table[tuple[str, ...], Account] = field(default_factory=lambda: Table(Account))

    rejected: Table[tuple[str], list[int]] = field(default_factory=lambda: Table(list[int]))
    """The offsets of dead letters, under the first of each commit: their ids were not used, and may come again."""


class LayeredState(Generic[S]):
    """The state of one partition: reading `pending` reads through to `committed`.

    Args:
        number: The partition's, which stands in the keys of its changelog.
        fold: Makes empty states.
    """

    def __init__(self, number: int, fold: Fold[S, Any]) -> None:
        self._number = number
        self._fold = fold
        self.committed: S = fold.new_state()
        self.pending: S = fold.new_state()
        self.own, self.pending_own = OwnTables(), OwnTables()
        if taken := tables_of(self.committed).keys() & tables_of(self.own).keys():
            raise ValueError(f"A fold's tables can't be named {', '.join(sorted(taken))}: the runtime has such.")
        self._committed_tables = {**tables_of(self.committed), **tables_of(self.own)}
        self._pending_tables = {**tables_of(self.pending), **tables_of(self.pending_own)}
        for name, table in self._pending_tables.items():
            table.base = self._committed_tables[name]

    def load(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the changelog.

        Raises:
            StateError: It is not one of this service's state.
        """
        load_change(self._number, self._committed_tables, key, value)

    def snapshot(self) -> S:
        """A copy of what is committed; rows are immutable, so it costs one `dict` copy per table."""
        state = self._fold.new_state()
        for name, table in tables_of(state).items():
            table.update(self._committed_tables[name])
        return state

    @property
    def has_changes(self) -> bool:
        """Whether anything is pending."""
        return any(self._pending_tables.values())

    def changes(self) -> Iterator[Change]:
        """The records of the changelog for all that is pending."""
        return changes_of(self._number, self._pending_tables)

    def merge(self) -> None:
        """Make what is pending committed."""
        for table in self._pending_tables.values():
            table.merge_changes()

    def discard(self) -> None:
        """Forget what is pending."""
        for table in self._pending_tables.values():
            table.discard_changes()
