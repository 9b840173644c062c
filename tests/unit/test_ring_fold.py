"""The rules of the ring fold, one by one, and an agent's view over its sessions."""

import time
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import pytest

from hypervisor_consumers.ring_metrics.fold import (
    RingFold,
    RingState,
    current_rings,
    elevation_seconds,
    elevations_active,
    ended_durations,
    running_elevations,
)
from hypervisor_consumers.ring_metrics.names import RING_METRICS
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, UnknownEventType

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FOLD = RingFold()

ASSIGNED = EventType.RING_ASSIGNED
ELEVATED = EventType.RING_ELEVATED
DEMOTED = EventType.RING_DEMOTED
EXPIRED = EventType.RING_ELEVATION_EXPIRED
BREACH = EventType.RING_BREACH_DETECTED


def event(
    event_type: Any,
    at: float = 0.0,
    agent: str | None = "a",
    session: str | None = "s",
    event_id: str = "0" * 16,
    **payload: Any,
) -> HypervisorEvent:
    return HypervisorEvent(
        event_id=event_id,
        event_type=event_type,
        timestamp=EPOCH + timedelta(seconds=at),
        agent_did=agent,
        session_id=session,
        payload=payload,
    )


def folded(*events: HypervisorEvent) -> RingState:
    state = FOLD.new_state()
    for each in events:
        FOLD.apply(state, each)
    return state


def test_the_seeds_metrics_have_the_seeds_names_types_and_labels():
    assert [(metric.name, metric.type, metric.labels) for metric in RING_METRICS] == [
        ("agent_hypervisor_ring_transitions_total", "counter", ("event_type", "agent_did", "session_id")),
        ("agent_hypervisor_ring_breaches_total", "counter", ("agent_did", "session_id")),
        ("agent_hypervisor_ring_current", "gauge", ("agent_did",)),
        ("agent_hypervisor_ring_elevation_duration_seconds", "gauge", ("agent_did",)),
        ("agent_hypervisor_ring_elevations_active", "gauge", ("agent_did",)),
        ("agent_hypervisor_ring_elevation_seconds", "histogram", ("partition",)),
    ]


class TestCounting:
    @pytest.mark.parametrize("event_type", [ASSIGNED, ELEVATED, DEMOTED, EXPIRED])
    def test_a_transition_is_counted_by_type_agent_and_session(self, event_type):
        state = folded(*[event(event_type)] * 2, event(event_type, session="t"))
        assert state.transitions == {(event_type.value, "a", "s"): 2, (event_type.value, "a", "t"): 1}
        assert state.breaches == {}

    def test_a_counted_type_is_its_plain_value(self):
        [(event_type, _, _)] = folded(event(ASSIGNED)).transitions
        assert type(event_type) is str
        assert f"{event_type}" == "ring.assigned"

    def test_a_breach_is_counted_by_agent_and_session_and_is_no_transition(self):
        state = folded(event(BREACH), event(BREACH), event(BREACH, agent="b"))
        assert state == RingState(breaches={("a", "s"): 2, ("b", "s"): 1})

    def test_a_breach_counts_whatever_its_payload_holds(self):
        state = folded(event(BREACH, ring="the one", to_ring=99))
        assert state == RingState(breaches={("a", "s"): 1})

    @pytest.mark.parametrize(
        "event_type",
        [
            EventType.SAGA_CREATED,
            EventType.SESSION_CREATED,
            GovernanceEventType.POLICY_DECISION,
            UnknownEventType("ring.polished"),
            UnknownEventType(""),
        ],
    )
    def test_any_other_event_is_ignored_and_changes_nothing(self, event_type):
        state = FOLD.new_state()
        assert FOLD.apply(state, event(event_type, ring="not looked at")) is None
        assert state == RingState()

    @pytest.mark.parametrize("event_type", [ASSIGNED, BREACH])
    def test_a_ring_event_has_no_outputs_and_is_not_ignored(self, event_type):
        assert FOLD.apply(FOLD.new_state(), event(event_type)) == ()

    @pytest.mark.parametrize("absent", [None, ""])
    def test_an_absent_agent_or_session_is_unknown(self, absent):
        state = folded(event(ASSIGNED, agent=absent, ring=1), event(BREACH, session=absent))
        assert state.transitions == {("ring.assigned", "unknown", "s"): 1}
        assert state.breaches == {("a", "unknown"): 1}
        assert current_rings([state]) == {"unknown": 1}

    def test_the_type_is_known_by_its_value_whatever_carries_it(self):
        class Foreign(Enum):
            ELEVATED = "ring.elevated"

        state = folded(event(Foreign.ELEVATED), event("ring.elevated"), event(UnknownEventType("ring.elevated")))
        assert state.transitions == {("ring.elevated", "a", "s"): 3}


