"""The values that each expression of a panel or a rule must have after the scenario.

A result is named by its labels, sorted, as in `job=saga-spans,result=ok`; `cluster`, `instance` and the prefix of
topics are left out. Every result that is named has to be there; every other must be 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["NOTHING", "PANELS", "RULES", "SINK_GONE", "Range"]


@dataclass(frozen=True)
class Range:
    """From, and to, inclusive."""

    least: float
    most: float

    def contains(self, value: float) -> bool:
        return self.least <= value <= self.most


Expected = Mapping[str, Range]

_ROUNDING = 1e-9


def exactly(value: float) -> Range:
    return Range(value - _ROUNDING, value + _ROUNDING)


def increase_of(events: float, by: float = 1) -> Range:
    """Return the range of `increase` (or of a rate, `by` its seconds) for so many events.

    Prometheus takes the growth between the first and the last sample and extends it towards the window's ends, here
    by half of a scrape each, as the series begins and ends within the window: one second of thirty and more. So it
    is never less than the truth, and less than a tenth more. Raw counters are compared exactly in `test_moves`.
    """
    return Range(events / by - _ROUNDING, 1.1 * events / by)


def per_second(events: float) -> Range:
    return increase_of(events, 300)


def per_minute(events: float) -> Range:
    return increase_of(events, 5)


def between(least: float, most: float) -> Range:
    """Return a range for a value that depends on the machine."""
    return Range(least, most)


def jobs(of: Range, *names: str) -> Expected:
    return {f"job={name}": of for name in names or SERVICES}


SERVICES = ("agent-hypervisor", "saga-spans", "event-index", "governance-metrics")
STATEFUL = ("agent-hypervisor", "saga-spans", "governance-metrics")
NOTHING: Expected = MappingProxyType({})
RING, SAGA, GOVERNANCE = 12 + 222, 15 + 46, 8 + 48
"""Events that are used by the service that they are for: the first of each, and the many."""
ALL = RING + SAGA + GOVERNANCE
SESSION_TOO_OLD, REPEATED, BAD = 1, 1, 3
REFUSED_SPANS = 2
"""That of the poisoned step and that of its saga: both have the word in their names."""
A, B = "agent_did=did:mesh:a", "agent_did=did:mesh:b"
HAS_BEEN_ELEVATED = between(400, 400 + 300)
"""B, since 400 s before the scenario began."""

_BUCKETS_OF_ELEVATIONS = ("15.0", "60.0", "300.0", "900.0", "3600.0", "14400.0", "43200.0", "86400.0", "+Inf")
_BUCKETS_OF_RESTORES = ("0.1", "0.25", "0.5", "1.0", "2.0", "5.0", "10.0", "20.0", "30.0", "60.0", "120.0", "300.0")
_POSITIONS = {
    "job=agent-hypervisor,topic=events.ring": exactly(RING + REPEATED + BAD),
    "job=saga-spans,topic=events.saga": exactly(SAGA),
    "job=governance-metrics,topic=events.governance": exactly(GOVERNANCE),
    "job=event-index,topic=events.ring": exactly(RING + REPEATED + BAD),
    "job=event-index,topic=events.saga": exactly(SAGA),
    "job=event-index,topic=events.governance": exactly(GOVERNANCE),
    "job=event-index,topic=events.session": exactly(SESSION_TOO_OLD),
}
_NO_LAG = {name: exactly(0) for name in _POSITIONS}

PANELS: Mapping[tuple[str, str], Expected] = {
    ("Ring Transitions", "A"): {
        "event_type=ring.assigned": per_minute(4),
        "event_type=ring.elevated": per_minute(5),
        "event_type=ring.demoted": per_minute(3),
        "event_type=ring.elevation_expired": per_minute(2),
    },
    ("Breach Rate", "A"): {"": per_minute(208)},
    ("Current Ring Levels", "A"): {A: exactly(3), B: exactly(1)},
    ("Current Ring Levels", "B"): {A: exactly(0), B: exactly(1)},
    ("Current Ring Levels", "C"): {A: exactly(10), B: HAS_BEEN_ELEVATED},
    ("Elevation Duration", "A"): {f"le={bound}": increase_of(7) for bound in _BUCKETS_OF_ELEVATIONS},
    ("Policy Decisions", "A"): {"decision=allow": increase_of(31), "decision=deny": increase_of(11)},
    ("Trust Scores", "A"): {"agent_id=did:mesh:a": exactly(700), "agent_id=did:mesh:b": exactly(320)},
    ("Denial Rate", "A"): {"": between(11 / 42 * 0.95, 11 / 42 * 1.05)},
    ("Active Agents", "A"): {"": exactly(2)},
    ("Tool Calls", "A"): {"": per_minute(31)},
    ("Tool Calls", "B"): {"": per_minute(11)},
    ("Tool Calls", "C"): {"": per_minute(4)},
    # All take 80 ms: between 50 and 100, where Prometheus spreads them evenly.
    ("Evaluation Latency", "A"): {"": exactly(75)},
    ("Evaluation Latency", "B"): {"": exactly(99.5)},
    ("Denials by Tool", "A"): {"tool_name=shell_exec": increase_of(10)},
    ("Audit Events", "A"): {"": per_minute(7)},
    ("Breaches by Agent", "A"): {A: increase_of(200), B: increase_of(6), "agent_did=__overflow__": increase_of(2)},
    ("Elevated Now", "A"): {B: HAS_BEEN_ELEVATED},
    ("Sagas Ended", "A"): {"result=ok": per_minute(6), "result=error": per_minute(2)},
    ("Steps Ended", "A"): {"result=ok": per_minute(6), "result=error": per_minute(2)},
    ("Fan-outs Ended", "A"): {"result=ok": per_minute(6)},
    # All take 20 s: between 10 and 30. Steps take 10 s, the bound of a bucket from 5 on.
    ("Saga Duration", "A"): {"": exactly(20)},
    ("Saga Duration", "B"): {"": exactly(29.8)},
    ("Step Duration", "A"): {"": exactly(7.5)},
    ("Step Duration", "B"): {"": exactly(9.95)},
    ("Compensations and Late Events", "A"): {"": per_minute(2)},
    ("Compensations and Late Events", "B"): {"event_type=saga.completed": per_minute(2)},
    ("Copies Up", "A"): jobs(exactly(1)),
    ("Copies Up", "B"): jobs(exactly(1)),
    ("Degraded", "A"): jobs(exactly(0)),
    ("Reading", "A"): jobs(exactly(0)),
    ("Accounting Difference", "A"): jobs(exactly(0)),
    ("Dead Letter Flood", "A"): jobs(exactly(0)),
    ("Throughput by Result", "A"): {
        "job=agent-hypervisor,result=applied": per_second(RING),
        "job=agent-hypervisor,result=duplicate": per_second(REPEATED),
        "job=agent-hypervisor,result=undecodable": per_second(BAD),
        "job=saga-spans,result=applied": per_second(SAGA),
        "job=governance-metrics,result=applied": per_second(GOVERNANCE),
        # The index takes every record and looks at its id then; so the event that came twice is applied twice.
        "job=event-index,result=applied": per_second(ALL + SESSION_TOO_OLD + REPEATED),
        "job=event-index,result=undecodable": per_second(BAD),
    },
    ("Latency", "A"): jobs(between(0.001, 60)),
    ("Latency", "B"): jobs(between(0.001, 60)),
    ("Lag in Seconds", "A"): _NO_LAG,
    ("Lag in Records", "A"): _NO_LAG,
    ("The Account", "A"): _POSITIONS,
    ("The Account", "B"): _POSITIONS,
    ("The Account", "C"): _NO_LAG,
    ("The Account", "D"): _POSITIONS,
    ("Dead Letters by Reason", "A"): {
        "job=agent-hypervisor,result=undecodable": per_minute(BAD),
        "job=event-index,result=undecodable": per_minute(BAD),
    },
    ("Lost and Refused", "A"): jobs(exactly(0)),
    ("Lost and Refused", "B"): {"job=saga-spans": per_minute(REFUSED_SPANS)},
    # One partition of each topic went to the other copy, and came back.
    ("Rebalances", "A"): {"job=agent-hypervisor": between(2 / 5, 10 / 5)},
    ("Partitions Not Restored", "A"): jobs(exactly(0)),
    ("Restoring", "A"): {
        **{f"le={bound}": between(0, 3.3) for bound in _BUCKETS_OF_RESTORES},
        "le=+Inf": between(1, 3.3),
    },
    ("Transactions", "A"): {f"job={name},outcome=committed": between(1 / 300, 10) for name in SERVICES},
    ("Aborts", "A"): jobs(exactly(0)),
    ("Transaction Time", "A"): jobs(between(0.0001, 10)),
    ("Transaction Time", "B"): jobs(between(0.0001, 10)),
    ("Changelog", "A"): jobs(between(0.1, 10_000), *STATEFUL),
    ("Changelog", "B"): jobs(between(1 / 300, 100), *STATEFUL),
    # Two and the overflow series, where there is place for two; three agents of 100,000.
    ("Series of the Ceiling", "A"): {
        "job=agent-hypervisor": exactly(1.5),
        "job=governance-metrics": between(1 / 100_000, 3 / 100_000),
    },
    ("Series Shown, Events Past the Ceiling", "A"): jobs(
        between(10, 1000), "agent-hypervisor", "governance-metrics"
    ),
    ("Series Shown, Events Past the Ceiling", "B"): {"job=agent-hypervisor": per_minute(3)},
    ("Retention of the Index", "A"): {"job=event-index,outcome=not_added": per_second(SESSION_TOO_OLD)},
    ("Open Sagas by Age", "A"): {"age=1m": exactly(1)},
    ("Oldest Open Saga", "A"): {"": between(1, 300)},
    ("Published Events", "A"): {"": per_second(ALL + SESSION_TOO_OLD + REPEATED)},
    ("Published Events", "B"): {"": per_second(ALL + SESSION_TOO_OLD + REPEATED)},
    ("Queued Events", "A"): {"": exactly(0)},
    ("Queued Events", "B"): {"": exactly(0)},
    ("Dropped and Failed Events", "A"): {"reason=too_large": per_minute(2)},
    ("Dropped and Failed Events", "B"): {"": exactly(0)},
    ("Trouble with Governance Metrics", "A"): {"reason=invalid": per_minute(1)},
    ("Trouble with Governance Metrics", "B"): {"": exactly(0)},
}
"""By a panel's title and the letter of its query."""

