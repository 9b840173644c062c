"""The changes that each governance event makes: counts, latencies, trust, presence, the ceilings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hypervisor_consumers.governance_metrics.fold.event_fold import GovernanceFold
from hypervisor_consumers.governance_metrics.fold.state import (
    AUDITED,
    NO_BUCKETS,
    OVERFLOWED,
    Decisions,
    Denials,
    GovernanceState,
    GovernedAgent,
)
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import AnyEventType, EventType, GovernanceEventType, HypervisorEvent, event_type_of
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS
from hypervisor_schemas.settings import Settings

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DECISION, SCORE = GovernanceEventType.POLICY_DECISION, GovernanceEventType.TRUST_SCORE
AUDIT = GovernanceEventType.AUDIT_EVENT
REGISTERED, DEREGISTERED = GovernanceEventType.AGENT_REGISTERED, GovernanceEventType.AGENT_DEREGISTERED
FOLD = GovernanceFold()


def event(
    kind: AnyEventType, second: float = 0, agent: str | None = "a", event_id: str | None = None, **payload: Any
) -> HypervisorEvent:
    named = {} if event_id is None else {"event_id": event_id}
    at = NOON + timedelta(seconds=second)
    return HypervisorEvent(event_type=kind, timestamp=at, agent_did=agent, payload=payload, **named)


def folded(*events: HypervisorEvent, fold: GovernanceFold = FOLD, seen_at_ms: int = 0) -> GovernanceState:
    state = fold.new_state()
    for one in events:
        assert fold.apply(state, one, seen_at_ms) == ()
    return state


def agent(state: GovernanceState, name: str = "a") -> GovernedAgent:
    found = state.agents[name,]
    assert found is not None
    return found


def decisions(state: GovernanceState) -> dict[tuple[str, str, str], int]:
    return {key: series.count for key, series in state.decisions.present()}


def denials(state: GovernanceState) -> dict[str, int]:
    return {tool: row.count for (tool,), row in state.denials.present()}


class TestCounting:
    def test_the_seeds_three_decisions(self):
        state = folded(
            event(DECISION, agent="did:mesh:data-analyst", tool_name="file_read", allowed=True, evaluation_ms=0.05),
            event(DECISION, agent="did:mesh:untrusted", tool_name="shell_exec", allowed=False, evaluation_ms=0.12),
            event(
                DECISION,
                agent="did:mesh:noisy-agent",
                tool_name="api_call",
                allowed=False,
                evaluation_ms=0.01,
                rate_limited=True,
            ),
        )
        allowed, denied = state.decisions["allow", "", ""], state.decisions["deny", "", ""]
        assert allowed is not None
        assert denied is not None
        assert (allowed.count, allowed.rate_limited, allowed.nanoseconds) == (1, 0, 50_000)
        assert (denied.count, denied.rate_limited, denied.nanoseconds) == (2, 1, 130_000)
        assert denials(state) == {"shell_exec": 1, "api_call": 1}
        assert state.agents.size == 3

    def test_a_limited_request_that_was_allowed_is_a_hit_and_no_denial(self):
        state = folded(event(DECISION, allowed=True, rate_limited=True, tool_name="t"))
        assert state.decisions["allow", "", ""] == Decisions(1, 1)
        assert denials(state) == {}

    def test_a_decision_without_a_latency_is_in_no_bucket(self):
        state = folded(event(DECISION, allowed=True), event(DECISION, allowed=True, evaluation_ms=None))
        assert state.decisions["allow", "", ""] == Decisions(2, 0, 0, NO_BUCKETS)

    @pytest.mark.parametrize(
        ("milliseconds", "bucket"),
        [
            (0, 0),
            (-0.0, 0),
            (0.01, 0),
            (0.0100001, 1),
            *((bound, number) for number, bound in enumerate(LATENCY_BUCKETS_MS)),
            (10_000.5, len(LATENCY_BUCKETS_MS)),
            (1e308, len(LATENCY_BUCKETS_MS)),
            (float("inf"), len(LATENCY_BUCKETS_MS)),
        ],
    )
    def test_a_latency_is_in_the_bucket_whose_bound_it_does_not_pass(self, milliseconds: float, bucket: int):
        series = folded(event(DECISION, allowed=True, evaluation_ms=milliseconds)).decisions["allow", "", ""]
        assert series is not None
        assert [number for number, count in enumerate(series.buckets) if count] == [bucket]
        assert series.nanoseconds == min(round(min(milliseconds, 1e15) * 1e6), 2**63 - 1)

    def test_a_sum_of_latencies_stays_within_64_bits(self):
        state = folded(*(event(DECISION, allowed=True, evaluation_ms=1e300) for _ in range(3)))
        series = state.decisions["allow", "", ""]
        assert series is not None
        assert (series.count, series.nanoseconds) == (3, 2**63 - 1)

    def test_audit_events_are_counted_whatever_they_say_and_of_whomever(self):
        state = folded(event(AUDIT, entry="x"), event(AUDIT, agent=None), event(AUDIT, agent=""))
        assert state.totals[AUDITED] == 3
        assert [key for key, _ in state.agents.present()] == [("a",)]

    def test_a_decision_without_an_agent_counts_and_is_nobodys(self):
        state = folded(event(DECISION, agent=None, allowed=False), event(DECISION, agent="", allowed=True))
        assert decisions(state) == {("deny", "", ""): 1, ("allow", "", ""): 1}
        assert denials(state) == {"unknown": 1}
        assert state.agents.size == 0

    @pytest.mark.parametrize(
        "kind", [event_type_of("governance.of_tomorrow"), EventType.RING_ASSIGNED, EventType.SESSION_CREATED]
    )
    def test_any_other_event_is_ignored(self, kind: AnyEventType):
        state = FOLD.new_state()
        assert FOLD.apply(state, event(kind, allowed="no")) is None
        assert state == FOLD.new_state()

    @pytest.mark.parametrize(
        ("kind", "payload", "named"),
        [
            (DECISION, {}, "allowed"),
            (DECISION, {"allowed": 1}, "allowed"),
            (DECISION, {"allowed": None}, "allowed"),
            (DECISION, {"allowed": "true"}, "allowed"),
            (DECISION, {"allowed": True, "evaluation_ms": -0.1}, "evaluation_ms"),
            (DECISION, {"allowed": True, "evaluation_ms": "NaN"}, "evaluation_ms"),
            (DECISION, {"allowed": True, "evaluation_ms": float("nan")}, "evaluation_ms"),
            (DECISION, {"allowed": True, "evaluation_ms": True}, "evaluation_ms"),
            (DECISION, {"allowed": True, "tool_name": 7}, "tool_name"),
            (DECISION, {"allowed": True, "rate_limited": None}, "rate_limited"),
            (SCORE, {}, "score"),
            (SCORE, {"score": -1}, "score"),
            (SCORE, {"score": 1000.5}, "score"),
            (SCORE, {"score": "850"}, "score"),
        ],
    )
    def test_a_payload_that_does_not_fit_changes_nothing(
        self, kind: GovernanceEventType, payload: dict[str, Any], named: str
    ):
        state = FOLD.new_state()
        with pytest.raises(InvalidPayload, match=named):
            FOLD.apply(state, event(kind, **payload))
        assert state == FOLD.new_state()

    @pytest.mark.parametrize("kind", [SCORE, REGISTERED, DEREGISTERED])
    @pytest.mark.parametrize("nobody", [None, ""])
    def test_what_is_about_an_agent_has_to_name_one(self, kind: GovernanceEventType, nobody: str | None):
        with pytest.raises(InvalidPayload, match=f"A {kind.value} without agent_did is about nobody"):
            FOLD.apply(FOLD.new_state(), event(kind, agent=nobody, score=1))


class TestTrust:
    def test_the_score_is_that_of_the_greatest_event_time_whatever_comes_last(self):
        state = folded(event(SCORE, 5, score=700), event(SCORE, 9, score=850.5), event(SCORE, 7, score=100))
        assert agent(state).score == 850.5

    def test_among_equal_times_the_greater_event_id_wins(self):
        for order in ((0, 1), (1, 0)):
            events = [event(SCORE, event_id="aa", score=1), event(SCORE, event_id="ab", score=2)]
            assert agent(folded(*(events[number] for number in order))).score == 2

    def test_scores_may_be_of_times_before_1970(self):
        state = folded(event(SCORE, -3e9, score=0))
        assert agent(state).score == 0

    def test_other_events_leave_the_score(self):
        state = folded(
            event(SCORE, score=0), event(DECISION, 9, allowed=True), event(DEREGISTERED, 10), event(AUDIT, 11)
        )
        assert agent(state).score == 0


class TestPresence:
    @pytest.mark.parametrize("kind", [DECISION, SCORE, AUDIT, REGISTERED])
    def test_an_agent_that_is_heard_of_is_active_registered_or_not(self, kind: GovernanceEventType):
        assert agent(folded(event(kind, allowed=True, score=1))).is_active

    def test_one_that_deregisters_is_not(self):
        assert not agent(folded(event(REGISTERED), event(DEREGISTERED, 5))).is_active

    @pytest.mark.parametrize("kind", [DECISION, REGISTERED])
    def test_one_that_registers_or_asks_after_that_is_again(self, kind: GovernanceEventType):
        state = folded(event(REGISTERED), event(DEREGISTERED, 5), event(kind, 6, allowed=True))
        assert agent(state).is_active

    @pytest.mark.parametrize("kind", [SCORE, AUDIT])
    def test_what_others_say_of_it_after_that_does_not_bring_it_back(self, kind: GovernanceEventType):
        assert not agent(folded(event(DEREGISTERED, 5), event(kind, 6, score=1))).is_active

    def test_its_words_go_by_event_time_not_by_arrival(self):
        late = folded(event(DEREGISTERED, 5), event(DECISION, 4, allowed=True), event(REGISTERED, 0))
        assert not agent(late).is_active
        assert agent(folded(event(REGISTERED, 6), event(DEREGISTERED, 5))).is_active

    def test_among_equal_times_the_greater_event_id_wins(self):
        words = [event(DEREGISTERED, event_id="aa"), event(REGISTERED, event_id="ab")]
        assert agent(folded(*words)).is_active
        assert agent(folded(*reversed(words))).is_active

    def test_one_of_which_nothing_is_heard_for_longer_than_the_time_is_not(self):
        fold = GovernanceFold(agent_ttl_ms=100)
        state = folded(event(REGISTERED), fold=fold, seen_at_ms=1000)
        fold.expire(state, 1100)
        assert agent(state).is_active
        fold.expire(state, 1101)
        assert not agent(state).is_active

    def test_and_is_again_with_the_next_event(self):
        fold = GovernanceFold(agent_ttl_ms=100)
        state = folded(event(REGISTERED), fold=fold, seen_at_ms=1000)
        fold.expire(state, 2000)
        fold.apply(state, event(AUDIT), 1999)
        assert agent(state).is_active

    def test_an_event_that_was_published_earlier_takes_nothing_of_its_time(self):
        fold = GovernanceFold(agent_ttl_ms=100)
        state = folded(event(REGISTERED), fold=fold, seen_at_ms=1000)
        fold.apply(state, event(AUDIT), 900)
        fold.expire(state, 1100)
        assert agent(state).is_active

    def test_event_time_is_not_what_it_is_judged_by(self):
        fold = GovernanceFold(agent_ttl_ms=100)
        state = folded(event(REGISTERED, -1e9), event(DECISION, 1e9, "b", allowed=True), fold=fold, seen_at_ms=1000)
        fold.expire(state, 1050)
        assert agent(state).is_active
        fold.expire(state, 1200)
        assert not agent(state, "b").is_active

    def test_default_is_a_quarter_of_an_hour(self):
        assert Settings.AGENT_TTL.default == 900
        state = folded(event(REGISTERED), seen_at_ms=1)
        FOLD.expire(state, 900_001)
        assert agent(state).is_active
        FOLD.expire(state, 900_002)
        assert not agent(state).is_active


class TestForgetting:
    def test_labelled_series_denials_and_agents_go_when_idle_for_longer_than_the_time(self):
        fold = GovernanceFold(series_ttl_ms=100, agent_ttl_ms=10, labels=("tool_name",))
        state = folded(event(DECISION, allowed=False, tool_name="t"), event(AUDIT), fold=fold, seen_at_ms=1000)
        fold.expire(state, 1100)
        assert decisions(state) == {("deny", "", "t"): 1}
        assert denials(state) == {"t": 1}
        assert agent(state).is_idle
        fold.expire(state, 1101)
        assert (decisions(state), denials(state), state.agents.size) == ({}, {}, 0)
        assert state.totals[AUDITED] == 1

    def test_series_without_labels_stay(self):
        state = folded(event(DECISION, allowed=False), seen_at_ms=1)
        FOLD.expire(state, 10**15)
        assert decisions(state) == {("deny", "", ""): 1}

    def test_an_agent_is_kept_for_as_long_as_it_counts_as_active(self):
        fold = GovernanceFold(series_ttl_ms=10, agent_ttl_ms=100)
        state = folded(event(REGISTERED), fold=fold, seen_at_ms=1000)
        fold.expire(state, 1100)
        assert agent(state).is_active
        fold.expire(state, 1101)
        assert state.agents.size == 0

    def test_idleness_is_counted_from_the_latest_event(self):
        fold = GovernanceFold(series_ttl_ms=100, labels=("agent_id",))
        state = folded(event(DECISION, allowed=False), fold=fold, seen_at_ms=1000)
        fold.apply(state, event(DECISION, allowed=False), 900)
        fold.expire(state, 1100)
        assert decisions(state) == {("deny", "a", ""): 2}
        assert state.denials["unknown",] == Denials(2, 1000)


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "key"),
        [
            ((), ("allow", "", "")),
            (("agent_id",), ("allow", "a", "")),
            (("tool_name",), ("allow", "", "t")),
            (("tool_name", "agent_id"), ("allow", "a", "t")),
        ],
    )
    def test_what_a_decision_is_counted_under(self, labels: tuple[str, ...], key: tuple[str, str, str]):
        fold = GovernanceFold(labels=labels)
        assert decisions(folded(event(DECISION, allowed=True, tool_name="t"), fold=fold)) == {key: 1}

    def test_what_is_absent_is_unknown(self):
        fold = GovernanceFold(labels=("agent_id", "tool_name"))
        state = folded(
            event(DECISION, agent=None, allowed=True),
            event(DECISION, agent="", allowed=True, tool_name=""),
            fold=fold,
        )
        assert decisions(state) == {("allow", "unknown", "unknown"): 2}


class TestCeiling:
    def test_decisions_beyond_it_are_counted_in_the_overflow_series_of_their_decision(self):
        fold = GovernanceFold(labels=("tool_name",), max_series=2)
        tools = ["a", "b", "c", "a", "d"]
        state = folded(*(event(DECISION, allowed=True, tool_name=tool) for tool in tools), fold=fold)
        assert decisions(state) == {("allow", "", "a"): 2, ("allow", "", "b"): 1, ("allow", "", "__overflow__"): 2}
        assert state.totals[OVERFLOWED] == 2

    def test_denied_tools_beyond_it_are_counted_together(self):
        fold = GovernanceFold(max_series=1)
        state = folded(*(event(DECISION, allowed=False, tool_name=tool) for tool in "aba"), fold=fold)
        assert denials(state) == {"a": 2, "__overflow__": 1}
        assert decisions(state) == {("deny", "", ""): 3}
        assert state.totals[OVERFLOWED] == 1

    def test_agents_beyond_it_are_counted_and_not_kept(self):
        fold = GovernanceFold(max_series=1)
        state = folded(event(REGISTERED), event(SCORE, agent="b", score=1), event(AUDIT, agent="c"), fold=fold)
        assert [key for key, _ in state.agents.present()] == [("a",)]
        assert state.totals[AUDITED] == 1
        assert state.totals[OVERFLOWED] == 2

    def test_an_event_of_which_nothing_has_a_place_overflows_once(self):
        fold = GovernanceFold(labels=("agent_id", "tool_name"), max_series=1)
        state = folded(*(event(DECISION, agent=who, allowed=False, tool_name=who) for who in ("a", "b")), fold=fold)
        assert state.totals[OVERFLOWED] == 1

    def test_the_two_series_without_labels_have_none(self):
        fold = GovernanceFold(max_series=1)
        state = folded(event(DECISION, allowed=True), event(DECISION, allowed=False), fold=fold)
        assert decisions(state) == {("allow", "", ""): 1, ("deny", "", ""): 1}
        assert state.totals[OVERFLOWED] is None

    def test_a_place_that_expired_is_free(self):
        fold = GovernanceFold(labels=("tool_name",), max_series=1, series_ttl_ms=10, agent_ttl_ms=10)
        state = folded(event(DECISION, allowed=True, tool_name="a"), fold=fold, seen_at_ms=1)
        fold.expire(state, 100)
        fold.apply(state, event(DECISION, agent="b", allowed=True, tool_name="b"), 100)
        assert decisions(state) == {("allow", "", "b"): 1}
        assert state.totals[OVERFLOWED] is None
