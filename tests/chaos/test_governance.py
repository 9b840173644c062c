"""Decisions are counted exactly while copies of governance-metrics are killed and agents send twice."""

from __future__ import annotations

import time
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import GovernanceEventType, HypervisorEvent
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS
from tests.chaos.harness import (
    ACTIVE_AGENTS,
    GOVERNANCE,
    NOON,
    TRUST,
    Load,
    MetricsMonitor,
    Series,
    Truth,
    assert_converges,
    record_of,
)
from tests.support.service_processes import Fleet, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

PARTITIONS, AGENTS, TOOLS = 6, 60, 8
DECISION, SCORE = GovernanceEventType.POLICY_DECISION, GovernanceEventType.TRUST_SCORE
AUDIT = GovernanceEventType.AUDIT_EVENT
REGISTERED, DEREGISTERED = GovernanceEventType.AGENT_REGISTERED, GovernanceEventType.AGENT_DEREGISTERED


def governance_events(random: Random, count: int) -> Iterator[HypervisorEvent]:
    """Agents that ask and are scored, come and go; some decisions are nobody's."""
    kinds = random.choices([DECISION, SCORE, AUDIT, REGISTERED, DEREGISTERED], [80, 8, 6, 3, 3], k=count)
    for second, kind in enumerate(kinds):
        payload = {}
        is_nobodys = kind in {DECISION, AUDIT} and random.random() < 0.02
        if kind is DECISION:
            payload = {
                "allowed": random.random() < 0.8,
                "rate_limited": random.random() < 0.1,
                "tool_name": f"tool-{random.randrange(TOOLS)}",
                # Eighths: floats that add up without rounding, over the partitions too.
                "evaluation_ms": random.choice([1, 100, 20_000]) * random.randrange(9) / 8,
            }
        elif kind is SCORE:
            payload = {"score": random.randrange(1001)}
        yield HypervisorEvent(
            event_id=f"{random.getrandbits(64):016x}",
            event_type=kind,
            # Clocks differ: time doesn't always go on.
            timestamp=NOON + timedelta(seconds=second + random.randrange(-20, 20)),
            agent_did=None if is_nobodys else f"did:{random.randrange(AGENTS)}",
            payload=payload,
        )


def truth_of(events: Iterable[HypervisorEvent]) -> Truth:
    """Worked out here, without the fold."""
    counters: Counter[Series] = Counter()
    sums: Counter[Series] = Counter()
    scores: dict[str, tuple[object, float]] = {}
    words: dict[str, tuple[object, bool]] = {}

    def count(name: str, number: int = 1, **labels: str) -> None:
        counters[f"agent_governance_{name}", tuple(sorted(labels.items()))] += number

    for event in events:
        told, agent, when = event.payload, event.agent_did, (event.timestamp, event.event_id)
        if event.event_type is DECISION:
            decision = "allow" if told["allowed"] else "deny"
            count("policy_decisions_total", decision=decision)
            count(f"tool_calls_{'allowed' if told['allowed'] else 'blocked'}_total", decision=decision)
            sums["agent_governance_evaluation_latency_ms_sum", (("decision", decision),)] += told["evaluation_ms"]
            if told["rate_limited"]:
                count("rate_limit_hits_total", decision=decision)
            if not told["allowed"]:
                count("denials_total", tool_name=told["tool_name"])
            for bound in (*LATENCY_BUCKETS_MS, float("inf")):
                le = "+Inf" if bound == float("inf") else str(bound)
                count("evaluation_latency_ms_bucket", told["evaluation_ms"] <= bound, decision=decision, le=le)
        elif event.event_type is AUDIT:
            count("audit_events_total")
        elif event.event_type is SCORE:
            scores[agent] = max(scores.get(agent, (when, 0)), (when, told["score"]))
        if agent and event.event_type not in {SCORE, AUDIT}:
            has_left = event.event_type is DEREGISTERED
            words[agent] = max(words.get(agent, (when, has_left)), (when, has_left))
    active = len(
        {event.agent_did for event in events if event.agent_did} - {a for a, (_, left) in words.items() if left}
    )
    agents: dict[Series, float] = {(TRUST, (("agent_id", agent),)): score for agent, (_, score) in scores.items()}
    return Truth(
        {**counters, **sums}, agents | {(ACTIVE_AGENTS, ()): active}, metrics=(*GOVERNANCE, TRUST, ACTIVE_AGENTS)
    )


def test_decisions_scores_and_active_agents_are_the_truth_while_copies_are_killed(
    new_fleet: Callable[[int], Fleet], chaos: Chaos
) -> None:
    random = chaos.random
    fleet = new_fleet(PARTITIONS)
    events = list(governance_events(random, chaos.scaled(80_000, 800_000)))
    truth = truth_of(events)
    # Of those that the services still know by their ids.
    twice = [*events, *random.sample(events[-80_000:], 800)]
    with MetricsMonitor([fleet.start("governance-metrics") for _ in range(chaos.scaled(2, 3))]) as monitor:
        load = Load(fleet, map(record_of, twice), per_second=5_000, category="governance").start()
        kills = 0
        while not load.is_over:
            until = time.monotonic() + random.uniform(2, 6)
            eventually(lambda until=until: time.monotonic() >= until or load.is_over, bool, 10)
            monitor.copies.pop(random.randrange(len(monitor.copies))).kill()
            kills += 1
            monitor.copies.append(fleet.start("governance-metrics"))
        assert_converges(monitor, truth)
    assert kills >= 2
