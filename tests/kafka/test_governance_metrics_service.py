"""governance-metrics as processes: exact numbers, through copies that come, leave and crash."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_schemas.dead_letters import read_dead_letter
from hypervisor_schemas.events import AnyEventType, EventType, GovernanceEventType, HypervisorEvent, event_type_of
from hypervisor_schemas.governance import GOVERNANCE_INSTRUMENTS
from hypervisor_schemas.topics import partition_of
from hypervisor_schemas.wire.codec import encode_event
from tests.support.service_processes import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

pytestmark = pytest.mark.kafka

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DECISION, SCORE = GovernanceEventType.POLICY_DECISION, GovernanceEventType.TRUST_SCORE
AUDIT = GovernanceEventType.AUDIT_EVENT
REGISTERED, DEREGISTERED = GovernanceEventType.AGENT_REGISTERED, GovernanceEventType.AGENT_DEREGISTERED
DECISIONS, BLOCKED = "agent_governance_policy_decisions_total", "agent_governance_tool_calls_blocked_total"
LATENCY, TRUST = "agent_governance_evaluation_latency_ms", "agent_governance_trust_score"
ACTIVE = "agent_governance_active_agents"
PARTITIONS = 4


def event(kind: AnyEventType, second: float, agent: str | None, **payload: Any) -> HypervisorEvent:
    at = NOON + timedelta(seconds=second)
    return HypervisorEvent(event_type=kind, timestamp=at, agent_did=agent, payload=payload)


def decisions(agents: int, each: int) -> list[HypervisorEvent]:
    """Of each agent every fifth is denied, and of those every second by the rate limiter."""
    return [
        event(
            DECISION,
            turn,
            f"did:{agent}",
            allowed=turn % 5 != 0,
            rate_limited=turn % 10 == 0,
            tool_name=f"tool-{turn % 3}",
            evaluation_ms=turn % 4,
        )
        for turn in range(each)
        for agent in range(agents)
    ]


def sums(*copies: RunningService, without: Iterable[str] = ()) -> dict[str, float]:
    """Sum the copies' governance metrics over partitions; no series is on two of them."""
    seen: set[str] = set()
    found: Counter[str] = Counter()
    for copy in copies:
        for series, value in copy.metrics("agent_governance").items():
            assert series not in seen, f"two copies show {series}"
            seen.add(series)
            name, _, labels = series.rstrip("}").partition("{")
            kept = [
                label for label in labels.split(",") if label and not label.startswith(("partition=", *without))
            ]
            found[f"{name}{{{','.join(kept)}}}"] += value  # type: ignore[assignment]
    return dict(found)


def truth_of(events: Iterable[HypervisorEvent]) -> dict[str, float]:
    """The counters of these decisions, and the sum of their latencies."""
    found: Counter[str] = Counter(
        {
            f'{DECISIONS}{{decision="allow"}}': 0,
            f'{DECISIONS}{{decision="deny"}}': 0,
            'agent_governance_rate_limit_hits_total{decision="allow"}': 0,
        }
    )
    for one in events:
        told = one.payload
        of = f'{{decision="{"allow" if told["allowed"] else "deny"}"}}'
        found[f"{DECISIONS}{of}"] += 1
        found[f"agent_governance_tool_calls_{'allowed' if told['allowed'] else 'blocked'}_total{of}"] += 1
        found[f"{LATENCY}_count{of}"] += 1
        found[f"{LATENCY}_sum{of}"] += told["evaluation_ms"]
        found[f"agent_governance_rate_limit_hits_total{of}"] += told["rate_limited"]
        if not told["allowed"]:
            found[f'agent_governance_denials_total{{tool_name="{told["tool_name"]}"}}'] += 1
    return dict(found)


def counters(shown: dict[str, float]) -> dict[str, float]:
    gauges_and_buckets = (TRUST, ACTIVE, "agent_governance_audit", f"{LATENCY}_bucket")
    return {series: value for series, value in shown.items() if not series.startswith(gauges_and_buckets)}


def results(fleet: Fleet, *copies: RunningService) -> dict[str, int]:
    found: Counter[str] = Counter()
    for copy in copies:
        found.update(copy.results(fleet.topic("governance")))
    return dict(found)


