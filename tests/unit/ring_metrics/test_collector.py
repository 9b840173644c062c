"""RingMetricsCollector in an agent's process: snapshots, exports, and what it must never do to the agent."""

import gc
import logging
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from hypervisor_consumers.ring_metrics.collector import RingMetricsCollector
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent, UnknownEventType
from hypervisor_schemas.settings import Settings

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
BREACHES = "agent_hypervisor_ring_breaches_total"
CURRENT = "agent_hypervisor_ring_current"
DURATION = "agent_hypervisor_ring_elevation_duration_seconds"

ASSIGNED = EventType.RING_ASSIGNED
ELEVATED = EventType.RING_ELEVATED
DEMOTED = EventType.RING_DEMOTED
BREACH = EventType.RING_BREACH_DETECTED

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event(
    event_type: Any, at: float = 0.0, agent: str | None = "a", session: str | None = "s", **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=event_type,
        timestamp=EPOCH + timedelta(seconds=at),
        agent_did=agent,
        session_id=session,
        payload=payload,
    )


class Recording:
    """An exporter as users write them."""

    __slots__ = ()

    def set_gauge(self, name, value, labels=None, help_text=""):
        self.calls.append((name, value, labels, help_text))
        self.gauges[name, *labels.items()] = value

    def inc_counter(self, name, value=1.0, labels=None, help_text=""):
        self.calls.append((name, value, labels, help_text))
        self.counters[name, *labels.items()] += value


@dataclass
class Recorder(Recording):
    """Being a dataclass, not hashable."""

    counters: Counter = field(default_factory=Counter)
    gauges: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)


@dataclass(slots=True)
class SlottedRecorder(Recording):
    """Nor weakly referable."""

    counters: Counter = field(default_factory=Counter)
    gauges: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)


@pytest.fixture
def bus() -> HypervisorEventBus:
    return HypervisorEventBus()


def breaches(count: float, agent: str = "a", session: str = "s") -> dict[Any, float]:
    return {(BREACHES, ("agent_did", agent), ("session_id", session)): count}


class TestTheSeed:
    """The tutorial's example of the collector, with its names and numbers."""

    def test_a_snapshot_after_an_assignment_an_elevation_and_a_breach(self, bus):
        collector = RingMetricsCollector(bus)
        agent = "did:mesh:analyst"
        for event_type, payload in (
            (EventType.RING_ASSIGNED, {"ring": 3}),
            (EventType.RING_ELEVATED, {"from_ring": 3, "to_ring": 1}),
            (EventType.RING_BREACH_DETECTED, {"attempted_tool": "shell_exec"}),
        ):
            bus.emit(HypervisorEvent(event_type=event_type, session_id="s1", agent_did=agent, payload=payload))
        assert collector.collect() == {
            "agent_hypervisor_ring_transitions_total": {
                ("ring.assigned", "did:mesh:analyst", "s1"): 1,
                ("ring.elevated", "did:mesh:analyst", "s1"): 1,
            },
            "agent_hypervisor_ring_breaches_total": {("did:mesh:analyst", "s1"): 1},
            "agent_hypervisor_ring_current": {"did:mesh:analyst": 1},
            "agent_hypervisor_ring_elevation_duration_seconds": {},
            "events_processed": 3,
        }

    def test_an_elevation_of_two_seconds_lasted_two_seconds(self, bus):
        collector = RingMetricsCollector(bus)
        start = datetime.now(UTC)
        for event_type, after, ring in ((EventType.RING_ELEVATED, 0, 1), (EventType.RING_DEMOTED, 2, 3)):
            bus.emit(
                HypervisorEvent(
                    event_type=event_type,
                    timestamp=start + timedelta(seconds=after),
                    agent_did="did:mesh:analyst",
                    session_id="s1",
                    payload={"to_ring": ring},
                )
            )
        duration = collector.collect()["agent_hypervisor_ring_elevation_duration_seconds"]
        assert duration["did:mesh:analyst"] == 2.0

    def test_an_exporter_with_the_seeds_two_methods_is_enough(self, bus, capsys):
        class Printing:
            def set_gauge(self, name, value, labels=None, help_text=""):
                print(f"GAUGE {name}={value} labels={labels}")  # noqa: T201 - the seed's exporter prints

            def inc_counter(self, name, value=1.0, labels=None, help_text=""):
                print(f"COUNTER {name} +={value} labels={labels}")  # noqa: T201 - the seed's exporter prints

        collector = RingMetricsCollector(bus)
        bus.emit(event(ASSIGNED, agent="did:mesh:analyst", session="s1", ring=3))
        collector.export_to_prometheus(Printing())
        assert capsys.readouterr().out.splitlines() == [
            "COUNTER agent_hypervisor_ring_transitions_total +=1.0 "
            "labels={'event_type': 'ring.assigned', 'agent_did': 'did:mesh:analyst', 'session_id': 's1'}",
            "GAUGE agent_hypervisor_ring_current=3.0 labels={'agent_did': 'did:mesh:analyst'}",
        ]


