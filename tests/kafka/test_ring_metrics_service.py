"""ring-metrics as processes: exact numbers, through copies that come, leave and crash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_schemas.events import AnyEventType, EventType, HypervisorEvent, event_type_of
from tests.services import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def assignments(sessions: int, each: int, agent: str = "did:crowd") -> list[HypervisorEvent]:
    return [event(ASSIGNED, n, agent, f"c{n % sessions}", ring=2) for n in range(sessions * each)]


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


def partitions(service: RunningService) -> int:
    return len(service.metrics("hypervisor_telemetry_partition_restored"))


@pytest.fixture(scope="module")
def two_copies_of_one_partition(new_fleet: Callable[[int], Fleet]) -> list[RunningService]:
    """Begun early: that nothing will come takes a while to be sure of."""
    fleet = new_fleet(1)
    return [fleet.start("ring-metrics"), fleet.start("ring-metrics")]


@pytest.fixture(scope="module")
def rings(new_fleet: Callable[[int], Fleet]) -> Fleet:
    fleet = new_fleet(4)
    fleet.publish(STORY)
    fleet.publish(assignments(sessions=20, each=3))
    return fleet


@pytest.fixture(scope="module")
def ring_metrics(two_copies_of_one_partition: object, rings: Fleet) -> Iterator[RunningService]:
    return rings.start("ring-metrics").wait_ready()


def test_the_seeds_series_have_exactly_these_names_labels_types_and_values(ring_metrics: RunningService):
    lines = ring_metrics.get("/metrics").text.splitlines()

    of_seed = [line for line in lines if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith(SEED)]
    assert [line for line in of_seed if "did:crowd" not in line and "did:busy" not in line] == STORY_TEXT


def test_events_of_another_type_are_counted_as_ignored(ring_metrics: RunningService):
    results = ring_metrics.metrics("hypervisor_telemetry_records_total")

    ignored = sum(count for name, count in results.items() if 'result="ignored"' in name)
    applied = sum(count for name, count in results.items() if 'result="applied"' in name)
    assert ignored == 1
    assert applied >= len(STORY) - 1 + 60


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
    assert busy(current) == {f'{current}{{agent_did="did:busy{n}"}}': n % 4 for n in range(7)}
    active = "agent_hypervisor_ring_elevations_active"
    assert busy(active) == {f'{active}{{agent_did="did:busy{n}"}}': 0 for n in range(7)}


def test_two_copies_share_the_partitions_and_the_last_one_shows_all(ring_metrics: RunningService, rings: Fleet):
    truth = {series(ASSIGNED, "did:crowd", f"c{n}"): 3.0 for n in range(20)}
    second = rings.start("ring-metrics").wait_ready()

    eventually(lambda: (partitions(ring_metrics), partitions(second)), lambda shares: shares == (2, 2))
    eventually(lambda: crowd_counts(ring_metrics, second), lambda counts: counts == truth)

    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    eventually(lambda: crowd_counts(ring_metrics), lambda counts: counts == truth)
    assert partitions(ring_metrics) == 4


def test_a_killed_copys_successor_shows_the_same_totals_never_less_and_no_resend_twice(
    new_fleet: Callable[[int], Fleet],
):
    fleet = new_fleet(2)
    events = assignments(sessions=10, each=50)
    fleet.publish(events)
    first = fleet.start("ring-metrics").wait_ready()
    shown = eventually(
        lambda: crowd_counts(first), lambda counts: set(counts.values()) == {50} and len(counts) == 10
    )

    first.kill()
    fleet.publish(assignments(sessions=10, each=20))
    # An agent that crashed and sends again what it is not sure of: the successor knows these ids from the log.
    fleet.publish(events[:100])
    second = fleet.start("ring-metrics")

    def look() -> dict[str, float]:
        now = crowd_counts(second)
        assert all(count >= shown[name] for name, count in now.items()), (now, shown)
        shown.update(now)
        return now

    eventually(look, lambda counts: set(counts.values()) == {70} and len(counts) == 10)

    def duplicates() -> float:
        counted = second.metrics("hypervisor_telemetry_records_total")
        return sum(count for name, count in counted.items() if 'result="duplicate"' in name)

    eventually(duplicates, lambda count: count == 100)
    look()
    assert set(shown.values()) == {70}

    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    assert fleet.members("ring-metrics") == 0


def test_the_classic_group_protocol_works_too(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(2)
    fleet.publish(assignments(sessions=10, each=4))
    truth = {series(ASSIGNED, "did:crowd", f"c{n}"): 4.0 for n in range(10)}
    classic = {"KAFKA_GROUP_PROTOCOL": "classic", "KAFKA_HEARTBEAT_INTERVAL_MS": "500"}
    first, second = (fleet.start("ring-metrics", **classic) for _ in range(2))

    eventually(lambda: (partitions(first), partitions(second)), lambda shares: shares == (1, 1))
    eventually(lambda: crowd_counts(first, second), lambda counts: counts == truth)
    assert second.wait_ready().terminate()[0] == 0
    eventually(lambda: crowd_counts(first), lambda counts: counts == truth)


def test_a_copy_that_gets_no_partition_is_ready(two_copies_of_one_partition: list[RunningService]):
    for copy in two_copies_of_one_partition:
        copy.wait_ready()

    assert sorted(map(partitions, two_copies_of_one_partition)) == [0, 1]
