"""Governance: the payloads of its events, and its eight metrics with the tutorial's names, types and units. Pure.

Both sides use this table: `GovernanceMetrics` in an agent, and the service governance-metrics for the fleet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

__all__ = [
    "ACTIVE_AGENTS",
    "AUDIT_EVENTS",
    "EVALUATION_LATENCY",
    "GOVERNANCE_INSTRUMENTS",
    "LATENCY_BUCKETS_MS",
    "METER_NAME",
    "POLICY_DECISIONS",
    "RATE_LIMIT_HITS",
    "TOOL_CALLS_ALLOWED",
    "TOOL_CALLS_BLOCKED",
    "TRUST_SCORE",
    "EvaluationMs",
    "GovernanceInstrument",
    "PolicyDecision",
    "Score",
    "TrustScore",
]

METER_NAME = "AgentGovernance"
"""The name of the meter, in every language."""

EvaluationMs = Annotated[float, msgspec.Meta(ge=0)]
"""The time that a governance kernel took for a decision, in milliseconds. JSON has neither NaN nor infinity."""

Score = Annotated[float, msgspec.Meta(ge=0, le=1000)]
"""An agent's trust score, 0 (not trusted at all) to 1000."""


class PolicyDecision(msgspec.Struct, frozen=True):
    """Payload of `governance.policy_decision`; the agent is the event's `agent_did`."""

    allowed: bool
    tool_name: str | None = None
    evaluation_ms: EvaluationMs | None = None
    rate_limited: bool = False


class TrustScore(msgspec.Struct, frozen=True):
    """Payload of `governance.trust_score`; the agent is the event's `agent_did`."""

    score: Score


@dataclass(frozen=True, slots=True)
class GovernanceInstrument:
    """One of the eight metrics of governance."""

    name: str
    """The name of the OpenTelemetry instrument."""
    type: Literal["counter", "histogram", "gauge"]
    unit: str
    """The unit in UCUM; empty if there is none."""
    help: str

    @property
    def prometheus_name(self) -> str:
        """The name on `/metrics`. OpenTelemetry's own translation would put the unit behind it."""
        name = self.name.replace(".", "_")
        return f"{name}_total" if self.type == "counter" else name


POLICY_DECISIONS = GovernanceInstrument(
    "agent_governance.policy_decisions", "counter", "", "Governance evaluations, allowed and denied."
)
TOOL_CALLS_ALLOWED = GovernanceInstrument(
    "agent_governance.tool_calls_allowed", "counter", "", "Tool calls that the policy permitted."
)
TOOL_CALLS_BLOCKED = GovernanceInstrument(
    "agent_governance.tool_calls_blocked", "counter", "", "Tool calls that the policy denied."
)
RATE_LIMIT_HITS = GovernanceInstrument(
    "agent_governance.rate_limit_hits", "counter", "", "Requests that the rate limiter rejected."
)
EVALUATION_LATENCY = GovernanceInstrument(
    "agent_governance.evaluation_latency_ms", "histogram", "ms", "How long governance evaluations took, in ms."
)
TRUST_SCORE = GovernanceInstrument(
    "agent_governance.trust_score", "gauge", "", "How much an agent is trusted now, 0 to 1000."
)
ACTIVE_AGENTS = GovernanceInstrument("agent_governance.active_agents", "gauge", "", "Agents under governance now.")
AUDIT_EVENTS = GovernanceInstrument("agent_governance.audit_events", "counter", "", "Audit events emitted.")

GOVERNANCE_INSTRUMENTS = (
    POLICY_DECISIONS,
    TOOL_CALLS_ALLOWED,
    TOOL_CALLS_BLOCKED,
    RATE_LIMIT_HITS,
    EVALUATION_LATENCY,
    TRUST_SCORE,
    ACTIVE_AGENTS,
    AUDIT_EVENTS,
)

LATENCY_BUCKETS_MS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0),
)
"""Upper bounds of the latency's buckets: from 0.01 ms to 10 s."""