RULES: Mapping[str, Expected] = {
    "job_agent_did:agent_hypervisor_ring_breaches_per_minute:rate5m": {
        f"{A},job=agent-hypervisor": per_minute(200),
        f"{B},job=agent-hypervisor": per_minute(6),
        "agent_did=__overflow__,job=agent-hypervisor": per_minute(2),
    },
    "job_event_type:agent_hypervisor_ring_transitions:rate5m": {
        "event_type=ring.assigned,job=agent-hypervisor": per_second(4),
        "event_type=ring.elevated,job=agent-hypervisor": per_second(5),
        "event_type=ring.demoted,job=agent-hypervisor": per_second(3),
        "event_type=ring.elevation_expired,job=agent-hypervisor": per_second(2),
    },
    # The agent's own process has series from its first decision on: it is right without that one.
    "job:agent_governance_tool_calls_blocked_per_policy_decisions:ratio_rate5m": {
        "job=governance-metrics": between(11 / 42 * 0.95, 11 / 42 * 1.05),
        "job=agents": between(10 / 40 * 0.95, 10 / 40 * 1.05),
    },
    "job:agent_governance_evaluation_latency_ms:p99_rate5m": jobs(exactly(99.5), "governance-metrics", "agents"),
    "HighRingBreachRate": {f"{A},job=agent-hypervisor": per_second(200)},
    "ElevationTooLong": {f"{B},job=agent-hypervisor": HAS_BEEN_ELEVATED},
    "GovernanceLatencyHigh": jobs(exactly(99.5), "governance-metrics", "agents"),
    "TelemetryServiceDown": jobs(exactly(0), "agent-hypervisor"),
    "TelemetryServiceGone": NOTHING,
    "TelemetryNotReady": NOTHING,
    "TelemetryPartitionNotRestored": NOTHING,
    "TelemetryDegraded": NOTHING,
    "TelemetrySinkFailing": NOTHING,
    "TelemetryOutputsRefused": {"job=saga-spans": increase_of(REFUSED_SPANS)},
    "TelemetryCommitAborts": NOTHING,
    "TelemetryLagHigh": NOTHING,
    "TelemetryAccountingDifference": NOTHING,
    "TelemetryDeadLetters": {
        "job=agent-hypervisor,result=undecodable,topic=events.ring": increase_of(BAD),
        "job=event-index,result=undecodable,topic=events.ring": increase_of(BAD),
    },
    "TelemetryDeadLetterFlood": NOTHING,
    "TelemetryEventsAgedOut": NOTHING,
    "TelemetrySagasTooOld": NOTHING,
    "TelemetrySeriesNearCeiling": {"job=agent-hypervisor,partition=2": exactly(1.5)},
    "TelemetrySeriesOverflow": {"job=agent-hypervisor": increase_of(3)},
    "TelemetryAgentsDropEvents": {"job=agents,reason=too_large": increase_of(2)},
    "TelemetryAgentsFailToDeliver": NOTHING,
}
"""By a rule's name."""

SINK_GONE: Mapping[str, Expected] = {
    "TelemetrySinkFailing": jobs(exactly(1), "saga-spans"),
    "TelemetryDegraded": jobs(exactly(1), "saga-spans"),
}
"""The same, after the receiver of spans has gone and there is one to send."""
