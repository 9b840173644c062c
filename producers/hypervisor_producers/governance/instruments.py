"""The eight governance metrics as instruments of OpenTelemetry's metrics API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hypervisor_producers.governance.agents import GovernedAgents
from hypervisor_producers.governance.errors import GOVERNANCE_OVERFLOW, GOVERNANCE_TROUBLES, TroubleCounts
from hypervisor_producers.governance.labels import ALLOW, DENY, GovernanceLabels, LabelValues
from hypervisor_schemas.extras import importing_extra
from hypervisor_schemas.governance import (
    ACTIVE_AGENTS,
    AUDIT_EVENTS,
    EVALUATION_LATENCY,
    LATENCY_BUCKETS_MS,
    POLICY_DECISIONS,
    RATE_LIMIT_HITS,
    TOOL_CALLS_ALLOWED,
    TOOL_CALLS_BLOCKED,
    TRUST_SCORE,
    GovernanceInstrument,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Counter, Meter, Observation

__all__ = ["GovernanceInstruments"]


class GovernanceInstruments:
    """Writes counts and latencies to a meter, which reads the gauges itself. Without `units` none has a unit.

    OpenTelemetry's SDK adds up what is written, with locks of its own.
    """

    def __init__(
        self,
        meter: Meter,
        labels: GovernanceLabels,
        agents: GovernedAgents,
        troubles: TroubleCounts,
        *,
        units: bool,
    ) -> None:
        def counter(instrument: GovernanceInstrument) -> Counter:
            return meter.create_counter(instrument.name, unit=instrument.unit, description=instrument.help)

        self._label_names = labels.names
        self._attributes: dict[tuple[str, LabelValues], dict[str, str]] = {}
        self._decisions = counter(POLICY_DECISIONS)
        self._by_decision = {ALLOW: counter(TOOL_CALLS_ALLOWED), DENY: counter(TOOL_CALLS_BLOCKED)}
        self._rate_limit_hits = counter(RATE_LIMIT_HITS)
        self._audit_events = counter(AUDIT_EVENTS)
        self._latency = meter.create_histogram(
            EVALUATION_LATENCY.name,
            unit=EVALUATION_LATENCY.unit if units else "",
            description=EVALUATION_LATENCY.help,
            explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_MS,
        )
        _observe(meter.create_observable_gauge, TRUST_SCORE.name, TRUST_SCORE.help, _scores_of(agents))
        _observe(
            meter.create_observable_gauge,
            ACTIVE_AGENTS.name,
            ACTIVE_AGENTS.help,
            lambda: [] if (active := agents.active()) is None else [(active, {})],
        )
        create = meter.create_observable_counter
        _observe(
            create,
            *GOVERNANCE_TROUBLES,
            lambda: [(count, {"reason": reason}) for reason, count in troubles.counts.items()],
        )
        _observe(create, *GOVERNANCE_OVERFLOW, lambda: [(troubles.overflowed, {})])
        self._write_zeros()

    def _write_zeros(self) -> None:
        """Write 0 to every counter: a rate needs the zero before the first denial."""
        if not self._label_names:
            for decision, counter in self._by_decision.items():
                for each in (self._decisions, counter, self._rate_limit_hits):
                    each.add(0, self._attributes_of(decision, ()))
        self._audit_events.add(0)

    def add_decision(self, decision: str, labels: LabelValues, evaluation_ms: float, rate_limited: bool) -> None:
        """Write one decision to its instruments."""
        attributes = self._attributes.get((decision, labels)) or self._attributes_of(decision, labels)
        self._decisions.add(1, attributes)
        self._by_decision[decision].add(1, attributes)
        if rate_limited:
            self._rate_limit_hits.add(1, attributes)
        self._latency.record(evaluation_ms, attributes)

    def add_audit_event(self) -> None:
        """Write one audit event."""
        self._audit_events.add(1)

    def _attributes_of(self, decision: str, labels: LabelValues) -> dict[str, str]:
        # Bounded by the limit on series. The SDK copies what it keeps.
        attributes = {"decision": decision, **dict(zip(self._label_names, labels, strict=True))}
        self._attributes[decision, labels] = attributes
        return attributes


def _scores_of(agents: GovernedAgents) -> Callable[[], Iterable[tuple[float, dict[str, str]]]]:
    return lambda: [(score, {"agent_id": agent}) for agent, score in agents.scores().items()]


def _observe(
    create: Callable[..., Any],
    name: str,
    description: str,
    read: Callable[[], Iterable[tuple[float, dict[str, str]]]],
) -> None:
    with importing_extra("opentelemetry", "GovernanceMetrics"):
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

    def observe(_options: CallbackOptions) -> list[Observation]:
        return [Observation(value, attributes) for value, attributes in read()]

    create(name, callbacks=[observe], description=description)
