"""Ring events to counts, current rings and elevations, one state per partition or bus. Pure.

The functions below the fold give an agent's view over all its sessions, which may lie in several states.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Never, TypeAlias

from hypervisor_consumers.ring_metrics.names import ELEVATION_BUCKETS
from hypervisor_consumers.runtime.contract import Fold
from hypervisor_schemas.events import EventType, HypervisorEvent, type_value
from hypervisor_schemas.payloads import RingPayload, read_payload
from hypervisor_schemas.timestamps import microseconds

__all__ = [
    "RING_EVENT_TYPES",
    "UNKNOWN",
    "AgentSession",
    "EndedElevation",
    "RingChange",
    "RingFold",
    "RingState",
    "current_rings",
    "elevation_seconds",
    "elevations_active",
    "ended_durations",
    "running_elevations",
]

UNKNOWN = "unknown"
"""Stands for an absent (or empty) agent or session, as in the package."""

AgentSession: TypeAlias = tuple[str, str]
"""Agent, session."""

RingChange: TypeAlias = tuple[int, str, int]
"""Event time in µs since 1970, event id, ring. Plain, as `EndedElevation`: one is made per event."""

EndedElevation: TypeAlias = tuple[int, str, int]
"""Event time of its end in µs since 1970, event id of its end, duration in µs."""

RING_EVENT_TYPES: tuple[EventType, ...] = (
    EventType.RING_ASSIGNED,
    EventType.RING_ELEVATED,
    EventType.RING_DEMOTED,
    EventType.RING_ELEVATION_EXPIRED,
    EventType.RING_BREACH_DETECTED,
)
"""What the fold counts; every other event is ignored."""

_BREACH = EventType.RING_BREACH_DETECTED.value
_ELEVATED = EventType.RING_ELEVATED.value
_END = frozenset({EventType.RING_DEMOTED.value, EventType.RING_ELEVATION_EXPIRED.value})
_TRANSITIONS = frozenset({EventType.RING_ASSIGNED.value, _ELEVATED}) | _END

# Reading an enum member's value takes longer than looking it up: members are strings and hash as such.
_VALUES: Mapping[str, str] = {member.value: member.value for member in RING_EVENT_TYPES}

_BOUNDS = tuple(bound * 1_000_000 for bound in ELEVATION_BUCKETS)
_BUCKETS = (*(str(bound) for bound in ELEVATION_BUCKETS), "+Inf")


@dataclass(slots=True)
class RingState:
    """What the ring events of one partition or bus add up to."""

    transitions: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Event type, agent, session -> events."""

    breaches: dict[AgentSession, int] = field(default_factory=dict)

    rings: dict[AgentSession, RingChange] = field(default_factory=dict)
    """The change that decided the current ring."""

    running: dict[AgentSession, int] = field(default_factory=dict)
    """The elevations that have not ended: event time of the start in µs since 1970."""

    ended: dict[AgentSession, EndedElevation] = field(default_factory=dict)
    """The elevation that ended last, by event time."""

    elevations: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Histogram of ended elevations: upper bound in seconds ("+Inf" above all) -> how many, their sum in µs."""


class RingFold(Fold[RingState, Never]):
    """The rules, those of the seed and the package; where the package is wrong, `test_oracle_ring` says so."""

    def new_state(self) -> RingState:
        """No events yet."""
        return RingState()

    def apply(self, state: RingState, event: HypervisorEvent) -> tuple[()] | None:
        """Count one ring event. No outputs; None for any other event.

        Within one agent and session the ring and the last ended elevation go by event time, and among equals by
        arrival; an elevation's clock is started, started again and stopped by arrival.

        Raises:
            InvalidPayload: A transition's ring is no ring; `state` is as it was.
        """
        kind = _VALUES.get(event.event_type) or type_value(event.event_type)
        agent = event.agent_did or UNKNOWN
        session = event.session_id or UNKNOWN
        who = (agent, session)
        if kind == _BREACH:
            state.breaches[who] = state.breaches.get(who, 0) + 1
            return ()
        if kind not in _TRANSITIONS:
            return None

        # Everything that can fail comes before the first change of the state.
        ring = read_payload(event.payload, RingPayload, numbers_in_strings=True).new_ring
        at = microseconds(event.timestamp)
        series = (kind, agent, session)
        state.transitions[series] = state.transitions.get(series, 0) + 1
        if ring is not None:
            current = state.rings.get(who)
            if current is None or at >= current[0]:
                state.rings[who] = (at, event.event_id, ring)
        if kind == _ELEVATED:
            state.running[who] = at
        elif kind in _END:
            start = state.running.pop(who, None)
            if start is not None:
                _end_elevation(state, who, at, event.event_id, max(at - start, 0))
        return ()


def _end_elevation(state: RingState, who: AgentSession, at: int, event_id: str, duration: int) -> None:
    last = state.ended.get(who)
    if last is None or at >= last[0]:
        state.ended[who] = (at, event_id, duration)
    bucket = _BUCKETS[bisect_left(_BOUNDS, duration)]
    count, total = state.elevations.get(bucket, (0, 0))
    state.elevations[bucket] = (count + 1, total + duration)


def current_rings(states: Iterable[RingState]) -> dict[str, int]:
    """Every agent's ring: the one with the greatest event time over its sessions, then the greatest event id."""
    return {agent: ring for agent, (_, _, ring) in _latest(state.rings for state in states).items()}


def ended_durations(states: Iterable[RingState]) -> dict[str, float]:
    """Every agent's elevation that ended last over its sessions (then the greatest event id), in seconds."""
    return {agent: length / 1e6 for agent, (_, _, length) in _latest(state.ended for state in states).items()}


def running_elevations(states: Iterable[RingState]) -> dict[str, float]:
    """When every elevated agent's oldest running elevation began, in seconds since 1970."""
    oldest: dict[str, int] = {}
    for state in states:
        for (agent, _), start in state.running.items():
            oldest[agent] = min(start, oldest.get(agent, start))
    return {agent: start / 1e6 for agent, start in oldest.items()}


def elevations_active(states: Iterable[RingState]) -> dict[str, int]:
    """In how many sessions every agent is elevated; 0 for one that was and is no longer."""
    active: dict[str, int] = {}
    for state in states:
        for agent, _ in state.ended:
            active.setdefault(agent, 0)
        for agent, _ in state.running:
            active[agent] = active.get(agent, 0) + 1
    return active


def elevation_seconds(states: Iterable[RingState], now: float) -> dict[str, float]:
    """Every agent's oldest running elevation, its age at `now` (seconds since 1970), else the last that ended."""
    kept = list(states)
    ages = {agent: max(now - start, 0.0) for agent, start in running_elevations(kept).items()}
    return ended_durations(kept) | ages


def _latest(per_session: Iterable[dict[AgentSession, tuple[int, str, int]]]) -> dict[str, tuple[int, str, int]]:
    latest: dict[str, tuple[int, str, int]] = {}
    for sessions in per_session:
        for (agent, _), entry in sessions.items():
            best = latest.get(agent)
            if best is None or entry > best:
                latest[agent] = entry
    return latest