class TestCollecting:
    def test_before_any_event_all_keys_are_there(self, bus):
        assert RingMetricsCollector(bus).collect() == {
            TRANSITIONS: {},
            BREACHES: {},
            CURRENT: {},
            DURATION: {},
            "events_processed": 0,
        }

    def test_events_of_other_kinds_are_not_processed(self, bus):
        collector = RingMetricsCollector(bus)
        bus.emit(event(EventType.SAGA_CREATED))
        bus.emit(event(UnknownEventType("ring.polished"), ring=1))
        assert collector.collect()["events_processed"] == 0

    def test_a_type_given_as_a_string_is_the_same_type(self, bus):
        collector = RingMetricsCollector(bus)
        bus.emit(event("ring.assigned", ring=2))
        bus.emit(event(UnknownEventType("ring.assigned"), ring=1))
        assert collector.collect()[TRANSITIONS] == {("ring.assigned", "a", "s"): 2}

    def test_a_running_elevation_is_not_in_the_snapshot(self, bus):
        collector = RingMetricsCollector(bus)
        for each in (event(ELEVATED, at=1), event(DEMOTED, at=4), event(ELEVATED, at=10)):
            bus.emit(each)
        assert collector.collect()[DURATION] == {"a": 3.0}

    def test_a_snapshot_stays_as_it_was_taken(self, bus):
        collector = RingMetricsCollector(bus)
        bus.emit(event(ASSIGNED, ring=3))
        before = collector.collect()
        bus.emit(event(ASSIGNED, at=1, ring=0))
        bus.emit(event(BREACH))
        assert before == {
            TRANSITIONS: {("ring.assigned", "a", "s"): 1},
            BREACHES: {},
            CURRENT: {"a": 3},
            DURATION: {},
            "events_processed": 1,
        }

    def test_every_series_is_kept_for_itself_however_many_there_are(self, bus):
        collector = RingMetricsCollector(bus)
        many = Settings.MAX_SERIES.default + 1
        for number in range(many):
            bus.emit(event(BREACH, session=str(number)))
        assert collector.collect()[BREACHES] == {("a", str(number)): 1 for number in range(many)}

    def test_two_collectors_of_one_bus_count_for_themselves(self, bus):
        first = RingMetricsCollector(bus)
        bus.emit(event(BREACH))
        second = RingMetricsCollector(bus)
        bus.emit(event(BREACH))
        assert [each.collect()["events_processed"] for each in (first, second)] == [2, 1]


