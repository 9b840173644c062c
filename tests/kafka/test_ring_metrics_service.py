"""ring-metrics as processes: exact numbers, through copies that come, leave and crash."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_schemas.events import AnyEventType, EventType, HypervisorEvent, event_type_of
from hypervisor_schemas.topics import partition_of
from tests.support.service_processes import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.kafka

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TRANSITIONS = "agent_hypervisor_ring_transitions_total"
SEED = (
    TRANSITIONS,
    "agent_hypervisor_ring_breaches_total",
    "agent_hypervisor_ring_current",
    "agent_hypervisor_ring_elevation_duration_seconds",
)
ASSIGNED, ELEVATED = EventType.RING_ASSIGNED, EventType.RING_ELEVATED
DEMOTED, EXPIRED = EventType.RING_DEMOTED, EventType.RING_ELEVATION_EXPIRED
BREACH = EventType.RING_BREACH_DETECTED


def event(
    kind: AnyEventType, second: float, agent: str | None, session: str | None, **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=kind,
        timestamp=NOON + timedelta(seconds=second),
        agent_did=agent,
        session_id=session,
        payload=payload,
    )


STORY = (
    event(ASSIGNED, 0, "did:a", "s1", ring=3),
    event(ELEVATED, 10, "did:a", "s1", to_ring=1),
    event(EXPIRED, 25.5, "did:a", "s1", to_ring=3),
    event(ASSIGNED, 5, "did:a", "s2", to_ring=2),
    event(BREACH, 6, "did:a", "s2", attempted_tool="shell"),
    event(BREACH, 7, "did:a", "s2"),
    event(ASSIGNED, 0, "did:root", "s3", ring=3),
    event(ASSIGNED, 1, "did:root", "s3", to_ring=0),
    event(BREACH, 2, None, "s4"),
    event(event_type_of("ring.polished"), 3, "did:a", "s1"),
)
STORY_TEXT = """\
# HELP agent_hypervisor_ring_transitions_total Ring assignments, elevations, demotions and expired elevations.
# TYPE agent_hypervisor_ring_transitions_total counter
agent_hypervisor_ring_transitions_total{agent_did="did:a",event_type="ring.assigned",session_id="s1"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:a",event_type="ring.assigned",session_id="s2"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:root",event_type="ring.assigned",session_id="s3"} 2.0
agent_hypervisor_ring_transitions_total{agent_did="did:a",event_type="ring.elevated",session_id="s1"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:a",event_type="ring.elevation_expired",session_id="s1"} 1.0
# HELP agent_hypervisor_ring_breaches_total Attempts to act beyond the capabilities of a ring.
# TYPE agent_hypervisor_ring_breaches_total counter
agent_hypervisor_ring_breaches_total{agent_did="did:a",session_id="s2"} 2.0
agent_hypervisor_ring_breaches_total{agent_did="unknown",session_id="s4"} 1.0
# HELP agent_hypervisor_ring_current The ring an agent is in now, 0 (root) to 3 (sandbox).
# TYPE agent_hypervisor_ring_current gauge
agent_hypervisor_ring_current{agent_did="did:a"} 3.0
agent_hypervisor_ring_current{agent_did="did:root"} 0.0
# HELP agent_hypervisor_ring_elevation_duration_seconds Time spent at elevated privilege: \
the running elevation so far, else the last one that ended.
# TYPE agent_hypervisor_ring_elevation_duration_seconds gauge
agent_hypervisor_ring_elevation_duration_seconds{agent_did="did:a"} 15.5
""".splitlines()


APPLIED = len(STORY) - 1 + 60
"""With the crowd; one type of the story is none that is counted."""


def assignments(sessions: int, each: int, agent: str = "did:crowd") -> list[HypervisorEvent]:
    return [event(ASSIGNED, n, agent, f"c{n % sessions}", ring=2) for n in range(sessions * each)]


CROWD = assignments(sessions=20, each=3)


def series(kind: EventType, agent: str, session: str) -> str:
    return f'{TRANSITIONS}{{agent_did="{agent}",event_type="{kind.value}",session_id="{session}"}}'


def crowd_counts(*services: RunningService) -> dict[str, float]:
    """The crowd's series, each on one copy only."""
    counts: dict[str, float] = {}
    for service in services:
        of_copy = {name: value for name, value in service.metrics(TRANSITIONS).items() if "did:crowd" in name}
        assert not counts.keys() & of_copy.keys(), "two copies show one series"
        counts |= of_copy
    return counts


def duplicates(fleet: Fleet, *copies: RunningService) -> int:
    return sum(copy.results(fleet.topic("ring")).get("duplicate", 0) for copy in copies)


def active_elevations(service: RunningService) -> float | None:
    return service.value("agent_hypervisor_ring_elevations_active", agent_did="did:el")


def ended_elevations(service: RunningService) -> tuple[float, float]:
    """Return the number of ended elevations, and their seconds."""
    metric = "agent_hypervisor_ring_elevation_seconds"
    count, seconds = (sum(service.metrics(f"{metric}_{part}").values()) for part in ("count", "sum"))
    return count, seconds


@pytest.fixture(scope="module")
def two_copies_of_one_partition(new_fleet: Callable[[int], Fleet]) -> list[RunningService]:
    """Begun early: that nothing will come takes a while to be sure of."""
    fleet = new_fleet(1)
    return [fleet.start("ring-metrics"), fleet.start("ring-metrics")]


@pytest.fixture(scope="module")
def rings(new_fleet: Callable[[int], Fleet]) -> Fleet:
    fleet = new_fleet(4)
    fleet.publish(STORY)
    fleet.publish(CROWD)
    return fleet


@pytest.fixture(scope="module")
def ring_metrics(two_copies_of_one_partition: object, rings: Fleet) -> RunningService:
    """Shows all that was published before it began."""
    service = rings.start("ring-metrics").wait_ready()
    eventually(lambda: service.results(rings.topic("ring")).get("applied"), lambda count: count == APPLIED)
    # What is shown of an agent comes by way of agent-rings, a moment later.
    ended = ("agent_hypervisor_ring_elevation_duration_seconds", {"agent_did": "did:a"})
    eventually(lambda: service.value(ended[0], **ended[1]), lambda seconds: seconds == 15.5)
    return service


def test_the_seeds_series_have_exactly_these_names_labels_types_and_values(ring_metrics: RunningService):
    lines = ring_metrics.get("/metrics").text.splitlines()

    of_seed = [line for line in lines if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(SEED)]
    of_story = [line for line in of_seed if "did:crowd" not in line and "did:busy" not in line]
    assert sorted(of_story) == sorted(
        STORY_TEXT
    )  # in a family, the order of the series is that of their first events


def test_events_of_another_type_are_counted_as_ignored(ring_metrics: RunningService, rings: Fleet):
    assert ring_metrics.results(rings.topic("ring"))["ignored"] == 1


def test_agent_rings_holds_the_documented_row_of_every_agent_and_session(
    ring_metrics: RunningService, rings: Fleet
):
    records = rings.records(f"{rings.prefix}agent-rings")
    rows = {
        tuple(json.loads(record.key())): (record.partition(), json.loads(record.value()))
        for record in records
        if b"did:crowd" not in record.key()
    }

    def micros(second: float) -> int:
        return int((NOON + timedelta(seconds=second)).timestamp() * 1_000_000)

    def row(agent: str, session: str, ring: int, by: HypervisorEvent, **elevation: object) -> object:
        value = {
            "agent_did": agent,
            "session_id": session,
            "ring": ring,
            "changed_at": int(by.timestamp.timestamp() * 1_000_000),
            "event_id": by.event_id,
            "elevated_since": None,
            "ended_at": None,
            "ended_event_id": None,
            "ended_duration": None,
        }
        # Of the agent alone: all its rows meet in one partition.
        return partition_of(agent.encode(), 4), value | elevation

    ended = {"ended_at": micros(25.5), "ended_event_id": STORY[2].event_id, "ended_duration": 15_500_000}
    assert rows == {
        ("did:a", "s1"): row("did:a", "s1", 3, STORY[2], **ended),
        ("did:a", "s2"): row("did:a", "s2", 2, STORY[3]),
        ("did:root", "s3"): row("did:root", "s3", 0, STORY[7]),
    }


def test_events_of_a_session_keep_their_order(ring_metrics: RunningService, rings: Fleet):
    # All at one time: only the order of arrival tells which ring is the last.
    moves = [event(ASSIGNED, 0, f"did:busy{n % 7}", f"b{n % 7}", to_ring=n // 7 % 4) for n in range(7 * 203)]
    ends = [
        event(kind, 9, f"did:busy{n}", f"b{n}", to_ring=n % 4) for n in range(7) for kind in (ELEVATED, DEMOTED)
    ]
    rings.publish(moves + ends)

    def busy(metric: str) -> dict[str, float]:
        return {name: value for name, value in ring_metrics.metrics(metric).items() if "did:busy" in name}

    eventually(lambda: sum(busy(TRANSITIONS).values()), lambda total: total == len(moves) + len(ends))
    current = "agent_hypervisor_ring_current"
    eventually(
        lambda: busy(current),
        lambda shown: shown == {f'{current}{{agent_did="did:busy{n}"}}': n % 4 for n in range(7)},
    )
    active = "agent_hypervisor_ring_elevations_active"
    assert busy(active) == {f'{active}{{agent_did="did:busy{n}"}}': 0 for n in range(7)}


def test_clocks_that_differ_change_no_count_and_time_decides_which_ring_is_the_last(
    ring_metrics: RunningService, rings: Fleet
):
    who = {"agent_did": "did:skewed"}
    rings.publish(
        [
            event(ASSIGNED, 400 * 86_400, "did:skewed", "k1", ring=1),  # a clock that is a year ahead
            event(ASSIGNED, 50, "did:skewed", "k1", ring=2),  # came later, happened earlier
            event(ASSIGNED, 60, "did:skewed", "k2", ring=3),
            event(ELEVATED, 70, "did:skewed", "k2", to_ring=0),
            event(DEMOTED, 69, "did:skewed", "k2", to_ring=3),  # ended before it began
        ]
    )

    counted = {"agent_did": "did:skewed", "event_type": ASSIGNED.value}
    eventually(lambda: ring_metrics.value(TRANSITIONS, **counted, session_id="k1"), lambda count: count == 2)
    duration = "agent_hypervisor_ring_elevation_duration_seconds"
    eventually(lambda: ring_metrics.value(duration, **who), lambda seconds: seconds == 0)
    assert ring_metrics.value("agent_hypervisor_ring_current", **who) == 1
    assert ring_metrics.value("agent_hypervisor_ring_elevations_active", **who) == 0


def test_two_copies_with_the_same_name_and_settings_share_all_know_duplicates_and_never_fence_each_other(
    ring_metrics: RunningService, rings: Fleet
):
    truth = {series(ASSIGNED, "did:crowd", f"c{n}"): 3.0 for n in range(20)}
    second = rings.start("ring-metrics").wait_ready()
    copies = (ring_metrics, second)

    eventually(lambda: [copy.partitions() for copy in copies], lambda shares: shares == [2, 2])
    eventually(lambda: crowd_counts(*copies), lambda counts: counts == truth)
    # An agent that crashed and sends again what it is not sure of: who got the partition knows these ids.
    rings.publish(CROWD)
    eventually(lambda: duplicates(rings, *copies), lambda count: count == len(CROWD))
    assert crowd_counts(*copies) == truth
    for copy in copies:
        assert copy.value("hypervisor_telemetry_transactions_total", outcome="committed") > 0
        assert copy.value("hypervisor_telemetry_transactions_total", outcome="aborted") == 0
        assert copy.value("hypervisor_telemetry_transactions_total", outcome="unknown") == 0

    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    eventually(lambda: crowd_counts(ring_metrics), lambda counts: counts == truth)
    assert ring_metrics.partitions() == 4
    assert duplicates(rings, ring_metrics) == len(CROWD)


def test_totals_duplicates_and_running_elevations_survive_kill_9_and_a_restart(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    events = assignments(sessions=10, each=50)
    elevated, killed_while_elevated = event(ELEVATED, 10, "did:el", "e1", to_ring=1), assignments(10, 20)
    fleet.publish([*events, elevated])
    first = fleet.start("ring-metrics").wait_ready()
    shown = eventually(
        lambda: crowd_counts(first), lambda counts: set(counts.values()) == {50} and len(counts) == 10
    )
    eventually(lambda: active_elevations(first), lambda count: count == 1)

    first.kill()
    fleet.publish(killed_while_elevated)
    fleet.publish(events[:100])  # the successor knows these ids from the log
    fleet.publish(
        [event(EXPIRED, 25.5, "did:el", "e1", to_ring=3), event(ELEVATED, 100, "did:el", "e1", to_ring=0)]
    )
    second = fleet.start("ring-metrics")

    def look() -> dict[str, float]:
        now = crowd_counts(second)
        assert all(count >= shown[name] for name, count in now.items()), (now, shown)
        shown.update(now)
        return now

    eventually(look, lambda counts: set(counts.values()) == {70} and len(counts) == 10)
    eventually(lambda: duplicates(fleet, second), lambda count: count == 100)
    look()
    assert set(shown.values()) == {70}
    eventually(lambda: ended_elevations(second), lambda ended: ended == (1, 15.5))
    eventually(lambda: active_elevations(second), lambda count: count == 1)

    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    assert fleet.members("ring-metrics") == 0
    fleet.publish([event(DEMOTED, 130, "did:el", "e1", to_ring=3), elevated, *events[:3]])
    third = fleet.start("ring-metrics")
    eventually(lambda: ended_elevations(third), lambda ended: ended == (2, 45.5))
    assert crowd_counts(third) == shown
    eventually(lambda: duplicates(fleet, third), lambda count: count == 104)
    eventually(
        lambda: third.value("agent_hypervisor_ring_elevation_duration_seconds", agent_did="did:el"),
        lambda seconds: seconds == 30,
    )
    assert active_elevations(third) == 0


def test_the_classic_group_protocol_works_too(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    fleet.publish(assignments(sessions=10, each=4))
    truth = {series(ASSIGNED, "did:crowd", f"c{n}"): 4.0 for n in range(10)}
    classic = {"KAFKA_GROUP_PROTOCOL": "classic", "KAFKA_HEARTBEAT_INTERVAL_MS": "500"}
    started = [fleet.start("ring-metrics", **classic) for _ in range(2)]

    copies = [copy.wait_ready() for copy in started]
    eventually(lambda: crowd_counts(*copies), lambda counts: counts == truth)
    # Its assignor shares out the partitions of both topics together: one copy may have all events, or half.
    leaving, staying = sorted(copies, key=RunningService.partitions, reverse=True)
    assert leaving.terminate()[0] == 0
    eventually(lambda: crowd_counts(staying), lambda counts: counts == truth)
    assert staying.partitions() == 2


def test_a_copy_that_gets_no_partition_is_ready(two_copies_of_one_partition: list[RunningService]):
    for copy in two_copies_of_one_partition:
        copy.wait_ready()

    assert sorted(copy.partitions() for copy in two_copies_of_one_partition) == [0, 1]