class TestCurrentRing:
    @pytest.mark.parametrize(
        ("payload", "ring"),
        [
            ({"to_ring": 2}, 2),
            ({"ring": 3}, 3),
            ({"to_ring": 0}, 0),
            ({"ring": 0}, 0),
            ({"to_ring": 0, "ring": 3}, 0),
            ({"to_ring": None, "ring": 1}, 1),
            ({"to_ring": "0"}, 0),
            ({"ring": "2"}, 2),
            ({"to_ring": 1, "from_ring": 3, "reason": ["any", "thing"]}, 1),
        ],
    )
    def test_the_ring_is_to_ring_else_ring_and_root_is_a_ring(self, payload, ring):
        assert current_rings([folded(event(ASSIGNED, **payload))]) == {"a": ring}

    def test_a_transition_without_a_ring_leaves_the_ring_alone(self):
        state = folded(event(ASSIGNED, at=1, ring=2), event(DEMOTED, at=2))
        assert current_rings([state]) == {"a": 2}
        assert state.transitions[("ring.demoted", "a", "s")] == 1

    @pytest.mark.parametrize("ring", [4, -1, 1.5, "root", "", True, [1], {"ring": 1}])
    @pytest.mark.parametrize("event_type", [ASSIGNED, ELEVATED, DEMOTED, EXPIRED])
    def test_a_ring_that_is_none_is_refused_and_nothing_changes(self, event_type, ring):
        state = folded(event(ELEVATED, at=1, ring=1))
        before = deepcopy(state)
        with pytest.raises(InvalidPayload, match="ring"):
            FOLD.apply(state, event(event_type, at=2, ring=ring))
        assert state == before

    @pytest.mark.parametrize("payload", [None, [], "ring"])
    def test_a_payload_that_is_no_object_is_refused_and_nothing_changes(self, payload):
        state = FOLD.new_state()
        with pytest.raises(InvalidPayload):
            FOLD.apply(state, HypervisorEvent(event_type=ASSIGNED, payload=payload))
        assert state == RingState()

    def test_within_a_session_the_latest_event_time_decides(self):
        state = folded(event(ASSIGNED, at=5, ring=1), event(ASSIGNED, at=3, ring=3))
        assert current_rings([state]) == {"a": 1}

    def test_within_a_session_arrival_decides_among_equal_times(self):
        state = folded(
            event(ASSIGNED, at=5, ring=1, event_id="f" * 16), event(ASSIGNED, at=5, ring=3, event_id="1" * 16)
        )
        assert current_rings([state]) == {"a": 3}

    def test_times_a_microsecond_apart_are_told_apart_in_any_year(self):
        late = (datetime(9999, 12, 31, tzinfo=UTC) - EPOCH).total_seconds()
        last = event(ASSIGNED, at=late, ring=1)
        before = replace(last, timestamp=last.timestamp - timedelta(microseconds=1), payload={"ring": 2})
        assert current_rings([folded(last, before)]) == {"a": 1}

    def test_an_agents_ring_is_that_of_its_latest_session_wherever_it_lies(self):
        states = [
            folded(event(ASSIGNED, at=9, session="s1", ring=0), event(ASSIGNED, at=1, session="s2", ring=3)),
            folded(event(ASSIGNED, at=8, session="s3", ring=2), event(ASSIGNED, at=2, agent="b", ring=1)),
        ]
        assert current_rings(states) == current_rings(reversed(states)) == {"a": 0, "b": 1}

    def test_the_greater_event_id_decides_between_sessions_at_one_time(self):
        states = [
            folded(event(ASSIGNED, at=9, session="s1", ring=1, event_id="b" * 16)),
            folded(event(ASSIGNED, at=9, session="s2", ring=2, event_id="c" * 16)),
            folded(event(ASSIGNED, at=9, session="s3", ring=3, event_id="a" * 16)),
        ]
        assert current_rings(states) == current_rings(reversed(states)) == {"a": 2}

    @pytest.fixture
    def far_from_utc(self, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Asia/Tokyo")
            time.tzset()
            yield
        time.tzset()

    @pytest.mark.usefixtures("far_from_utc")
    def test_a_time_without_a_zone_is_utc(self):
        with_zone = event(ASSIGNED, at=1_000_000, ring=1)
        without = replace(with_zone, timestamp=with_zone.timestamp.replace(tzinfo=None))
        assert folded(without) == folded(with_zone)


class TestElevations:
    @pytest.mark.parametrize("end", [DEMOTED, EXPIRED])
    def test_an_elevation_lasts_until_demotion_or_expiry(self, end):
        state = folded(event(ELEVATED, at=10, to_ring=1), event(end, at=12.5, to_ring=3))
        assert ended_durations([state]) == {"a": 2.5}
        assert running_elevations([state]) == {}

    def test_durations_are_exact_to_the_microsecond(self):
        year_9000 = (datetime(9000, 1, 1, tzinfo=UTC) - EPOCH).total_seconds()
        state = folded(event(ELEVATED, at=year_9000), event(DEMOTED, at=year_9000 + 1 / 1024))
        [(_, _, duration)] = state.ended.values()
        assert duration == 977  # 976.5625 µs, as a datetime rounds it

    def test_an_assignment_does_not_touch_the_clock(self):
        state = folded(event(ELEVATED, at=10), event(ASSIGNED, at=11, ring=3), event(DEMOTED, at=14))
        assert ended_durations([state]) == {"a": 4.0}

    def test_being_elevated_again_starts_the_clock_again(self):
        state = folded(event(ELEVATED, at=10), event(ELEVATED, at=13), event(DEMOTED, at=14))
        assert ended_durations([state]) == {"a": 1.0}

    def test_an_elevation_without_a_ring_runs_all_the_same(self):
        state = folded(event(ELEVATED, at=10))
        assert running_elevations([state]) == {"a": 10.0}
        assert current_rings([state]) == {}

    def test_an_end_without_a_start_ends_nothing(self):
        state = folded(event(DEMOTED, at=1), event(EXPIRED, at=2))
        assert (state.ended, state.elevations, elevations_active([state])) == ({}, {}, {})

    def test_an_elevation_ends_once(self):
        state = folded(event(ELEVATED, at=1), event(DEMOTED, at=3), event(EXPIRED, at=9))
        assert ended_durations([state]) == {"a": 2.0}
        assert state.elevations == {"5": (1, 2_000_000)}

    def test_an_elevation_that_ends_before_it_began_lasted_no_time(self):
        state = folded(event(ELEVATED, at=10), event(DEMOTED, at=7))
        assert ended_durations([state]) == {"a": 0.0}

    def test_sessions_of_one_agent_are_kept_apart(self):
        state = folded(
            event(ELEVATED, at=0, session="s1"),
            event(ELEVATED, at=10, session="s2"),
            event(DEMOTED, at=12, session="s1"),
        )
        assert ended_durations([state]) == {"a": 12.0}
        assert running_elevations([state]) == {"a": 10.0}

    def test_the_last_elevation_that_ended_is_the_last_by_event_time(self):
        one_session = folded(
            event(ELEVATED, at=20), event(DEMOTED, at=30), event(ELEVATED, at=5), event(DEMOTED, at=6)
        )
        assert ended_durations([one_session]) == {"a": 10.0}
        other = folded(event(ELEVATED, at=28, session="t"), event(DEMOTED, at=31, session="t"))
        assert ended_durations([one_session, other]) == ended_durations([other, one_session]) == {"a": 3.0}

    def test_within_a_session_arrival_decides_among_ends_at_one_time(self):
        state = folded(
            event(ELEVATED, at=1),
            event(DEMOTED, at=9, event_id="f" * 16),
            event(ELEVATED, at=3),
            event(EXPIRED, at=9, event_id="1" * 16),
        )
        assert ended_durations([state]) == {"a": 6.0}

    def test_the_greater_event_id_decides_between_ends_at_one_time(self):
        def ended(session: str, start: float, event_id: str) -> RingState:
            return folded(
                event(ELEVATED, at=start, session=session), event(DEMOTED, at=9, session=session, event_id=event_id)
            )

        states = [ended("s1", 1, "b" * 16), ended("s2", 2, "c" * 16), ended("s3", 3, "a" * 16)]
        assert ended_durations(states) == ended_durations(reversed(states)) == {"a": 7.0}

    def test_the_oldest_running_elevation_stands_for_the_agent(self):
        states = [
            folded(event(ELEVATED, at=20, session="s1"), event(ELEVATED, at=15, session="s2")),
            folded(event(ELEVATED, at=17, session="s3"), event(ELEVATED, at=1, agent="b")),
        ]
        assert running_elevations(states) == running_elevations(reversed(states)) == {"a": 15.0, "b": 1.0}

    def test_active_elevations_are_counted_by_session_and_end_at_zero(self):
        states = [
            folded(event(ELEVATED, session="s1"), event(ELEVATED, session="s1"), event(ELEVATED, session="s2")),
            folded(event(ELEVATED, session="s3"), event(ELEVATED, agent="b"), event(DEMOTED, agent="b")),
            folded(event(ASSIGNED, agent="never elevated", ring=1)),
        ]
        assert elevations_active(states) == {"a": 3, "b": 0}

    def test_a_running_elevation_shows_its_age_and_an_ended_one_its_duration(self):
        state = folded(
            event(ELEVATED, at=10, session="s1"),
            event(DEMOTED, at=40, session="s1"),
            event(ELEVATED, at=50, session="s2"),
            event(ELEVATED, at=10, agent="b"),
            event(DEMOTED, at=12, agent="b"),
        )
        assert elevation_seconds([state], now=57.5) == {"a": 7.5, "b": 2.0}
        assert elevation_seconds(iter([state]), now=57.5) == {"a": 7.5, "b": 2.0}

    def test_a_start_ahead_of_our_clock_gives_age_zero(self):
        assert elevation_seconds([folded(event(ELEVATED, at=10))], now=9.0) == {"a": 0.0}

    def test_ended_elevations_are_kept_as_a_histogram_with_inclusive_bounds(self):
        state = FOLD.new_state()
        for duration in (0, 1, 1.000001, 300, 86_400, 86_400.000001, 10_000_000):
            FOLD.apply(state, event(ELEVATED, at=0))
            FOLD.apply(state, event(DEMOTED, at=duration))
        assert state.elevations == {
            "1": (2, 1_000_000),
            "5": (1, 1_000_001),
            "300": (1, 300_000_000),
            "86400": (1, 86_400_000_000),
            "+Inf": (2, 86_400_000_001 + 10_000_000_000_000),
        }