class TestExporting:
    def test_metrics_go_out_with_their_labels_and_a_help_text(self, bus):
        collector = RingMetricsCollector(bus)
        for each in (event(ELEVATED, at=1, to_ring=0), event(DEMOTED, at=3, to_ring=2), event(BREACH)):
            bus.emit(each)
        exporter = Recorder()
        collector.export_to_prometheus(exporter)
        who = {"agent_did": "a", "session_id": "s"}
        assert [call[:3] for call in exporter.calls] == [
            (TRANSITIONS, 1.0, {"event_type": "ring.elevated"} | who),
            (TRANSITIONS, 1.0, {"event_type": "ring.demoted"} | who),
            (BREACHES, 1.0, who),
            (CURRENT, 2.0, {"agent_did": "a"}),
            (DURATION, 2.0, {"agent_did": "a"}),
        ]
        assert all(call[3].endswith(".") for call in exporter.calls)
        assert all(type(call[1]) is float for call in exporter.calls)

    def test_counters_export_the_increase_since_the_last_call(self, bus):
        collector, exporter = RingMetricsCollector(bus), Recorder()
        for count in (3, 0, 2):
            for _ in range(count):
                bus.emit(event(BREACH))
            before = len(exporter.calls)
            collector.export_to_prometheus(exporter)
            assert [call[1] for call in exporter.calls[before:]] == ([count] if count else [])
        assert exporter.counters == breaches(5)

    @pytest.mark.parametrize("kind", [Recorder, SlottedRecorder])
    def test_each_exporter_gets_the_whole(self, bus, kind):
        collector, first, second = RingMetricsCollector(bus), kind(), kind()
        bus.emit(event(BREACH))
        collector.export_to_prometheus(first)
        bus.emit(event(BREACH))
        for exporter in (first, second, first, second):
            collector.export_to_prometheus(exporter)
        assert first.counters == second.counters == breaches(2)

    @pytest.mark.parametrize("kind", [Recorder, SlottedRecorder])
    def test_a_new_exporter_never_inherits_what_a_former_one_was_given(self, bus, kind):
        collector = RingMetricsCollector(bus)
        bus.emit(event(BREACH))
        for _ in range(50):  # CPython gives an object the address, and so the id, of one that just died
            exporter = kind()
            collector.export_to_prometheus(exporter)
            assert exporter.counters == breaches(1)
            del exporter

    def test_an_exporter_is_not_kept_alive(self, bus):
        collector, exporter = RingMetricsCollector(bus), Recorder()
        collector.export_to_prometheus(exporter)
        alive = weakref.ref(exporter)
        del exporter
        gc.collect()
        assert alive() is None

    def test_a_running_elevation_exports_its_age(self, bus):
        now = [100.0]
        collector, exporter = RingMetricsCollector(bus, clock=lambda: now[0]), Recorder()
        bus.emit(event(ELEVATED, at=90))
        seen = []
        for moment, ends in ((100.0, False), (107.5, False), (120.0, True)):
            now[0] = moment
            if ends:
                bus.emit(event(DEMOTED, at=118))
            collector.export_to_prometheus(exporter)
            seen.append(exporter.gauges[DURATION, ("agent_did", "a")])
        assert seen == [10.0, 17.5, 28.0]

    def test_an_elevation_that_runs_hides_the_one_that_ended_and_is_set_once(self, bus):
        collector, exporter = RingMetricsCollector(bus, clock=lambda: 50.0), Recorder()
        for each in (event(ELEVATED, at=1), event(DEMOTED, at=31), event(ELEVATED, at=49)):
            bus.emit(each)
        collector.export_to_prometheus(exporter)
        assert [call[1] for call in exporter.calls if call[0] == DURATION] == [1.0]

    def test_the_clock_is_the_wall_clock_unless_another_is_given(self, bus):
        collector, exporter = RingMetricsCollector(bus), Recorder()
        bus.emit(HypervisorEvent(event_type=ELEVATED, agent_did="a", session_id="s"))
        collector.export_to_prometheus(exporter)
        assert 0 <= exporter.gauges[DURATION, ("agent_did", "a")] < 60

    def test_what_a_failing_exporter_did_not_take_comes_again_and_nothing_twice(self, bus):
        class Failing(Recorder):
            fails = True

            def inc_counter(self, name, value=1.0, labels=None, help_text=""):
                if self.fails and labels["agent_did"] == "b":
                    raise ConnectionError("the exporter's own trouble")
                super().inc_counter(name, value, labels, help_text)

        collector, exporter = RingMetricsCollector(bus), Failing()
        for agent in "abc":
            bus.emit(event(BREACH, agent=agent))
        with pytest.raises(ConnectionError):
            collector.export_to_prometheus(exporter)
        exporter.fails = False
        bus.emit(event(BREACH, agent="c"))
        collector.export_to_prometheus(exporter)
        assert exporter.counters == breaches(1, "a") | breaches(1, "b") | breaches(2, "c")

    def test_an_exporter_may_emit_and_collect(self, bus):
        class Curious(Recorder):
            def inc_counter(self, name, value=1.0, labels=None, help_text=""):
                super().inc_counter(name, value, labels, help_text)
                if collector.collect()["events_processed"] < 3:
                    bus.emit(event(BREACH, agent="new"))

        collector, exporter = RingMetricsCollector(bus), Curious()
        bus.emit(event(BREACH))
        collector.export_to_prometheus(exporter)
        collector.export_to_prometheus(exporter)
        collector.export_to_prometheus(exporter)
        assert exporter.counters == breaches(1) | breaches(2, "new")


