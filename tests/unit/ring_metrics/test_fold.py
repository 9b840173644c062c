"""The rules of the ring fold, one by one, and an agent's view over its sessions."""

import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

import msgspec
import pytest

from hypervisor_consumers.ring_metrics.fold import agent_rings
from hypervisor_consumers.ring_metrics.fold.event_fold import TRANSITION_TYPES, RingFold
from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, EndedElevations, RingSeries, RingState
from hypervisor_consumers.ring_metrics.metric_defs import RING_METRICS, RING_TRANSITIONS
from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, UnknownEventType
from hypervisor_schemas.settings import Settings

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


def over_a_base(state: RingState) -> RingState:
    """The same state as the runtime holds it once it is committed: nothing changed, all in the base."""
    fresh = RingState()
    fresh.series.base = dict(state.series.present())
    fresh.elevations.base = dict(state.elevations.present())
    return fresh


def transitions(state: RingState) -> dict[tuple[str, str, str], int]:
    return {
        (kind, *key): count
        for key, series in state.series.present()
        for kind, count in zip(TRANSITION_TYPES, series.transitions, strict=True)
        if count
    }


def breaches(state: RingState) -> dict[tuple[str, str], int]:
    return {key: series.breaches for key, series in state.series.present() if series.breaches}


def elevations(state: RingState) -> dict[str, tuple[int, int]]:
    return {bound: (bucket.count, bucket.microseconds) for (bound,), bucket in state.elevations.present()}


def rows(states: Iterable[RingState]) -> list[AgentRing]:
    return [row for state in states for row in agent_rings.agent_rings(state.series.present())]


def current_rings(states: Iterable[RingState]) -> dict[str, int]:
    return agent_rings.current_rings(rows(states))


def ended_durations(states: Iterable[RingState]) -> dict[str, float]:
    return agent_rings.ended_durations(rows(states))


def running_elevations(states: Iterable[RingState]) -> dict[str, float]:
    return agent_rings.running_elevations(rows(states))


def elevations_active(states: Iterable[RingState]) -> dict[str, int]:
    return agent_rings.elevations_active(rows(states))


def elevation_seconds(states: Iterable[RingState], now: float) -> dict[str, float]:
    return agent_rings.elevation_seconds(rows(states), now)


def test_the_seeds_metrics_have_the_seeds_names_types_and_labels():
    assert [(metric.name, metric.type, metric.labels) for metric in RING_METRICS] == [
        ("agent_hypervisor_ring_transitions_total", "counter", ("event_type", "agent_did", "session_id")),
        ("agent_hypervisor_ring_breaches_total", "counter", ("agent_did", "session_id")),
        ("agent_hypervisor_ring_current", "gauge", ("agent_did",)),
        ("agent_hypervisor_ring_elevation_duration_seconds", "gauge", ("agent_did",)),
        ("agent_hypervisor_ring_elevations_active", "gauge", ("agent_did",)),
        ("agent_hypervisor_ring_elevation_seconds", "histogram", ("partition",)),
        ("hypervisor_telemetry_series_kept", "gauge", ("partition",)),
        ("hypervisor_telemetry_series_overflow_total", "counter", ("partition",)),
        ("hypervisor_telemetry_series", "gauge", ()),
        ("hypervisor_telemetry_series_limit", "gauge", ()),
    ]


