"""Ring events to counts, current rings and elevations, one state per partition or bus. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Never, TypeAlias

import msgspec

from hypervisor_consumers.ring_metrics.metric_defs import ELEVATION_BUCKETS, RING_TRANSITIONS
from hypervisor_consumers.runtime.ops.cardinality import OVERFLOW_LABEL, UNKNOWN
from hypervisor_consumers.runtime.protocols import Fold, PendingBatches, Table
from hypervisor_schemas.events import EventType, HypervisorEvent, type_value
from hypervisor_schemas.payloads import RingPayload, read_payload
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.timestamps import microseconds

if TYPE_CHECKING:
    # It needs numpy, which an agent's install doesn't have; there events come one by one.
    from hypervisor_consumers.ring_metrics.fold.key_interning import Origins

__all__ = [
    "ELEVATION_BOUNDS",
    "OVERFLOW",
    "RING_EVENT_TYPES",
    "TRANSITION_TYPES",
    "AgentSession",
    "EndedElevations",
    "RingFold",
    "RingSeries",
    "RingState",
    "count_elevations",
]

AgentSession: TypeAlias = tuple[str, str]
"""Agent, session. "" is never a real one: it stands for a label that is left out."""

OVERFLOW: AgentSession = (OVERFLOW_LABEL, OVERFLOW_LABEL)
"""The series that counts what found no place of its own."""

RING_EVENT_TYPES: tuple[EventType, ...] = (
    EventType.RING_ASSIGNED,
    EventType.RING_ELEVATED,
    EventType.RING_DEMOTED,
    EventType.RING_ELEVATION_EXPIRED,
    EventType.RING_BREACH_DETECTED,
)
"""What the fold counts; every other event is ignored."""

TRANSITION_TYPES: tuple[str, ...] = tuple(kind.value for kind in RING_EVENT_TYPES[:4])

_BREACH = EventType.RING_BREACH_DETECTED.value
_ELEVATED = EventType.RING_ELEVATED.value
_END = frozenset({EventType.RING_DEMOTED.value, EventType.RING_ELEVATION_EXPIRED.value})

_Counts: TypeAlias = tuple[int, int, int, int, int]
"""What is added to the first five fields of a `RingSeries`."""

# With the plain value, since reading that of an enum member takes longer than a look-up: members are strings and
# hash as such.
_COUNTED: Mapping[str, tuple[str, _Counts]] = {
    EventType.RING_ASSIGNED.value: (EventType.RING_ASSIGNED.value, (1, 0, 0, 0, 0)),
    _ELEVATED: (_ELEVATED, (0, 1, 0, 0, 0)),
    EventType.RING_DEMOTED.value: (EventType.RING_DEMOTED.value, (0, 0, 1, 0, 0)),
    EventType.RING_ELEVATION_EXPIRED.value: (EventType.RING_ELEVATION_EXPIRED.value, (0, 0, 0, 1, 0)),
    _BREACH: (_BREACH, (0, 0, 0, 0, 1)),
}
_NO_COUNTS: _Counts = (0, 0, 0, 0, 0)
_Move: TypeAlias = tuple[str, int | None, int, str]
"""Event type, new ring, event time in µs, event id."""
_NO_MOVE: _Move = ("", None, 0, "")

ELEVATION_BOUNDS = tuple(bound * 1_000_000 for bound in ELEVATION_BUCKETS)
"""Of the histogram's buckets but the last, in µs; inclusive."""
_BUCKETS = (*(str(bound) for bound in ELEVATION_BUCKETS), "+Inf")
_MOST_MICROSECONDS = 2**63 - 1