class TestResetting:
    def test_after_a_reset_it_is_as_if_nothing_had_been(self, bus):
        collector, exporter = RingMetricsCollector(bus), Recorder()
        for each in (event(ELEVATED, ring=1), event(BREACH), event(ASSIGNED, ring=99)):
            bus.emit(each)
        collector.export_to_prometheus(exporter)
        collector.reset()
        assert collector.collect() == RingMetricsCollector(HypervisorEventBus()).collect()
        assert collector.events_rejected == 0
        bus.emit(event(DEMOTED, at=9))
        assert collector.collect()[DURATION] == {}

    def test_events_after_a_reset_are_exported_in_full(self, bus):
        collector, exporter = RingMetricsCollector(bus), Recorder()
        for _ in range(5):
            bus.emit(event(BREACH))
        collector.export_to_prometheus(exporter)
        collector.reset()
        for _ in range(2):
            bus.emit(event(BREACH))
        collector.export_to_prometheus(exporter)
        assert exporter.counters == breaches(7)


class UnguardedBus:
    """As the package's: what a handler raises reaches the emitter."""

    def __init__(self) -> None:
        self._handlers: list[tuple[str, Callable[[Any], object]]] = []

    def subscribe(self, event_type=None, handler=None):
        self._handlers.append((event_type, handler))

    def emit(self, emitted: HypervisorEvent) -> None:
        for event_type, handler in self._handlers:
            if event_type in (None, emitted.event_type):
                handler(emitted)


class TestBadEvents:
    @pytest.mark.parametrize(
        "bad",
        [
            event(ASSIGNED, ring=99),
            event(ELEVATED, to_ring="root"),
            HypervisorEvent(event_type=DEMOTED, payload=None),
            HypervisorEvent(event_type=ELEVATED, timestamp="yesterday"),
            HypervisorEvent(event_type=ELEVATED, timestamp=None),
            HypervisorEvent(event_type=BREACH, agent_did=["not", "hashable"]),
        ],
        ids=["no such ring", "no number", "no payload", "a text for a time", "no time", "an agent that is no key"],
    )
    def test_it_is_counted_and_logged_and_never_raised_to_the_emitter(self, bad, caplog):
        bus = UnguardedBus()
        collector = RingMetricsCollector(bus)
        bus.emit(event(ELEVATED, at=1, ring=1))
        before = collector.collect()
        bus.emit(bad)
        assert collector.events_rejected == 1
        assert collector.collect() == before | {"events_processed": 2}
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert bad.event_id in record.getMessage()
        assert bad.event_type.value in record.getMessage()

    def test_a_flood_of_them_makes_one_line(self, bus, caplog):
        collector = RingMetricsCollector(bus)
        for _ in range(1_000):
            bus.emit(event(ASSIGNED, ring=99))
        assert collector.events_rejected == 1_000
        assert len(caplog.records) == 1