class TestCounting:
    @pytest.mark.parametrize("event_type", [ASSIGNED, ELEVATED, DEMOTED, EXPIRED])
    def test_a_transition_is_counted_by_type_agent_and_session(self, event_type):
        state = folded(*[event(event_type)] * 2, event(event_type, session="t"))
        assert transitions(state) == {(event_type.value, "a", "s"): 2, (event_type.value, "a", "t"): 1}
        assert breaches(state) == {}

    def test_a_counted_type_is_its_plain_value(self):
        [(event_type, _, _)] = transitions(folded(event(ASSIGNED)))
        assert type(event_type) is str
        assert f"{event_type}" == "ring.assigned"

    def test_a_breach_is_counted_by_agent_and_session_and_is_no_transition(self):
        state = folded(event(BREACH), event(BREACH), event(BREACH, agent="b"))
        assert dict(state.series) == {("a", "s"): RingSeries(breaches=2), ("b", "s"): RingSeries(breaches=1)}

    def test_a_breach_counts_whatever_its_payload_holds(self):
        state = folded(event(BREACH, ring="the one", to_ring=99))
        assert dict(state.series) == {("a", "s"): RingSeries(breaches=1)}

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
        assert transitions(state) == {("ring.assigned", "unknown", "s"): 1}
        assert breaches(state) == {("a", "unknown"): 1}
        assert current_rings([state]) == {"unknown": 1}

    def test_the_type_is_known_by_its_value_whatever_carries_it(self):
        class Foreign(Enum):
            ELEVATED = "ring.elevated"

        state = folded(event(Foreign.ELEVATED), event("ring.elevated"), event(UnknownEventType("ring.elevated")))
        assert transitions(state) == {("ring.elevated", "a", "s"): 3}


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
        assert transitions(state)["ring.demoted", "a", "s"] == 1

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
        assert state.series["a", "s"].ended_duration_us == 977  # 976.5625 µs, as a datetime rounds it

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
        assert (rows([state]), elevations(state)) == ([], {})

    def test_an_elevation_ends_once(self):
        state = folded(event(ELEVATED, at=1), event(DEMOTED, at=3), event(EXPIRED, at=9))
        assert ended_durations([state]) == {"a": 2.0}
        assert elevations(state) == {"5": (1, 2_000_000)}

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
        assert agent_rings.elevation_seconds(iter(rows([state])), now=57.5) == {"a": 7.5, "b": 2.0}

    def test_a_start_ahead_of_our_clock_gives_age_zero(self):
        assert elevation_seconds([folded(event(ELEVATED, at=10))], now=9.0) == {"a": 0.0}

    def test_ended_elevations_are_kept_as_a_histogram_with_inclusive_bounds(self):
        state = FOLD.new_state()
        for duration in (0, 1, 1.000001, 300, 86_400, 86_400.000001, 10_000_000):
            FOLD.apply(state, event(ELEVATED, at=0))
            FOLD.apply(state, event(DEMOTED, at=duration))
        assert elevations(state) == {
            "1": (2, 1_000_000),
            "5": (1, 1_000_001),
            "300": (1, 300_000_000),
            "86400": (1, 86_400_000_000),
            "+Inf": (2, 86_400_000_001 + 10_000_000_000_000),
        }

    def test_a_sum_of_durations_that_no_clock_can_have_measured_stays_within_64_bits(self):
        state, years = FOLD.new_state(), 9_998
        start = datetime(1, 1, 1, tzinfo=UTC)
        for _ in range(60):
            FOLD.apply(state, replace(event(ELEVATED), timestamp=start))
            FOLD.apply(state, replace(event(DEMOTED), timestamp=start.replace(year=1 + years)))
        assert elevations(state) == {"+Inf": (60, 2**63 - 1)}
        assert msgspec.json.decode(msgspec.json.encode(state.elevations["+Inf",]), type=EndedElevations).count == 60


