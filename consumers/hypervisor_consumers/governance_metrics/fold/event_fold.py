"""Governance events to counts, trust scores and active agents, one event after another. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from typing import NamedTuple, Never, TypeAlias

import msgspec

from hypervisor_consumers.governance_metrics.fold.state import (
    ALLOW,
    AUDITED,
    DENY,
    OVERFLOWED,
    Decisions,
    DecisionsKey,
    Denials,
    GovernanceState,
    GovernedAgent,
)
from hypervisor_consumers.runtime.ops.cardinality import OVERFLOW_LABEL, UNKNOWN
from hypervisor_consumers.runtime.protocols import Fold
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import GovernanceEventType, HypervisorEvent, type_value
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS, PolicyDecision, TrustScore
from hypervisor_schemas.payloads import read_payload
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.timestamps import microseconds

__all__ = ["ABOUT_AN_AGENT", "GOVERNANCE_EVENT_TYPES", "GovernanceFold", "ParsedEvent", "Payload"]

GOVERNANCE_EVENT_TYPES: tuple[str, ...] = tuple(kind.value for kind in GovernanceEventType)
"""The event types that the fold uses; every other event is ignored."""

_DECISION, _SCORE, _AUDIT, _REGISTERED, _DEREGISTERED = (
    kind.value
    for kind in (
        GovernanceEventType.POLICY_DECISION,
        GovernanceEventType.TRUST_SCORE,
        GovernanceEventType.AUDIT_EVENT,
        GovernanceEventType.AGENT_REGISTERED,
        GovernanceEventType.AGENT_DEREGISTERED,
    )
)
_SENT_BY_THE_AGENT = frozenset({_DECISION, _REGISTERED, _DEREGISTERED})

ABOUT_AN_AGENT = frozenset({_SCORE, _REGISTERED, _DEREGISTERED})
"""The types that say nothing without an agent."""

Payload: TypeAlias = PolicyDecision | TrustScore | None
"""The payload of an event; None for a type whose payload isn't used."""


class ParsedEvent(NamedTuple):
    """The fields of a valid governance event that the fold uses."""

    kind: str
    payload: Payload
    agent: str
    """An absent one is ""."""
    time_us: int
    """Event time since 1970."""
    event_id: str
    seen_at_ms: int
    """As in `Fold.apply`."""


_NANOSECONDS_PER_MS = 1_000_000
_MOST_NANOSECONDS = 2**63 - 1
_MOST_MS = _MOST_NANOSECONDS / _NANOSECONDS_PER_MS

_NO_DECISIONS, _NO_DENIALS, _NEW = Decisions(), Denials(), GovernedAgent()