class TestThreads:
    @pytest.fixture(autouse=True)
    def switch_often(self):
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        yield
        sys.setswitchinterval(interval)

    def test_no_event_is_lost_or_exported_twice_under_concurrent_emits_and_exports(self, bus):
        collector, exporter = RingMetricsCollector(bus), Recorder()
        emitters, each = 6, 500
        done = threading.Event()
        errors: list[BaseException] = []

        def guarded(work: Callable[[], None]) -> threading.Thread:
            def run() -> None:
                try:
                    work()
                except BaseException as error:  # noqa: BLE001 - shown by the assertion below
                    errors.append(error)

            return threading.Thread(target=run)

        def emit() -> None:
            for n in range(each):
                bus.emit(event(BREACH))
                bus.emit(event(ASSIGNED, at=n, session=f"s{n % 7}", ring=n % 4))

        def export() -> None:
            while not done.is_set():
                collector.export_to_prometheus(exporter)
                collector.collect()

        emitting = [guarded(emit) for _ in range(emitters)]
        exporting = [guarded(export) for _ in range(2)]
        for thread in emitting + exporting:
            thread.start()
        for thread in emitting:
            thread.join()
        done.set()
        for thread in exporting:
            thread.join()
        collector.export_to_prometheus(exporter)
        assert errors == []
        snapshot = collector.collect()
        assert snapshot["events_processed"] == 2 * emitters * each
        assert snapshot[BREACHES] == {("a", "s"): emitters * each}
        assert sum(snapshot[TRANSITIONS].values()) == emitters * each
        assert sum(exporter.counters.values()) == 2 * emitters * each

    def test_a_slow_exporter_keeps_nobody_from_emitting(self, bus):
        entered, leave = threading.Event(), threading.Event()

        class Slow(Recorder):
            def inc_counter(self, name, value=1.0, labels=None, help_text=""):
                entered.set()
                assert leave.wait(60)

        collector = RingMetricsCollector(bus)
        bus.emit(event(BREACH))
        exporting = threading.Thread(target=collector.export_to_prometheus, args=[Slow()])
        exporting.start()
        assert entered.wait(60)
        emitting = threading.Thread(target=bus.emit, args=[event(BREACH)])
        emitting.start()
        emitting.join(60)
        emitted_meanwhile = not emitting.is_alive()
        leave.set()
        exporting.join()
        assert emitted_meanwhile
        assert collector.collect()["events_processed"] == 2


@pytest.mark.timeout(30)
def test_a_signal_handler_may_emit_whatever_its_thread_was_doing(bus):
    class InterruptedEvent(SimpleNamespace):
        @property
        def timestamp(self) -> datetime:
            signal.raise_signal(signal.SIGUSR1)
            return EPOCH

    collector = RingMetricsCollector(bus)
    former = signal.signal(signal.SIGUSR1, lambda *_: bus.emit(event(BREACH)))
    try:
        bus.emit(InterruptedEvent(event_id="1", event_type=ASSIGNED, agent_did="a", session_id="s", payload={}))
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert collector.collect()["events_processed"] == 2


def test_a_forked_child_can_emit_though_a_thread_of_its_parent_was_inside():
    # In a process of its own: a fork beside the threads of this one would be warned about.
    script = """
        import os, signal, threading
        from datetime import UTC, datetime
        from hypervisor_consumers.ring_metrics.collector import RingMetricsCollector
        from hypervisor_producers.bus import HypervisorEventBus
        from hypervisor_schemas.events import EventType, HypervisorEvent

        entered, leave = threading.Event(), threading.Event()

        class SlowEvent:
            event_id, event_type, agent_did, session_id, payload = "1", EventType.RING_ASSIGNED, "a", "s", {}

            @property
            def timestamp(self):
                entered.set()
                leave.wait()
                return datetime.now(UTC)

        bus = HypervisorEventBus()
        collector = RingMetricsCollector(bus)
        inside = threading.Thread(target=bus.emit, args=[SlowEvent()])
        inside.start()
        entered.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            bus.emit(HypervisorEvent(event_type=EventType.RING_BREACH_DETECTED))
            os._exit(0 if collector.collect()["events_processed"] == 1 else 1)
        _, status = os.waitpid(child, 0)
        leave.set()
        inside.join()
        raise SystemExit(os.waitstatus_to_exitcode(status))
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
