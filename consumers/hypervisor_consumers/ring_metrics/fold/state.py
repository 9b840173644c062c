"""The state of ring-metrics: one per partition, or one per bus in an agent. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from hypervisor_consumers.ring_metrics.metric_defs import ELEVATION_BUCKETS_SECONDS
from hypervisor_consumers.runtime.ops.cardinality import OVERFLOW_LABEL
from hypervisor_consumers.runtime.protocols import Table

__all__ = [
    "ELEVATION_BOUNDS_US",
    "OVERFLOW",
    "AgentSession",
    "EndedElevations",
    "RingSeries",
    "RingState",
    "count_elevations",
]

AgentSession: TypeAlias = tuple[str, str]
"""Agent and session. "" is never a real one: it stands for a label that is left out."""

OVERFLOW: AgentSession = (OVERFLOW_LABEL, OVERFLOW_LABEL)
"""The series that counts the events for which there was no room in a series of their own."""

ELEVATION_BOUNDS_US = tuple(bound * 1_000_000 for bound in ELEVATION_BUCKETS_SECONDS)
"""Upper bounds (inclusive) of all buckets of the histogram but the last."""
_BUCKETS = (*(str(bound) for bound in ELEVATION_BUCKETS_SECONDS), "+Inf")
_MOST_MICROSECONDS = 2**63 - 1


class RingSeries(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The sum of the events of one agent and session. Times are event times since 1970, except `seen_at_ms`.

    Written to the changelog as an array: a new field goes to the end and has a default.
    """

    # size: a row of the state; its fields are the format of the changelog.

    assigned: int = 0
    elevated: int = 0
    demoted: int = 0
    elevation_expired: int = 0
    breaches: int = 0
    ring: int | None = None
    """The ring of the change with the greatest event time, which the next two describe; None before any."""
    ring_at_us: int = 0
    ring_event_id: str = ""
    elevated_since_us: int | None = None
    """Start of the elevation that has not ended."""
    ended_at_us: int | None = None
    """End of the elevation that ended last by event time, which the next two describe."""
    ended_event_id: str = ""
    ended_duration_us: int = 0
    seen_at_ms: int = 0
    """The time that idleness is counted from: the greatest `seen_at_ms` of its events."""
    overflowed: int = 0
    """Of the overflow series: the events that there was no room for, in whole or in part."""

    @property
    def transitions(self) -> tuple[int, int, int, int]:
        """The counts of all types but breaches, in the order of the fields."""
        return self.assigned, self.elevated, self.demoted, self.elevation_expired


class EndedElevations(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One bucket of the histogram of ended elevations."""

    count: int = 0
    microseconds: int = 0
    """The sum of their durations."""


@dataclass(slots=True)
class RingState:
    """The sum of the ring events of one partition or bus."""

    series: Table[AgentSession, RingSeries] = field(default_factory=lambda: Table(RingSeries))
    """Counts, rings and elevations by agent and session.

    With a label left out, counts lie under keys that have "" in its place, and rings and elevations lie apart from
    them, under agent and session.
    """

    elevations: Table[tuple[str], EndedElevations] = field(default_factory=lambda: Table(EndedElevations))
    """Histogram of ended elevations by upper bound in seconds; "+Inf" is the last."""


_EMPTY = EndedElevations()


def count_elevations(state: RingState, bucket_index: int, count: int, microseconds: int) -> None:
    """Count elevations that ended, all of one bucket, and the sum of their durations."""
    bucket = (_BUCKETS[bucket_index],)
    old = state.elevations[bucket]
    known = old or _EMPTY
    # Clocks may say anything; a sum beyond 64 bits could not be written to the changelog.
    new = EndedElevations(known.count + count, min(known.microseconds + microseconds, _MOST_MICROSECONDS))
    if old is None:
        state.elevations.add(bucket, new)
    else:
        state.elevations[bucket] = new
