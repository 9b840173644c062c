"""A line of the table: a figure, the alternative beside it, its floor and its goal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Curve", "Row", "outcome"]


@dataclass(frozen=True)
class Row:
    """Measured in rounds. With something `beside` it the figure is how many times as good ours is, to be `floor`
    at least; without, it is ours itself, `floor` at most.

    A unit that ends in "/s" is better the greater it is, every other one the smaller.
    """

    what: str
    unit: str
    ours: Sequence[float]
    beside: str = ""
    theirs: Sequence[float] = ()
    floor: float | None = None
    goal: float | None = None
    note: str = ""
    """A note on the figure: a difference that can't be removed, or a fact needed to read it."""

    @property
    def figure(self) -> float:
        ours = statistics.median(self.ours)
        if not self.theirs:
            return ours
        theirs = statistics.median(self.theirs)
        return ours / theirs if self.unit.endswith("/s") else theirs / ours

    def reaches(self, aim: float) -> bool:
        return self.figure >= aim if self.theirs else self.figure <= aim

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ours": list(self.ours), "theirs": list(self.theirs)}


def outcome(row: Row) -> str:
    """Return one word: "goal", "floor" or "below"; without a floor, none."""
    if row.floor is None:
        return ""
    if not row.reaches(row.floor):
        return "below"
    return "floor" if row.goal is None or not row.reaches(row.goal) else "goal"


@dataclass(frozen=True)
class Curve:
    """A curve of figures as the work grows; one plot."""

    title: str
    x: str
    y: str
    lines: dict[str, Sequence[tuple[float, float]]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
