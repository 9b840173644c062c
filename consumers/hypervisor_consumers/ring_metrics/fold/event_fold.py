"""Ring events to counts, current rings and elevations, one event after another. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping
from typing import Never, TypeAlias

import msgspec

from hypervisor_consumers.ring_metrics.fold.state import (
    ELEVATION_BOUNDS_US,
    OVERFLOW,
    AgentSession,
    RingSeries,
    RingState,
    count_elevations,
)
from hypervisor_consumers.ring_metrics.metric_defs import RING_TRANSITIONS
from hypervisor_consumers.runtime.ops.cardinality import UNKNOWN
from hypervisor_consumers.runtime.protocols import Fold
from hypervisor_schemas.events import EventType, HypervisorEvent, type_value
from hypervisor_schemas.payloads import RingPayload, read_payload
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.timestamps import microseconds

__all__ = ["RING_EVENT_TYPES", "TRANSITION_TYPES", "RingFold"]

RING_EVENT_TYPES: tuple[EventType, ...] = (
    EventType.RING_ASSIGNED,
    EventType.RING_ELEVATED,
    EventType.RING_DEMOTED,
    EventType.RING_ELEVATION_EXPIRED,
    EventType.RING_BREACH_DETECTED,
)
"""The event types that are counted, in the order of the first fields of `RingSeries`; others are ignored."""

TRANSITION_TYPES: tuple[str, ...] = tuple(kind.value for kind in RING_EVENT_TYPES[:4])
"""The values of the types that a transition is of; breaches are none."""

_BREACH = EventType.RING_BREACH_DETECTED.value
_ELEVATED = EventType.RING_ELEVATED.value
_END = frozenset({EventType.RING_DEMOTED.value, EventType.RING_ELEVATION_EXPIRED.value})

_Counts: TypeAlias = tuple[int, int, int, int, int]
"""Increments of the first five fields of a `RingSeries`."""

# By the plain value: members are strings and hash as such, and reading the value of a member takes longer than a
# look-up.
_INCREMENTS: Mapping[str, tuple[str, _Counts]] = {
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

_NEW = RingSeries()


class RingFold(Fold[RingState, Never]):
    """The rules of the seed and the package; `test_oracle_ring` names the cases in which the package is wrong.

    Args:
        series_ttl_ms: A series expires when it is idle for longer.
        elevation_max_ms: A series with a running elevation expires no sooner than this, if that is later.
        max_series: The most series that a state holds. Beyond them, events of a new series are counted in
            `OVERFLOW`, and its ring and elevation are not kept.
        labels: The labels that the counters keep. Agent or session, if left out, are summed up in the state: a sum
            over the series that are shown would fall when one of them expires. A change of the labels starts the
            counters anew; the former counts stay, not shown, until they are idle.
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

    def new_state(self) -> RingState:
        """No events yet."""
        return RingState()

    def apply(self, state: RingState, event: HypervisorEvent, seen_at_ms: int = 0) -> tuple[()] | None:
        """Count one ring event. No outputs; None for any other event.

        Within one agent and session the ring and the last ended elevation go by event time, and among equal times
        by arrival; the clock of an elevation is started, restarted and stopped by arrival.

        Raises:
            InvalidPayload: A transition's ring is no ring; `state` is as it was.
        """
        found = _INCREMENTS.get(event.event_type) or _INCREMENTS.get(type_value(event.event_type))
        if found is None:
            return None
        kind, increments = found
        move = _NO_MOVE
        if kind != _BREACH:
            ring = read_payload(event.payload, RingPayload, numbers_in_strings=True).new_ring
            move = (kind, ring, microseconds(event.timestamp), event.event_id)

        # Everything that can fail is done; from here on the state changes.
        key = (event.agent_did or UNKNOWN, event.session_id or UNKNOWN)
        if self._counts_apart:
            self._apply_apart(state, key, increments, move, seen_at_ms)
        elif not self._change(state, key, increments, move, seen_at_ms):
            _count_overflow(state, increments, seen_at_ms)
        return ()

    def expire(self, state: RingState, now_ms: int) -> tuple[()]:
        """Remove the series that have been idle too long at `now_ms`, milliseconds since 1970. No outputs."""
        oldest_ms = now_ms - self._series_ttl_ms
        oldest_elevated_ms = now_ms - self._elevated_ttl_ms
        for key, series in state.series.present():
            if series.seen_at_ms < (oldest_ms if series.elevated_since_us is None else oldest_elevated_ms):
                state.series.remove(key)
        return ()

    def _apply_apart(
        self, state: RingState, key: AgentSession, increments: _Counts, move: _Move, seen_at_ms: int
    ) -> None:
        counts_key = (key[0] if self._agent_counts else "", key[1] if self._session_counts else "")
        is_counted = self._change(state, counts_key, increments, _NO_MOVE, seen_at_ms)
        kind, ring, _, _ = move
        # An agent and session that is only counted has no series; if it has one, every event keeps it from idling.
        has_series = ring is not None or kind == _ELEVATED or state.series[key] is not None
        is_kept = not has_series or self._change(state, key, _NO_COUNTS, move, seen_at_ms)
        if not (is_counted and is_kept):
            _count_overflow(state, _NO_COUNTS if is_counted else increments, seen_at_ms)

    def _change(
        self, state: RingState, key: AgentSession, increments: _Counts, move: _Move, seen_at_ms: int
    ) -> bool:
        """Change one series. False if it would be a new one and there is no room for it."""
        series = state.series
        old = series[key]
        if old is None:
            if series.size >= self._max_series:
                return False
            series.add(key, _changed(_NEW, increments, move, seen_at_ms))
            return True
        new = series[key] = _changed(old, increments, move, seen_at_ms)
        if old.elevated_since_us is not None and new.elevated_since_us is None:
            duration_us = max(move[2] - old.elevated_since_us, 0)
            count_elevations(state, bisect_left(ELEVATION_BOUNDS_US, duration_us), 1, duration_us)
        return True