def test_the_seeds_example_is_shown_under_the_seeds_names(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(PARTITIONS)
    service = fleet.start("governance-metrics")
    fleet.publish(
        [
            event(DECISION, 0, "did:mesh:data-analyst", allowed=True, tool_name="file_read", evaluation_ms=0.05),
            event(DECISION, 1, "did:mesh:untrusted", allowed=False, tool_name="shell_exec", evaluation_ms=0.12),
            event(
                DECISION,
                2,
                "did:mesh:noisy-agent",
                allowed=False,
                tool_name="api_call",
                evaluation_ms=0.01,
                rate_limited=True,
            ),
            event(SCORE, 3, "did:mesh:trusted", score=850.0),
            event(SCORE, 5, "did:mesh:suspicious", score=320.0),
            event(SCORE, 4, "did:mesh:suspicious", score=900.0),  # came later, happened earlier
            event(AUDIT, 6, "did:mesh:trusted", entry="decision logged"),
            event(AUDIT, 6, None, entry="of nobody"),
            event(DECISION, 7, None, allowed=True, evaluation_ms=2),
            event(REGISTERED, 0, "did:mesh:leaving"),
            event(DEREGISTERED, 9, "did:mesh:leaving"),
            event(event_type_of("governance.of_tomorrow"), 3, "did:mesh:future"),
            event(EventType.RING_ASSIGNED, 3, "did:mesh:future", ring=1),  # on another topic
        ]
    )

    eventually(lambda: results(fleet, service), lambda seen: seen == {"applied": 11, "ignored": 1})
    shown = sums(service)
    assert {series: value for series, value in shown.items() if "_bucket" not in series and value} == {
        f'{DECISIONS}{{decision="allow"}}': 2,
        f'{DECISIONS}{{decision="deny"}}': 2,
        'agent_governance_tool_calls_allowed_total{decision="allow"}': 2,
        f'{BLOCKED}{{decision="deny"}}': 2,
        'agent_governance_rate_limit_hits_total{decision="deny"}': 1,
        f'{LATENCY}_count{{decision="allow"}}': 2,
        f'{LATENCY}_sum{{decision="allow"}}': 2.05,
        f'{LATENCY}_count{{decision="deny"}}': 2,
        f'{LATENCY}_sum{{decision="deny"}}': 0.13,
        f'{TRUST}{{agent_id="did:mesh:trusted"}}': 850,
        f'{TRUST}{{agent_id="did:mesh:suspicious"}}': 320,
        f"{ACTIVE}{{}}": 5,
        "agent_governance_audit_events_total{}": 2,
        'agent_governance_denials_total{tool_name="shell_exec"}': 1,
        'agent_governance_denials_total{tool_name="api_call"}': 1,
    }
    assert shown[f'{LATENCY}_bucket{{decision="deny",le="0.1"}}'] == 1
    assert shown[f'{LATENCY}_bucket{{decision="deny",le="0.25"}}'] == 2
    text = service.get("/metrics").text
    for instrument in GOVERNANCE_INSTRUMENTS:
        assert f"# TYPE {instrument.prometheus_name} {instrument.type}\n" in text


def test_what_does_not_fit_is_a_dead_letter_and_what_comes_twice_counts_once(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(1)
    good = decisions(agents=3, each=10)
    bad = [
        event(DECISION, 0, "did:0", tool_name="t"),
        event(DECISION, 0, "did:0", allowed=True, evaluation_ms=-1),
        event(DECISION, 0, "did:0", allowed=True, evaluation_ms=float("nan")),
        event(SCORE, 0, "did:0", score=1000.1),
        event(REGISTERED, 0, None),
    ]
    service = fleet.start("governance-metrics")
    fleet.publish([*good[:15], *bad, *good[15:], *good])
    fleet.produce("governance", [b"junk"])

    wanted = {"applied": 30, "duplicate": 30, "invalid_payload": 5, "undecodable": 1}
    eventually(lambda: results(fleet, service), lambda seen: seen == wanted)
    assert counters(sums(service)) == truth_of(good)
    assert service.metrics(TRUST) == {}
    letters = fleet.records(f"{fleet.prefix}dead-letters")
    assert Counter(letter.value() for letter in letters) == Counter([*map(encode_event, bad), b"junk"])
    assert {read_dead_letter(letter.key(), letter.value(), letter.headers()).service for letter in letters} == {
        "governance-metrics"
    }


def test_totals_and_what_is_current_survive_kill_9_and_a_restart(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    before, meanwhile = decisions(agents=10, each=50), decisions(agents=10, each=20)
    first = fleet.start("governance-metrics").wait_ready()
    fleet.publish([*before, event(SCORE, 5, "did:1", score=7), event(DEREGISTERED, 90, "did:0")])
    eventually(lambda: counters(sums(first)), lambda shown: shown == truth_of(before))
    eventually(lambda: sums(first)[f"{ACTIVE}{{}}"], lambda active: active == 9)

    first.kill()
    fleet.publish([*meanwhile, *before[:100], event(SCORE, 4, "did:1", score=8)])
    second = fleet.start("governance-metrics")
    truth = truth_of([*before, *meanwhile])

    def look() -> dict[str, float]:
        restored = second.partitions()  # asked first: one that comes between the two scrapes is in the second alone
        shown = counters(sums(second))
        below = {series: value for series, value in shown.items() if value < truth_of(before).get(series, 0)}
        # A partition that is not back yet is absent; what is shown is never below what was shown.
        assert not below or restored < 2, below
        return shown

    eventually(look, lambda shown: shown == truth)
    eventually(lambda: results(fleet, second).get("duplicate"), lambda count: count == 100)
    assert sums(second)[f'{TRUST}{{agent_id="did:1"}}'] == 7
    assert sums(second)[f"{ACTIVE}{{}}"] == 9

    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    fleet.publish([*before[:3], event(REGISTERED, 91, "did:0")])
    third = fleet.start("governance-metrics")
    eventually(lambda: results(fleet, third).get("duplicate"), lambda count: count == 103)
    eventually(lambda: sums(third).get(f"{ACTIVE}{{}}"), lambda active: active == 10)
    assert counters(sums(third)) == truth


def test_two_copies_share_all_and_one_takes_over_without_counting_an_agent_twice(
    new_fleet: Callable[[int], Fleet],
):
    fleet = new_fleet(PARTITIONS)
    events = decisions(agents=20, each=10)
    fleet.publish([*events, *(event(SCORE, 0, f"did:{number}", score=number) for number in range(20))])
    trust = {f'{TRUST}{{agent_id="did:{number}"}}': float(number) for number in range(20)}
    truth = truth_of(events) | trust | {f"{ACTIVE}{{}}": 20}
    first = fleet.start("governance-metrics").wait_ready()

    def shown(*copies: RunningService) -> dict[str, float]:
        every = sums(*copies)
        return {
            series: value
            for series, value in every.items()
            if not series.startswith(("agent_governance_audit", f"{LATENCY}_bucket"))
        }

    eventually(lambda: shown(first), lambda seen: seen == truth)
    second = fleet.start("governance-metrics").wait_ready()
    eventually(lambda: [copy.partitions() for copy in (first, second)], lambda shares: shares == [2, 2])
    eventually(lambda: shown(first, second), lambda seen: seen == truth)
    fleet.publish(events)  # whoever has the partition now knows them
    eventually(lambda: results(fleet, first, second).get("duplicate"), lambda count: count == len(events))
    assert shown(first, second) == truth

    first.kill()
    eventually(second.partitions, lambda partitions: partitions == PARTITIONS, 60)
    eventually(lambda: shown(second), lambda seen: seen == truth)


def test_an_agent_that_was_killed_is_active_no_longer_after_its_time(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    service = fleet.start("governance-metrics", TELEMETRY_AGENT_TTL="1").wait_ready()
    fleet.publish([event(REGISTERED, 0, f"did:{number}") for number in range(6)])
    eventually(lambda: results(fleet, service), lambda seen: seen == {"applied": 6})
    eventually(lambda: sums(service).get(f"{ACTIVE}{{}}"), lambda active: active == 0)

    # A word long after, by the clock; its event time doesn't matter.
    fleet.publish([event(DECISION, 1, "did:3", allowed=True)])
    eventually(lambda: results(fleet, service), lambda seen: seen == {"applied": 7})
    eventually(lambda: sums(service).get(f"{ACTIVE}{{}}"), lambda active: active == 0)
    # Idleness is state: a successor shows it, and has no need to wait.
    service.kill()
    successor = fleet.start("governance-metrics", TELEMETRY_AGENT_TTL="1000000")
    eventually(lambda: sums(successor).get(f"{ACTIVE}{{}}"), lambda active: active == 0)


def test_agents_and_tools_are_labels_by_choice_below_a_ceiling(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(1)
    tools = ["a", "a", "b", "c", "d", "b"]
    fleet.publish([event(DECISION, 0, "did:x", allowed=False, tool_name=tool, evaluation_ms=1) for tool in tools])
    settings = {"TELEMETRY_GOVERNANCE_LABELS": "tool_name,agent_id", "TELEMETRY_MAX_SERIES": "2"}
    service = fleet.start("governance-metrics", **settings)
    eventually(lambda: results(fleet, service), lambda seen: seen == {"applied": 6})

    of = {"decision": "deny", "partition": 0}
    assert service.value(BLOCKED, **of, agent_id="did:x", tool_name="a") == 2
    assert service.value(BLOCKED, **of, agent_id="did:x", tool_name="b") == 2
    assert service.value(BLOCKED, **of, agent_id="__overflow__", tool_name="__overflow__") == 2
    assert service.value(f"{LATENCY}_count", **of, agent_id="did:x", tool_name="a") == 2
    assert service.value("agent_governance_denials_total", partition=0, tool_name="__overflow__") == 2
    assert service.value("hypervisor_telemetry_series_overflow_total", partition=0) == 2


def test_records_of_one_agent_meet_in_one_partition_whatever_their_session(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(PARTITIONS)
    fleet.publish(
        [
            HypervisorEvent(
                event_type=DECISION, agent_did="did:a", session_id=f"s{number}", payload={"allowed": True}
            )
            for number in range(8)
        ]
    )
    partitions = {record.partition() for record in fleet.records(fleet.topic("governance"))}
    assert partitions == {partition_of(b"did:a", PARTITIONS)}