class GovernanceFold(Fold[GovernanceState, Never]):
    """The rules by which governance events change a state.

    An agent is active while it had an event within `agent_ttl_ms`, unless it has deregistered and has neither
    registered nor asked for a decision since, by event time.

    Args:
        series_ttl_ms: A series, and the current values of an agent, expire when they are idle for longer.
        agent_ttl_ms: An agent that is idle for longer is not active.
        max_series: The most that a state holds of each: series of decisions, denied tools, agents. Beyond them,
            decisions and denials are counted in an overflow series, and no current values of a new agent are kept.
        labels: The labels of the metrics per decision, `agent_id` and `tool_name` or one of them. A change starts
            the metrics anew; the former counts stay, not shown, until they are idle.
    """

    def __init__(
        self,
        *,
        series_ttl_ms: int = 1000 * Settings.SERIES_TTL.default,
        agent_ttl_ms: int = int(1000 * Settings.AGENT_TTL.default),
        max_series: int = Settings.MAX_SERIES.default,
        labels: Collection[str] = (),
    ) -> None:
        self._series_ttl_ms = series_ttl_ms
        self._agent_ttl_ms = agent_ttl_ms
        self._max_series = max_series
        self._keeps_agent = "agent_id" in labels
        self._keeps_tool = "tool_name" in labels

    def new_state(self) -> GovernanceState:
        """The state before the first event."""
        return GovernanceState()

    def apply(self, state: GovernanceState, event: HypervisorEvent, seen_at_ms: int = 0) -> tuple[()] | None:
        """Use one governance event. No outputs; None for any other event.

        Raises:
            InvalidPayload: The payload doesn't fit, or the agent is missing that the event is about.
        """
        kind = type_value(event.event_type)
        payload: Payload = None
        if kind == _DECISION:
            payload = read_payload(event.payload, PolicyDecision)
        elif kind == _SCORE:
            payload = read_payload(event.payload, TrustScore)
        elif kind not in GOVERNANCE_EVENT_TYPES:
            return None
        if kind in ABOUT_AN_AGENT and not event.agent_did:
            raise InvalidPayload(f"A {kind} without agent_did is about nobody; name the agent.")
        time_us = microseconds(event.timestamp)
        self.apply_parsed(
            state, ParsedEvent(kind, payload, event.agent_did or "", time_us, event.event_id, seen_at_ms)
        )
        return ()

    def apply_parsed(self, state: GovernanceState, event: ParsedEvent) -> None:
        """Change `state` by one event."""
        had_room = True
        if isinstance(event.payload, PolicyDecision):
            had_room = self._count(state, event.payload, event.agent, event.seen_at_ms)
        elif event.kind == _AUDIT:
            _add_one(state, AUDITED)
        if event.agent and not self._update_agent(state, event):
            had_room = False
        if not had_room:
            _add_one(state, OVERFLOWED)

    def expire(self, state: GovernanceState, now_ms: int) -> tuple[()]:
        """Remove what is idle too long at `now_ms`, milliseconds since 1970, and mark idle agents. No outputs."""
        oldest_ms, oldest_active_ms = now_ms - self._series_ttl_ms, now_ms - self._agent_ttl_ms
        for key, decisions in state.decisions.present():
            _, agent, tool = key
            # Without labels there are two series, which stay for ever.
            if decisions.seen_at_ms < oldest_ms and (agent or tool):
                state.decisions.remove(key)
        for tool_key, denials in state.denials.present():
            if denials.seen_at_ms < oldest_ms:
                state.denials.remove(tool_key)
        for agent_key, current in state.agents.present():
            if current.seen_at_ms < min(oldest_ms, oldest_active_ms):
                state.agents.remove(agent_key)
            elif current.seen_at_ms < oldest_active_ms and not current.is_idle:
                state.agents[agent_key] = msgspec.structs.replace(current, is_idle=True)
        return ()

    def _count(self, state: GovernanceState, payload: PolicyDecision, agent: str, seen_at_ms: int) -> bool:
        """Count a decision. False if it had to be counted in an overflow series."""
        decision = ALLOW if payload.allowed else DENY
        tool = payload.tool_name or UNKNOWN
        key = decision, (agent or UNKNOWN) if self._keeps_agent else "", tool if self._keeps_tool else ""
        had_room = self._count_decision(state, key, payload, seen_at_ms)
        return had_room if payload.allowed else self._count_denial(state, tool, seen_at_ms) and had_room

    def _count_decision(
        self, state: GovernanceState, key: DecisionsKey, payload: PolicyDecision, seen_at_ms: int
    ) -> bool:
        series = state.decisions
        old = series[key]
        has_labels = self._keeps_agent or self._keeps_tool
        has_room = old is not None or not has_labels or series.size < self._max_series
        if not has_room:
            key = (
                key[0],
                OVERFLOW_LABEL if self._keeps_agent else "",
                OVERFLOW_LABEL if self._keeps_tool else "",
            )
            old = series[key]
        if old is None:
            series.add(key, _with_decision(_NO_DECISIONS, payload, seen_at_ms))
        else:
            series[key] = _with_decision(old, payload, seen_at_ms)
        return has_room

    def _count_denial(self, state: GovernanceState, tool: str, seen_at_ms: int) -> bool:
        denials, key = state.denials, (tool,)
        old = denials[key]
        has_room = old is not None or denials.size < self._max_series
        if not has_room:
            key = (OVERFLOW_LABEL,)
            old = denials[key]
        known = old or _NO_DENIALS
        new = Denials(known.count + 1, max(seen_at_ms, known.seen_at_ms))
        if old is None:
            denials.add(key, new)
        else:
            denials[key] = new
        return has_room

    def _update_agent(self, state: GovernanceState, event: ParsedEvent) -> bool:
        """Replace an agent's current values after one of its events. False if there is no room for a new agent."""
        kind, payload, agent, time_us, event_id, seen_at_ms = event
        agents, key = state.agents, (agent,)
        found = agents[key]
        if found is None and agents.size >= self._max_series:
            return False
        old = found or _NEW
        score, score_at_us, score_event_id = old.score, old.score_at_us, old.score_event_id
        is_later = score is None or (time_us, event_id) >= (score_at_us, score_event_id)
        if isinstance(payload, TrustScore) and is_later:
            score, score_at_us, score_event_id = payload.score, time_us, event_id
        spoke_at_us, spoke_event_id, has_left = old.spoke_at_us, old.spoke_event_id, old.has_left
        if kind in _SENT_BY_THE_AGENT and (
            spoke_at_us is None or (time_us, event_id) >= (spoke_at_us, spoke_event_id)
        ):
            spoke_at_us, spoke_event_id, has_left = time_us, event_id, kind == _DEREGISTERED
        # By position: this runs once per event, and by name it would take a third longer.
        new = GovernedAgent(
            score,
            score_at_us,
            score_event_id,
            spoke_at_us,
            spoke_event_id,
            has_left,
            False,
            max(seen_at_ms, old.seen_at_ms),
        )
        if found is None:
            agents.add(key, new)
        else:
            agents[key] = new
        return True


def _with_decision(old: Decisions, payload: PolicyDecision, seen_at_ms: int) -> Decisions:
    nanoseconds, buckets = old.nanoseconds, old.buckets
    if payload.evaluation_ms is not None:
        # A sum beyond 64 bits could not be written to the changelog.
        latency = round(min(payload.evaluation_ms, _MOST_MS) * _NANOSECONDS_PER_MS)
        nanoseconds = min(nanoseconds + latency, _MOST_NANOSECONDS)
        index = bisect_left(LATENCY_BUCKETS_MS, payload.evaluation_ms)
        buckets = (*buckets[:index], buckets[index] + 1, *buckets[index + 1 :])
    return Decisions(
        old.count + 1,
        old.rate_limited + payload.rate_limited,
        nanoseconds,
        buckets,
        max(seen_at_ms, old.seen_at_ms),
    )


def _add_one(state: GovernanceState, total: tuple[str]) -> None:
    old = state.totals[total]
    if old is None:
        state.totals.add(total, 1)
    else:
        state.totals[total] = old + 1
