"""What governance events add up to: the rows of a partition's state. Pure.

Rows are written to the changelog as arrays: a new field goes to the end and has a default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from hypervisor_consumers.runtime.protocols import Table
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS

__all__ = [
    "ALLOW",
    "AUDITED",
    "DENY",
    "NO_BUCKETS",
    "OVERFLOWED",
    "Decisions",
    "DecisionsKey",
    "Denials",
    "GovernanceState",
    "GovernedAgent",
]

ALLOW, DENY = "allow", "deny"

DecisionsKey: TypeAlias = tuple[str, str, str]
"""Decision, agent, tool. "" is never a real agent or tool: it stands for a label that is left out."""

AUDITED, OVERFLOWED = ("audit_events",), ("overflowed",)
"""The totals: audit events, and events of which anything found no place below the ceiling."""

NO_BUCKETS = (0,) * (len(LATENCY_BUCKETS_MS) + 1)


class Decisions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the decisions under one key add up to."""

    count: int = 0
    rate_limited: int = 0
    nanoseconds: int = 0
    """The sum of their latencies, in whole numbers: so it is the same in whatever order they are added."""
    buckets: tuple[int, ...] = NO_BUCKETS
    """How many latencies in each bucket, not summed up; decisions without one are in none."""
    seen_at: int = 0
    """What idleness is counted from, in milliseconds since 1970: the greatest `seen_at` of its events."""


class Denials(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How often one tool was denied."""

    count: int = 0
    seen_at: int = 0
    """As above."""


class GovernedAgent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is current of one agent. Times are event times in µs since 1970, but for `seen_at`."""

    score: float | None = None
    """Of the last event, by time and then id, that told one; the next two describe it."""
    score_at: int = 0
    score_event_id: str = ""
    spoke_at: int | None = None
    """Of the last event, by time and then id, that is the agent's own word: it registered, asked, deregistered."""
    spoke_event_id: str = ""
    has_left: bool = False
    """Whether that word was that it deregisters."""
    is_idle: bool = False
    """Whether nothing was heard of it for too long, when somebody looked last."""
    seen_at: int = 0
    """As above; every event of the agent counts."""

    @property
    def is_active(self) -> bool:
        """Whether it counts as an active agent."""
        return not (self.has_left or self.is_idle)


@dataclass(slots=True)
class GovernanceState:
    """What the governance events of one partition add up to."""

    decisions: Table[DecisionsKey, Decisions] = field(default_factory=lambda: Table(Decisions))
    denials: Table[tuple[str], Denials] = field(default_factory=lambda: Table(Denials))
    """By tool."""
    agents: Table[tuple[str], GovernedAgent] = field(default_factory=lambda: Table(GovernedAgent))
    totals: Table[tuple[str], int] = field(default_factory=lambda: Table(int))
