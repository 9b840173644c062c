"""The state of governance-metrics: one per partition. Pure.

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
"""The keys of the totals: audit events, and events that there was no room for, in whole or in part."""

NO_BUCKETS = (0,) * (len(LATENCY_BUCKETS_MS) + 1)


class Decisions(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The sum of the decisions of one key."""

    count: int = 0
    rate_limited: int = 0
    nanoseconds: int = 0
    """The sum of their latencies, in whole numbers, so that the order of adding makes no difference."""
    buckets: tuple[int, ...] = NO_BUCKETS
    """The number of latencies in each bucket, not cumulative. A decision without a latency is in no bucket."""
    seen_at_ms: int = 0
    """The time that idleness is counted from, since 1970: the greatest `seen_at_ms` of its events."""


class Denials(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The number of times that one tool was denied."""

    count: int = 0
    seen_at_ms: int = 0
    """As in `Decisions`."""


class GovernedAgent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The current values of one agent. Times are event times since 1970, except `seen_at_ms`."""

    score: float | None = None
    """The score of the last event, by time and then id, that has one; the next two describe that event."""
    score_at_us: int = 0
    score_event_id: str = ""
    spoke_at_us: int | None = None
    """The time of the agent's own last event, by time and then id: it registered, asked or deregistered."""
    spoke_event_id: str = ""
    has_left: bool = False
    """Whether that event was its deregistration."""
    is_idle: bool = False
    """Whether the last look for idle agents found that no event had come for too long."""
    seen_at_ms: int = 0
    """As in `Decisions`; every event of the agent counts."""

    @property
    def is_active(self) -> bool:
        """Whether the agent counts as active."""
        return not (self.has_left or self.is_idle)


@dataclass(slots=True)
class GovernanceState:
    """The sum of the governance events of one partition."""

    decisions: Table[DecisionsKey, Decisions] = field(default_factory=lambda: Table(Decisions))
    denials: Table[tuple[str], Denials] = field(default_factory=lambda: Table(Denials))
    """By tool."""
    agents: Table[tuple[str], GovernedAgent] = field(default_factory=lambda: Table(GovernedAgent))
    totals: Table[tuple[str], int] = field(default_factory=lambda: Table(int))
