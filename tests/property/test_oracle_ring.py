"""RingMetricsCollector against the one of the real agent-hypervisor package: alike, but for its faults.

Where the two differ, a test of its own shows what the package does and what ours does, and says why.
"""

from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypervisor import ExecutionRing
from hypervisor import observability as package
from hypervisor.observability import prometheus_collector as package_collector
from hypothesis import given, settings
from hypothesis import strategies as st

from hypervisor_consumers.ring_metrics.collector import RingMetricsCollector
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
BREACHES = "agent_hypervisor_ring_breaches_total"
CURRENT = "agent_hypervisor_ring_current"
DURATION = "agent_hypervisor_ring_elevation_duration_seconds"

LAW = settings(deadline=None)  # a busy machine is no failure
START = datetime(2026, 1, 1, tzinfo=UTC)

RING_TYPES = [each.name for each in EventType if each.value.startswith("ring.")]


class Recorder:
    def __init__(self) -> None:
        self.counters: Counter[Any] = Counter()
        self.gauges: dict[Any, float] = {}

    def set_gauge(self, name, value, labels=None, help_text=""):
        self.gauges[name, *sorted(labels.items())] = value

    def inc_counter(self, name, value=1.0, labels=None, help_text=""):
        self.counters[name, *sorted(labels.items())] += value


class Pair:
    """The package's collector and ours, each on its own side's bus, given the same events."""

    def __init__(self) -> None:
        self.now = START
        self.package_bus, self.our_bus = package.HypervisorEventBus(), HypervisorEventBus()
        self.package = package.RingMetricsCollector(self.package_bus)
        self.ours = RingMetricsCollector(self.our_bus, clock=self._clock)

    def _clock(self) -> float:
        return self.now.timestamp()

    def emit(
        self,
        type_name: str,
        at: float = 0.0,
        agent: str | None = "a",
        session: str | None = "s",
        **payload: Any,
    ) -> None:
        """The event's time, `at` seconds from the start, is also the time now."""
        self.now = START + timedelta(seconds=at)
        fields = {"timestamp": self.now, "agent_did": agent, "session_id": session, "payload": payload}
        self.our_bus.emit(HypervisorEvent(event_type=EventType[type_name], **fields))
        self.package_bus.emit(package.HypervisorEvent(event_type=package.EventType[type_name], **fields))

    def export(self, theirs: Recorder, ours: Recorder) -> None:
        with mock.patch.object(package_collector, "time", SimpleNamespace(time=self._clock)):
            self.package.export_to_prometheus(theirs)
        self.ours.export_to_prometheus(ours)


