"""Governance events to counts, trust scores and active agents, one state per partition. Pure."""

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

__all__ = ["ABOUT_AN_AGENT", "GOVERNANCE_EVENT_TYPES", "Fact", "GovernanceFold", "Told"]

GOVERNANCE_EVENT_TYPES: tuple[str, ...] = tuple(kind.value for kind in GovernanceEventType)
"""What the fold takes; every other event is ignored."""

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
_OWN_WORDS = frozenset({_DECISION, _REGISTERED, _DEREGISTERED})

ABOUT_AN_AGENT = frozenset({_SCORE, _REGISTERED, _DEREGISTERED})
"""The types that say nothing without an agent."""

Told: TypeAlias = PolicyDecision | TrustScore | None
"""The payload of an event, where its type has one that is read."""


class Fact(NamedTuple):
    """What is read of a governance event that is as it should be."""

    kind: str
    told: Told
    agent: str
    """An absent one is ""."""
    at: int
    """Event time in µs since 1970."""
    event_id: str
    seen_at: int
    """As `Fold.apply` has it."""


_NANOSECONDS = 1_000_000
_MOST_NANOSECONDS = 2**63 - 1
_MOST_MS = _MOST_NANOSECONDS / _NANOSECONDS

_NO_DECISIONS, _NO_DENIALS, _NEW = Decisions(), Denials(), GovernedAgent()