class RingSeries(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the events of one agent and session add up to. Times are event times in µs since 1970.

    Written to the changelog as an array: a new field goes to the end and has a default.
    """

    assigned: int = 0
    elevated: int = 0
    demoted: int = 0
    elevation_expired: int = 0
    breaches: int = 0
    ring: int | None = None
    """As the change with the greatest event time had it, which the next two describe; None: none named a ring."""
    ring_at: int = 0
    ring_event_id: str = ""
    elevated_since: int | None = None
    """Start of the elevation that has not ended."""
    ended_at: int | None = None
    """End of the elevation that ended last by event time, which the next two describe."""
    ended_event_id: str = ""
    ended_duration: int = 0
    """In µs."""
    seen_at: int = 0
    """What idleness is counted from, in milliseconds since 1970: the greatest `seen_at` of its events."""
    overflowed: int = 0
    """Of the overflow series: the events of which anything found no place."""

    @property
    def transitions(self) -> tuple[int, int, int, int]:
        """The counts in the order of `TRANSITION_TYPES`."""
        return self.assigned, self.elevated, self.demoted, self.elevation_expired


class EndedElevations(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One bucket of the histogram of ended elevations."""

    count: int = 0
    microseconds: int = 0
    """Their sum."""


@dataclass(slots=True)
class RingState:
    """What the ring events of one partition or bus add up to."""

    series: Table[AgentSession, RingSeries] = field(default_factory=lambda: Table(RingSeries))
    """Counts, rings and elevations by agent and session.

    With a label left out, counts lie under keys that have "" in its place, and rings and elevations apart from
    them, under agent and session.
    """

    elevations: Table[tuple[str], EndedElevations] = field(default_factory=lambda: Table(EndedElevations))
    """Histogram of ended elevations by upper bound in seconds, "+Inf" above all."""


_NEW = RingSeries()
_EMPTY = EndedElevations()


class RingFold(Fold[RingState, Never]):
    """The rules, those of the seed and the package; where the package is wrong, `test_oracle_ring` says so.

    Args:
        series_ttl_ms: A series idle for longer expires.
        elevation_max_ms: A series with a running elevation expires no sooner than this, if that is later.
        max_series: How many series a state holds. Beyond them, a new one's events are counted in `OVERFLOW`, and
            their rings and elevations are not kept.
        labels: The labels that the counters keep. What is left out of agent and session is summed in the state:
            sums over what is shown would fall when a series expires. Changing it starts the counters anew; what
            was counted before stays, not shown, until it is idle.
    """

    def __init__(
        self,
        *,
        series_ttl_ms: int = 1000 * Settings.SERIES_TTL.default,
        elevation_max_ms: int = 1000 * Settings.ELEVATION_MAX.default,
        max_series: int = Settings.MAX_SERIES.default,
        labels: Collection[str] = RING_TRANSITIONS.labels,
    ) -> None:
        self._series_ttl_ms = series_ttl_ms
        self._elevated_ttl_ms = max(series_ttl_ms, elevation_max_ms)
        self._max_series = max_series
        self._agent_counts = "agent_did" in labels
        self._session_counts = "session_id" in labels
        self._counts_apart = not (self._agent_counts and self._session_counts)
        self._origins: Origins | None = None

    def new_state(self) -> RingState:
        """No events yet."""
        return RingState()

    def apply(self, state: RingState, event: HypervisorEvent, seen_at: int = 0) -> tuple[()] | None:
        """Count one ring event. No outputs; None for any other event.

        Within one agent and session the ring and the last ended elevation go by event time, and among equals by
        arrival; an elevation's clock is started, started again and stopped by arrival.

        Raises:
            InvalidPayload: A transition's ring is no ring; `state` is as it was.
        """
        counted = _COUNTED.get(event.event_type) or _COUNTED.get(type_value(event.event_type))
        if counted is None:
            return None
        kind, one = counted
        move = _NO_MOVE
        if kind != _BREACH:
            ring = read_payload(event.payload, RingPayload, numbers_in_strings=True).new_ring
            move = (kind, ring, microseconds(event.timestamp), event.event_id)

        # Everything that can fail is behind us; from here on the state changes.
        who = (event.agent_did or UNKNOWN, event.session_id or UNKNOWN)
        if self._counts_apart:
            self._apply_apart(state, who, one, move, seen_at)
        elif not self._change(state, who, one, move, seen_at):
            _count_overflow(state, one, seen_at)
        return ()

    def batches(self, state: RingState) -> PendingBatches | None:
        """As `ColumnFold` has it; None with labels left out."""
        if self._counts_apart:
            return None
        # They need numpy, as does who calls.
        from hypervisor_consumers.ring_metrics.fold.batch_fold import RingBatches  # noqa: PLC0415
        from hypervisor_consumers.ring_metrics.fold.key_interning import Origins  # noqa: PLC0415

        self._origins = self._origins or Origins()
        return RingBatches(state, self._origins, self._max_series)

    def expire(self, state: RingState, now: int) -> tuple[()]:
        """Remove the series that have been idle too long at `now`, in milliseconds since 1970. No outputs."""
        oldest = now - self._series_ttl_ms
        oldest_elevated = now - self._elevated_ttl_ms
        for key, series in state.series.present():
            if series.seen_at < (oldest if series.elevated_since is None else oldest_elevated):
                state.series.remove(key)
        return ()

    def _apply_apart(self, state: RingState, who: AgentSession, one: _Counts, move: _Move, seen_at: int) -> None:
        counts_key = (who[0] if self._agent_counts else "", who[1] if self._session_counts else "")
        counted = self._change(state, counts_key, one, _NO_MOVE, seen_at)
        kind, ring, _, _ = move
        # A series that is only counted has no entry; any event of one that has keeps it from being idle.
        concerned = ring is not None or kind == _ELEVATED or state.series[who] is not None
        kept = not concerned or self._change(state, who, _NO_COUNTS, move, seen_at)
        if not (counted and kept):
            _count_overflow(state, _NO_COUNTS if counted else one, seen_at)

    def _change(self, state: RingState, key: AgentSession, counts: _Counts, move: _Move, seen_at: int) -> bool:
        """Change one series. False if it would be a new one and there is no place for it."""
        series = state.series
        old = series[key]
        if old is None:
            if series.size >= self._max_series:
                return False
            series.add(key, _changed(_NEW, counts, move, seen_at))
            return True
        new = series[key] = _changed(old, counts, move, seen_at)
        if old.elevated_since is not None and new.elevated_since is None:
            _count_elevation(state, max(move[2] - old.elevated_since, 0))
        return True


def _changed(old: RingSeries, counts: _Counts, move: _Move, seen_at: int) -> RingSeries:
    assigned, elevated, demoted, elevation_expired, breaches = counts
    kind, ring, at, event_id = move
    ring_at, ring_event_id = at, event_id
    if ring is None or (old.ring is not None and at < old.ring_at):
        ring, ring_at, ring_event_id = old.ring, old.ring_at, old.ring_event_id
    since = old.elevated_since
    ended_at, ended_event_id, ended_duration = old.ended_at, old.ended_event_id, old.ended_duration
    if kind == _ELEVATED:
        since = at
    elif since is not None and kind in _END:
        if ended_at is None or at >= ended_at:
            ended_at, ended_event_id, ended_duration = at, event_id, max(at - since, 0)
        since = None
    # By position: this runs once per event, and by name it would take a third longer.
    return RingSeries(
        old.assigned + assigned,
        old.elevated + elevated,
        old.demoted + demoted,
        old.elevation_expired + elevation_expired,
        old.breaches + breaches,
        ring,
        ring_at,
        ring_event_id,
        since,
        ended_at,
        ended_event_id,
        ended_duration,
        seen_at if seen_at > old.seen_at else old.seen_at,  # noqa: FURB136 - called for each event, max() takes longer
        old.overflowed,
    )


def _count_overflow(state: RingState, counts: _Counts, seen_at: int) -> None:
    old = state.series[OVERFLOW]
    changed = _changed(old or _NEW, counts, _NO_MOVE, seen_at)
    new = msgspec.structs.replace(changed, overflowed=changed.overflowed + 1)
    if old is None:
        state.series.add(OVERFLOW, new)
    else:
        state.series[OVERFLOW] = new


def _count_elevation(state: RingState, duration: int) -> None:
    count_elevations(state, bisect_left(ELEVATION_BOUNDS, duration), 1, duration)


def count_elevations(state: RingState, number: int, count: int, microseconds: int) -> None:
    """Count elevations that ended, all of one bucket (by its number), and their sum."""
    bucket = (_BUCKETS[number],)
    old = state.elevations[bucket]
    known = old or _EMPTY
    # Clocks may say anything; a sum beyond 64 bits could not be written to the changelog.
    new = EndedElevations(known.count + count, min(known.microseconds + microseconds, _MOST_MICROSECONDS))
    if old is None:
        state.elevations.add(bucket, new)
    else:
        state.elevations[bucket] = new