@st.composite
def agreed_sequences(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Events that the package handles well: time only grows, an agent has one session, no `to_ring` of 0."""
    at, events = 0, []
    for _ in range(draw(st.integers(0, 40))):
        at += draw(st.integers(1, 100_000))
        agent = draw(st.sampled_from(["a", "b", "c", "", None]))
        session = {"a": "s", "b": "s", "c": "t", "": "", None: ""}[agent]
        ring = draw(st.sampled_from([1, 2, 3, "1", "3", ExecutionRing.RING_2_STANDARD]))
        payload = draw(
            st.sampled_from(
                [
                    {},
                    {"ring": ring},
                    {"ring": 0},
                    {"to_ring": ring},
                    {"to_ring": ring, "ring": 3},
                    {"to_ring": None, "ring": ring},
                    {"from_ring": 1, "reason": "any"},
                ]
            )
        )
        type_name = draw(st.sampled_from([*RING_TYPES * 3, "SAGA_CREATED", "SESSION_CREATED"]))
        events.append({"type_name": type_name, "at": at, "agent": agent, "session": session, **payload})
    return events


@LAW
@given(agreed_sequences())
def test_snapshots_are_the_packages(events):
    pair = Pair()
    for event in events:
        pair.emit(**event)
        assert pair.ours.collect() == pair.package.collect()


@LAW
@given(agreed_sequences())
def test_durations_are_the_packages_to_the_microsecond(events):
    pair = Pair()
    for event in events:
        pair.emit(**event | {"at": event["at"] / 1e6})
    theirs, ours = pair.package.collect(), pair.ours.collect()
    assert ours.pop(DURATION) == pytest.approx(theirs.pop(DURATION), abs=1e-6)
    assert ours == theirs


@LAW
@given(agreed_sequences(), st.integers(0, 100_000))
def test_the_first_export_is_the_packages(events, later):
    pair = Pair()
    for event in events:
        pair.emit(**event)
    pair.now += timedelta(seconds=later)
    theirs, ours = Recorder(), Recorder()
    pair.export(theirs, ours)
    assert (ours.counters, ours.gauges) == (theirs.counters, theirs.gauges)


@LAW
@given(agreed_sequences())
def test_after_a_reset_both_have_forgotten_everything(events):
    pair = Pair()
    for event in events:
        pair.emit(**event)
    for collector in (pair.package, pair.ours):
        collector.reset()
    assert pair.ours.collect() == pair.package.collect()
    pair.emit("RING_DEMOTED", at=10**7, ring=3)
    assert pair.ours.collect() == pair.package.collect()


@LAW
@given(agreed_sequences(), st.booleans(), st.booleans())
def test_buses_and_event_classes_of_both_sides_can_be_mixed(events, packages_bus, packages_events):
    bus = package.HypervisorEventBus() if packages_bus else HypervisorEventBus()
    event_class = package.HypervisorEvent if packages_events else HypervisorEvent
    types = package.EventType if packages_events else EventType
    collector, pair = RingMetricsCollector(bus), Pair()
    for event in events:
        pair.emit(**event)
        payload = {key: value for key, value in event.items() if key in {"ring", "to_ring"}}
        bus.emit(
            event_class(
                event_type=types[event["type_name"]],
                timestamp=pair.now,
                agent_did=event["agent"],
                session_id=event["session"],
                payload=payload,
            )
        )
    assert collector.collect() == pair.package.collect()


class TestWhereWeDifferOnPurpose:
    @pytest.fixture
    def pair(self) -> Pair:
        return Pair()

    @pytest.mark.parametrize("root", [0, ExecutionRing.RING_0_ROOT])
    def test_a_move_to_the_root_ring_is_not_lost(self, pair, root):
        """The package takes a `to_ring` of 0 for absent, so an agent that became root still looks sandboxed."""
        pair.emit("RING_ASSIGNED", ring=3)
        pair.emit("RING_ELEVATED", at=1, to_ring=root)
        assert pair.package.collect()[CURRENT] == {"a": 3}
        assert pair.ours.collect()[CURRENT] == {"a": 0}

    def test_root_wins_over_the_other_field(self, pair):
        """The package skips a `to_ring` of 0 and takes `ring`, whatever that one meant."""
        pair.emit("RING_ELEVATED", to_ring=0, ring=3)
        assert pair.package.collect()[CURRENT] == {"a": 3}
        assert pair.ours.collect()[CURRENT] == {"a": 0}

    def test_exporting_twice_adds_nothing(self, pair):
        """The package adds the whole count at every export, so its counters grow while nothing happens."""
        pair.emit("RING_BREACH_DETECTED")
        pair.emit("RING_ASSIGNED", ring=1)
        theirs, ours = Recorder(), Recorder()
        for _ in range(3):
            pair.export(theirs, ours)
        assert set(theirs.counters.values()) == {3}
        assert set(ours.counters.values()) == {1}
        assert theirs.counters.keys() == ours.counters.keys()

    def test_elevations_of_one_agent_in_two_sessions_are_kept_apart(self, pair):
        """The package has one clock per agent: the second session restarts it, the first one's end stops it."""
        pair.emit("RING_ELEVATED", at=0, session="s1")
        pair.emit("RING_ELEVATED", at=10, session="s2")
        pair.emit("RING_DEMOTED", at=12, session="s1")
        assert pair.package.collect()[DURATION] == {"a": 2}
        assert pair.ours.collect()[DURATION] == {"a": 12}
        pair.emit("RING_DEMOTED", at=15, session="s2")
        assert pair.package.collect()[DURATION] == {"a": 2}
        assert pair.ours.collect()[DURATION] == {"a": 5}

    def test_a_session_that_still_runs_is_exported_when_another_one_ended(self, pair):
        """With the package's one clock, an agent that is still root in one session looks demoted in all."""
        pair.emit("RING_ELEVATED", at=0, session="s1")
        pair.emit("RING_ELEVATED", at=10, session="s2")
        pair.emit("RING_DEMOTED", at=12, session="s1")
        pair.now = START + timedelta(seconds=40)
        theirs, ours = Recorder(), Recorder()
        pair.export(theirs, ours)
        assert theirs.gauges[DURATION, ("agent_did", "a")] == 2
        assert ours.gauges[DURATION, ("agent_did", "a")] == 30

    @pytest.mark.parametrize("ring", ["root", [1], {"ring": 1}])
    def test_a_payload_that_does_not_fit_is_not_raised_to_the_emitter(self, ring):
        """The package raises out of `emit`, into the agent, after it has counted half of the event."""
        bus = package.HypervisorEventBus()
        theirs = package.RingMetricsCollector(bus)
        bad = package.HypervisorEvent(event_type=package.EventType.RING_ASSIGNED, payload={"ring": ring})
        with pytest.raises((ValueError, TypeError)):
            bus.emit(bad)
        assert theirs.collect()[TRANSITIONS] == {("ring.assigned", "unknown", "unknown"): 1}

        bus = package.HypervisorEventBus()
        ours = RingMetricsCollector(bus)
        bus.emit(bad)
        assert ours.events_rejected == 1
        assert ours.collect()[TRANSITIONS] == {}
        assert ours.collect()["events_processed"] == theirs.collect()["events_processed"] == 1

    @pytest.mark.parametrize("ring", [4, -1, 1.5, True])
    def test_what_is_no_ring_is_not_shown_as_one(self, pair, ring):
        """There are rings 0 to 3. The package shows any number, and cuts fractions off."""
        pair.emit("RING_ASSIGNED", ring=ring)
        assert pair.package.collect()[CURRENT] == {"a": int(ring)}
        assert pair.ours.collect()[CURRENT] == {}
        assert pair.ours.events_rejected == 1

    def test_a_late_event_does_not_bring_an_old_ring_back(self, pair):
        """The package goes by arrival; events of several threads or processes don't arrive in their order."""
        pair.emit("RING_DEMOTED", at=10, ring=3)
        pair.emit("RING_ELEVATED", at=9, ring=1)
        assert pair.package.collect()[CURRENT] == {"a": 1}
        assert pair.ours.collect()[CURRENT] == {"a": 3}

    def test_no_elevation_lasts_less_than_nothing(self, pair):
        """The package subtracts whatever comes; clocks of two machines disagree."""
        pair.emit("RING_ELEVATED", at=10)
        pair.emit("RING_DEMOTED", at=8)
        assert pair.package.collect()[DURATION] == {"a": -2}
        assert pair.ours.collect()[DURATION] == {"a": 0}