class TestOneValue:
    @pytest.mark.parametrize("committed", [False, True])
    def test_one_event_changes_one_series_to_a_new_value(self, committed):
        before = folded(event(ELEVATED, at=1, ring=1), event(BREACH), event(BREACH, session="t"))
        state = over_a_base(before) if committed else deepcopy(before)
        FOLD.apply(state, event(ASSIGNED, at=3, ring=2, event_id="2" * 16), seen_at_ms=7)
        expected = RingSeries(
            assigned=1,
            elevated=1,
            breaches=1,
            ring=2,
            ring_at_us=3_000_000,
            ring_event_id="2" * 16,
            elevated_since_us=1_000_000,
            seen_at_ms=7,
        )
        assert state.series["a", "s"] == expected
        assert state.series["a", "t"] == RingSeries(breaches=1)
        if committed:
            assert dict(state.series) == {("a", "s"): expected}
            assert state.elevations == {}
            assert over_a_base(before).series.base == state.series.base

    def test_an_elevation_that_began_before_the_last_commit_ends_after_it(self):
        state = over_a_base(folded(event(ELEVATED, at=1)))
        FOLD.apply(state, event(DEMOTED, at=3))
        assert (ended_durations([state]), elevations(state)) == ({"a": 2.0}, {"5": (1, 2_000_000)})

    def test_a_value_is_written_as_an_array_that_may_grow_at_its_end(self):
        value = folded(event(ELEVATED, at=1, ring=1, event_id="e"), event(DEMOTED, at=2)).series["a", "s"]
        text = msgspec.json.encode(value)
        assert text == b'[0,1,1,0,0,1,1000000,"e",null,2000000,"0000000000000000",1000000,0,0]'
        assert msgspec.json.decode(text, type=RingSeries) == value
        assert msgspec.json.decode(b"[1,0]", type=RingSeries) == RingSeries(assigned=1)
        assert msgspec.json.decode(text[:-1] + b',"of a later version"]', type=RingSeries) == value


DAY_MS = 24 * 3600 * 1000


class TestStaleSeries:
    def test_a_series_idle_for_longer_than_the_limit_is_forgotten_with_its_row(self):
        fold, state = RingFold(series_ttl_ms=100), RingState()
        fold.apply(state, event(ASSIGNED, ring=1), seen_at_ms=1_000)
        fold.apply(state, event(ASSIGNED, agent="b", ring=2), seen_at_ms=1_001)
        assert fold.expire(state, now_ms=1_100) == ()
        assert set(state.series) == {("a", "s"), ("b", "s")}
        assert fold.expire(state, now_ms=1_101) == ()
        assert set(state.series) == {("b", "s")}
        assert current_rings([state]) == {"b": 2}

    def test_any_ring_event_keeps_a_series_and_no_other(self):
        fold, state = RingFold(series_ttl_ms=100), RingState()
        for session in "st":
            fold.apply(state, event(ASSIGNED, session=session, ring=1), seen_at_ms=0)
        fold.apply(state, event(BREACH), seen_at_ms=50)
        fold.expire(state, now_ms=101)
        assert set(state.series) == {("a", "s")}

    def test_event_times_do_not_matter(self):
        fold, state = RingFold(series_ttl_ms=100), RingState()
        fold.apply(state, event(ASSIGNED, at=-1e9, agent="from long ago", ring=1), seen_at_ms=1_000)
        fold.apply(state, event(ASSIGNED, at=1e11, agent="from the future", ring=1), seen_at_ms=800)
        fold.expire(state, now_ms=1_000)
        assert set(state.series) == {("from long ago", "s")}

    def test_a_record_published_earlier_makes_no_series_older(self):
        fold, state = RingFold(series_ttl_ms=100), RingState()
        fold.apply(state, event(ASSIGNED, ring=1), seen_at_ms=1_000)
        fold.apply(state, event(ASSIGNED, ring=2), seen_at_ms=10)
        assert state.series["a", "s"].seen_at_ms == 1_000
        fold.expire(state, now_ms=1_050)
        assert current_rings([state]) == {"a": 2}

    @pytest.mark.parametrize(("elevation_max_ms", "goes_after"), [(300, 300), (30, 100)])
    def test_a_running_elevation_keeps_its_series_for_its_own_limit(self, elevation_max_ms, goes_after):
        fold = RingFold(series_ttl_ms=100, elevation_max_ms=elevation_max_ms)
        state = RingState()
        fold.apply(state, event(ELEVATED, ring=1), seen_at_ms=0)
        fold.apply(state, event(ELEVATED, agent="b", ring=1), seen_at_ms=0)
        fold.apply(state, event(EXPIRED, agent="b", ring=3), seen_at_ms=0)
        fold.expire(state, now_ms=goes_after)
        assert ("a", "s") in state.series
        assert running_elevations([state]) == {"a": 0.0}
        fold.expire(state, now_ms=goes_after + 1)
        assert state.series == {}

    def test_an_elevation_that_ended_long_ago_is_still_in_the_histogram(self):
        fold, state = RingFold(series_ttl_ms=100), RingState()
        fold.apply(state, event(ELEVATED), seen_at_ms=0)
        fold.apply(state, event(DEMOTED, at=2), seen_at_ms=0)
        fold.expire(state, now_ms=1_000)
        assert (dict(state.series), elevations(state)) == ({}, {"5": (1, 2_000_000)})

    def test_a_forgotten_series_that_comes_back_begins_anew(self):
        fold, state = RingFold(series_ttl_ms=100), RingState()
        fold.apply(state, event(ELEVATED, ring=0), seen_at_ms=0)
        state = over_a_base(state)
        fold.expire(state, now_ms=DAY_MS * 2)
        assert dict(state.series) == {("a", "s"): None}
        assert state.series.size == 0
        fold.apply(state, event(DEMOTED), seen_at_ms=DAY_MS * 2)
        assert dict(state.series) == {("a", "s"): RingSeries(demoted=1, seen_at_ms=DAY_MS * 2)}
        assert state.series.size == 1

    def test_the_limits_are_those_of_the_settings(self):
        state = RingState()
        FOLD.apply(state, event(ELEVATED), seen_at_ms=0)
        FOLD.apply(state, event(ASSIGNED, agent="b"), seen_at_ms=0)
        FOLD.expire(state, now_ms=DAY_MS)
        assert state.series.size == 2
        FOLD.expire(state, now_ms=DAY_MS + 1)
        assert state.series.size == 0
        assert RING_TRANSITIONS.labels == Settings.RING_LABELS.default
        assert Settings.SERIES_TTL.default * 1000 == Settings.ELEVATION_MAX.default * 1000 == DAY_MS


