"""Declarations of metrics: each stands once, with a sentence. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["MetricDef"]


@dataclass(frozen=True, slots=True)
class MetricDef:
    """One metric. `labels` are those of every series; some series of a service have `partition` besides.

    `of` says to whom its series belong. Those of the log move with their partition from copy to copy and go on with
    the same numbers, so whoever scrapes them must not tell the copies apart; those of a process end with it.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    of: Literal["log", "process"] = "log"

    def labelled(self, values: Sequence[str]) -> dict[str, str]:
        """The label values of one series under their names."""
        return dict(zip(self.labels, values, strict=True))