def _changed(old: RingSeries, increments: _Counts, move: _Move, seen_at_ms: int) -> RingSeries:
    assigned, elevated, demoted, elevation_expired, breaches = increments
    kind, ring, at_us, event_id = move
    ring_at_us, ring_event_id = at_us, event_id
    if ring is None or (old.ring is not None and at_us < old.ring_at_us):
        ring, ring_at_us, ring_event_id = old.ring, old.ring_at_us, old.ring_event_id
    since_us = old.elevated_since_us
    ended_at_us, ended_event_id, ended_duration_us = old.ended_at_us, old.ended_event_id, old.ended_duration_us
    if kind == _ELEVATED:
        since_us = at_us
    elif since_us is not None and kind in _END:
        if ended_at_us is None or at_us >= ended_at_us:
            ended_at_us, ended_event_id, ended_duration_us = at_us, event_id, max(at_us - since_us, 0)
        since_us = None
    # By position: this runs once per event, and by name it would take a third longer.
    return RingSeries(
        old.assigned + assigned,
        old.elevated + elevated,
        old.demoted + demoted,
        old.elevation_expired + elevation_expired,
        old.breaches + breaches,
        ring,
        ring_at_us,
        ring_event_id,
        since_us,
        ended_at_us,
        ended_event_id,
        ended_duration_us,
        seen_at_ms if seen_at_ms > old.seen_at_ms else old.seen_at_ms,  # noqa: FURB136 - per event; max() is slower
        old.overflowed,
    )


def _count_overflow(state: RingState, increments: _Counts, seen_at_ms: int) -> None:
    old = state.series[OVERFLOW]
    changed = _changed(old or _NEW, increments, _NO_MOVE, seen_at_ms)
    new = msgspec.structs.replace(changed, overflowed=changed.overflowed + 1)
    if old is None:
        state.series.add(OVERFLOW, new)
    else:
        state.series[OVERFLOW] = new
