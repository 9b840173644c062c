"""What changed in a table of immutable rows since it was looked at last. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress
from operator import is_not
from typing import Generic, NamedTuple, TypeVar

from hypervisor_consumers.ring_metrics.fold.state import AgentSession

__all__ = ["Changes", "KnownRows"]

R = TypeVar("R")


class Changes(NamedTuple):
    """Places in the lists of a `KnownRows`, rising."""

    gone: list[int]
    """Of rows that are there no more, as the lists were. Those behind them have moved up since."""
    rows: list[int]
    """Of rows that are new or other ones, as the lists are."""


class KnownRows(Generic[R]):
    """The rows as they were at the last look, each at its place; new ones come behind the others.

    A row is replaced, not changed: the same object says the same.
    """

    def __init__(self) -> None:
        self.keys: list[AgentSession] = []
        self.rows: list[R] = []

    def look(self, table: Mapping[AgentSession, R]) -> Changes:
        """Take over what there is now."""
        keys, rows = list(table), list(table.values())
        before, known = self.rows, len(self.keys)
        gone: list[int] = []
        # A table is in the order in which its keys came. To compare lists touches nothing that is in both.
        if (keys if len(keys) == known else keys[:known]) != self.keys:
            gone = self._gone(keys)
            is_gone = set(gone)
            before = [row for place, row in enumerate(before) if place not in is_gone]
        changed = [*compress(range(len(before)), map(is_not, rows, before)), *range(len(before), len(rows))]
        self.keys, self.rows = keys, rows
        return Changes(gone, changed)

    def _gone(self, keys: list[AgentSession]) -> list[int]:
        gone, at = [], 0
        for place, key in enumerate(self.keys):
            if at < len(keys) and keys[at] == key:
                at += 1
            else:
                gone.append(place)
        return gone