@pytest.mark.parametrize("committed", [False, True])
class TestCeiling:
    def full(
        self, committed: bool, *, labels: tuple[str, ...] = RING_TRANSITIONS.labels
    ) -> tuple[RingFold, RingState]:
        """A state with two series and room for two."""
        fold, state = RingFold(max_series=2, series_ttl_ms=100, labels=labels), RingState()
        for agent in "ab":
            fold.apply(state, event(ASSIGNED, agent=agent, ring=1), seen_at_ms=1)
        return fold, over_a_base(state) if committed else state

    def test_a_new_series_beyond_it_is_counted_in_the_overflow_series(self, committed):
        fold, state = self.full(committed)
        for agent in "cde":
            for kind in (ELEVATED, BREACH, DEMOTED):
                assert fold.apply(state, event(kind, agent=agent, ring=0), seen_at_ms=5) == ()
        assert state.series[OVERFLOW] == RingSeries(elevated=3, demoted=3, breaches=3, seen_at_ms=5, overflowed=9)
        assert state.series.size == 3
        assert elevations(state) == {}
        assert current_rings([state]) == {"a": 1, "b": 1}

    def test_the_series_that_are_there_go_on(self, committed):
        fold, state = self.full(committed)
        fold.apply(state, event(ASSIGNED, agent="c", ring=1))
        fold.apply(state, event(ASSIGNED, at=1, agent="a", ring=3))
        assert transitions(state) == {
            ("ring.assigned", "a", "s"): 2,
            ("ring.assigned", "b", "s"): 1,
            ("ring.assigned", *OVERFLOW): 1,
        }
        assert current_rings([state]) == {"a": 3, "b": 1}

    def test_what_is_forgotten_makes_room(self, committed):
        fold, state = self.full(committed)
        fold.apply(state, event(ASSIGNED, agent="c", ring=1), seen_at_ms=500)
        fold.expire(state, now_ms=200)
        fold.apply(state, event(ASSIGNED, agent="c", ring=2), seen_at_ms=500)
        assert dict(state.series.present()).keys() == {OVERFLOW, ("c", "s")}
        assert current_rings([state]) == {"c": 2}

    def test_an_event_that_does_not_fit_overflows_nothing(self, committed):
        fold, state = self.full(committed)
        with pytest.raises(InvalidPayload):
            fold.apply(state, event(ASSIGNED, agent="c", ring=4))
        assert state.series[OVERFLOW] is None

    def test_with_labels_left_out_a_ring_that_finds_no_place_is_counted_as_overflowed(self, committed):
        fold, state = RingFold(max_series=2, labels=("event_type",)), RingState()
        fold.apply(state, event(ASSIGNED, ring=1))
        state = over_a_base(state) if committed else state
        fold.apply(state, event(ASSIGNED, agent="b", ring=1))
        fold.apply(state, event(BREACH, agent="b"))
        assert state.series["", ""] == RingSeries(assigned=2, breaches=1)
        assert state.series[OVERFLOW] == RingSeries(overflowed=1)
        assert current_rings([state]) == {"a": 1}


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "counted"),
        [
            (("event_type", "agent_did", "session_id"), {("a", "s"): 2, ("a", "t"): 1, ("b", "s"): 1}),
            (("agent_did", "session_id"), {("a", "s"): 2, ("a", "t"): 1, ("b", "s"): 1}),
            (("event_type", "agent_did"), {("a", ""): 3, ("b", ""): 1}),
            (("session_id",), {("", "s"): 3, ("", "t"): 1}),
            (("event_type",), {("", ""): 4}),
            ((), {("", ""): 4}),
        ],
    )
    def test_counts_are_summed_over_the_labels_that_are_left_out(self, labels, counted):
        fold, state = RingFold(labels=labels), RingState()
        for each in (
            event(ASSIGNED, ring=1),
            event(BREACH),
            event(DEMOTED, session="t", ring=3),
            event(ELEVATED, agent="b", at=9),
        ):
            fold.apply(state, each)
        sums = {key: sum(value.transitions) + value.breaches for key, value in state.series.items()}
        assert {key: count for key, count in sums.items() if count} == counted
        assert sums.keys() - counted.keys() <= {("a", "s"), ("a", "t"), ("b", "s")}
        assert current_rings([state]) == {"a": 3}
        assert running_elevations([state]) == {"b": 9.0}

    def test_without_a_ring_or_elevation_only_the_sum_has_an_entry(self):
        fold, state = RingFold(labels=("agent_did",)), RingState()
        for each in (event(ASSIGNED), event(DEMOTED), event(BREACH)):
            fold.apply(state, each)
        assert dict(state.series) == {("a", ""): RingSeries(assigned=1, demoted=1, breaches=1)}

    def test_a_sum_outlives_the_sessions_that_it_sums(self):
        fold, state = RingFold(labels=("event_type", "agent_did"), series_ttl_ms=100), RingState()
        fold.apply(state, event(ASSIGNED, session="s", ring=1), seen_at_ms=0)
        fold.apply(state, event(ASSIGNED, session="t", ring=2, at=1), seen_at_ms=60)
        fold.expire(state, now_ms=120)
        assert transitions(state) == {("ring.assigned", "a", ""): 2}
        assert {key for key, _ in state.series.present()} == {("a", ""), ("a", "t")}
        fold.expire(state, now_ms=161)
        assert state.series == {}

    def test_any_event_keeps_the_ring_of_its_session_alive(self):
        fold, state = RingFold(labels=("event_type",), series_ttl_ms=100), RingState()
        fold.apply(state, event(ASSIGNED, ring=1), seen_at_ms=0)
        fold.apply(state, event(BREACH), seen_at_ms=60)
        fold.expire(state, now_ms=120)
        assert current_rings([state]) == {"a": 1}

    def test_elevations_are_counted_whatever_the_labels(self):
        fold, state = RingFold(labels=()), RingState()
        fold.apply(state, event(ELEVATED, at=1))
        state = over_a_base(state)
        fold.apply(state, event(DEMOTED, at=3))
        assert elevations(state) == {"5": (1, 2_000_000)}