class GovernanceFold(Fold[GovernanceState, Never]):
    """The rules.

    An agent is active while something was heard of it within `agent_ttl_ms`, unless it has deregistered and has
    neither registered nor asked for a decision since, by event time.

    Args:
        series_ttl_ms: A series, and what is current of an agent, expires when idle for longer.
        agent_ttl_ms: An agent that is idle for longer is not active.
        max_series: How many a state holds of each: series of decisions, denied tools, agents. Beyond them,
            decisions and denials are counted in an overflow series, and of new agents nothing current is kept.
        labels: Which of `agent_id` and `tool_name` the metrics per decision have. Changing it starts them anew;
            what was counted before stays, not shown, until it is idle.
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
        """No events yet."""
        return GovernanceState()

    def apply(self, state: GovernanceState, event: HypervisorEvent, seen_at: int = 0) -> tuple[()] | None:
        """Take one governance event. No outputs; None for any other event.

        Raises:
            InvalidPayload: The payload doesn't fit, or the agent is missing that the event is about.
        """
        kind = type_value(event.event_type)
        told: Told = None
        if kind == _DECISION:
            told = read_payload(event.payload, PolicyDecision)
        elif kind == _SCORE:
            told = read_payload(event.payload, TrustScore)
        elif kind not in GOVERNANCE_EVENT_TYPES:
            return None
        if kind in ABOUT_AN_AGENT and not event.agent_did:
            raise InvalidPayload(f"A {kind} without agent_did is about nobody; name the agent.")
        at = microseconds(event.timestamp)
        self.take(state, Fact(kind, told, event.agent_did or "", at, event.event_id, seen_at))
        return ()

    def take(self, state: GovernanceState, fact: Fact) -> None:
        """Change `state` by one event."""
        has_place = True
        if isinstance(fact.told, PolicyDecision):
            has_place = self._count(state, fact.told, fact.agent, fact.seen_at)
        elif fact.kind == _AUDIT:
            _add(state, AUDITED)
        if fact.agent and not self._hear(state, fact):
            has_place = False
        if not has_place:
            _add(state, OVERFLOWED)

    def expire(self, state: GovernanceState, now: int) -> tuple[()]:
        """Remove what has been idle too long at `now`, in milliseconds since 1970, and see who is. No outputs."""
        oldest, oldest_active = now - self._series_ttl_ms, now - self._agent_ttl_ms
        for key, decisions in state.decisions.present():
            _, agent, tool = key
            # Without labels there are two series, for good.
            if decisions.seen_at < oldest and (agent or tool):
                state.decisions.remove(key)
        for tool_key, denials in state.denials.present():
            if denials.seen_at < oldest:
                state.denials.remove(tool_key)
        for agent_key, current in state.agents.present():
            if current.seen_at < min(oldest, oldest_active):
                state.agents.remove(agent_key)
            elif current.seen_at < oldest_active and not current.is_idle:
                state.agents[agent_key] = msgspec.structs.replace(current, is_idle=True)
        return ()

    def _count(self, state: GovernanceState, told: PolicyDecision, agent: str, seen_at: int) -> bool:
        """Count a decision. False if it had to be counted in an overflow series."""
        decision = ALLOW if told.allowed else DENY
        tool = told.tool_name or UNKNOWN
        key = decision, (agent or UNKNOWN) if self._keeps_agent else "", tool if self._keeps_tool else ""
        has_place = self._count_decision(state, key, told, seen_at)
        return has_place if told.allowed else self._count_denial(state, tool, seen_at) and has_place

    def _count_decision(
        self, state: GovernanceState, key: DecisionsKey, told: PolicyDecision, seen_at: int
    ) -> bool:
        series = state.decisions
        old = series[key]
        has_labels = self._keeps_agent or self._keeps_tool
        has_place = old is not None or not has_labels or series.size < self._max_series
        if not has_place:
            key = (
                key[0],
                OVERFLOW_LABEL if self._keeps_agent else "",
                OVERFLOW_LABEL if self._keeps_tool else "",
            )
            old = series[key]
        if old is None:
            series.add(key, _with_decision(_NO_DECISIONS, told, seen_at))
        else:
            series[key] = _with_decision(old, told, seen_at)
        return has_place

    def _count_denial(self, state: GovernanceState, tool: str, seen_at: int) -> bool:
        denials, key = state.denials, (tool,)
        old = denials[key]
        has_place = old is not None or denials.size < self._max_series
        if not has_place:
            key = (OVERFLOW_LABEL,)
            old = denials[key]
        known = old or _NO_DENIALS
        new = Denials(known.count + 1, max(seen_at, known.seen_at))
        if old is None:
            denials.add(key, new)
        else:
            denials[key] = new
        return has_place

    def _hear(self, state: GovernanceState, fact: Fact) -> bool:
        """What is current of an agent, after one of its events. False if there is no place for a new one."""
        kind, told, agent, at, event_id, seen_at = fact
        agents, key = state.agents, (agent,)
        found = agents[key]
        if found is None and agents.size >= self._max_series:
            return False
        old = found or _NEW
        score, score_at, score_event_id = old.score, old.score_at, old.score_event_id
        is_later = score is None or (at, event_id) >= (score_at, score_event_id)
        if isinstance(told, TrustScore) and is_later:
            score, score_at, score_event_id = told.score, at, event_id
        spoke_at, spoke_event_id, has_left = old.spoke_at, old.spoke_event_id, old.has_left
        if kind in _OWN_WORDS and (spoke_at is None or (at, event_id) >= (spoke_at, spoke_event_id)):
            spoke_at, spoke_event_id, has_left = at, event_id, kind == _DEREGISTERED
        # By position: this runs once per event, and by name it would take a third longer.
        new = GovernedAgent(
            score,
            score_at,
            score_event_id,
            spoke_at,
            spoke_event_id,
            has_left,
            False,
            max(seen_at, old.seen_at),
        )
        if found is None:
            agents.add(key, new)
        else:
            agents[key] = new
        return True


def _with_decision(old: Decisions, told: PolicyDecision, seen_at: int) -> Decisions:
    nanoseconds, buckets = old.nanoseconds, old.buckets
    if told.evaluation_ms is not None:
        # A sum beyond 64 bits could not be written to the changelog.
        took = round(min(told.evaluation_ms, _MOST_MS) * _NANOSECONDS)
        nanoseconds = min(nanoseconds + took, _MOST_NANOSECONDS)
        at = bisect_left(LATENCY_BUCKETS_MS, told.evaluation_ms)
        buckets = (*buckets[:at], buckets[at] + 1, *buckets[at + 1 :])
    return Decisions(
        old.count + 1, old.rate_limited + told.rate_limited, nanoseconds, buckets, max(seen_at, old.seen_at)
    )


def _add(state: GovernanceState, total: tuple[str]) -> None:
    old = state.totals[total]
    if old is None:
        state.totals.add(total, 1)
    else:
        state.totals[total] = old + 1
