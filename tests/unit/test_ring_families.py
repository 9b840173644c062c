"""The exact exposition text of ring-metrics."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_consumers.ring_metrics.families import ring_families
from hypervisor_consumers.ring_metrics.fold import RingFold, RingState
from hypervisor_schemas.events import EventType, HypervisorEvent

FOLD = RingFold()
NOW = 1_000_000.0

ASSIGNED = EventType.RING_ASSIGNED
ELEVATED = EventType.RING_ELEVATED
DEMOTED = EventType.RING_DEMOTED
BREACH = EventType.RING_BREACH_DETECTED


def event(
    event_type: EventType, ago: float = 0.0, agent: str | None = "a", session: str | None = "s", **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=event_type,
        timestamp=datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=ago),
        agent_did=agent,
        session_id=session,
        payload=payload,
    )


def folded(*events: HypervisorEvent) -> RingState:
    state = FOLD.new_state()
    for each in events:
        FOLD.apply(state, each)
    return state


def text_of(states: dict[int, RingState], now: float = NOW) -> str:
    class Service:
        def collect(self) -> Iterable[Metric]:
            return ring_families(states, now)

    registry = CollectorRegistry()
    registry.register(Service())
    return generate_latest(registry).decode()


def lines_of(name: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]


def test_the_whole_text_of_two_partitions():
    states = {
        10: folded(
            event(ASSIGNED, ago=90, agent="did:mesh:b", session="s2", ring=3),
            event(ELEVATED, ago=80, agent="did:mesh:b", session="s2", from_ring=3, to_ring=1),
            event(DEMOTED, ago=78, agent="did:mesh:b", session="s2", to_ring=2),
            event(BREACH, ago=70, agent="did:mesh:b", session="s2"),
            event(ELEVATED, ago=30.5, agent="did:mesh:a", session="s2", to_ring=0),
        ),
        2: folded(
            event(ASSIGNED, ago=99, agent="did:mesh:a", session="s1", ring=2),
            event(BREACH, ago=98, agent="did:mesh:a", session="s1"),
            event(BREACH, ago=97, agent="did:mesh:a", session="s1"),
            event(ELEVATED, ago=20, agent="did:mesh:a", session="s1"),
        ),
    }
    assert (
        text_of(states)
        == """\
# HELP agent_hypervisor_ring_transitions_total Ring assignments, elevations, demotions and expired elevations.
# TYPE agent_hypervisor_ring_transitions_total counter
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:a",event_type="ring.assigned",session_id="s1"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:b",event_type="ring.assigned",session_id="s2"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:b",event_type="ring.demoted",session_id="s2"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:a",event_type="ring.elevated",session_id="s1"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:a",event_type="ring.elevated",session_id="s2"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:b",event_type="ring.elevated",session_id="s2"} 1.0
# HELP agent_hypervisor_ring_breaches_total Attempts to act beyond the capabilities of a ring.
# TYPE agent_hypervisor_ring_breaches_total counter
agent_hypervisor_ring_breaches_total{agent_did="did:mesh:a",session_id="s1"} 2.0
agent_hypervisor_ring_breaches_total{agent_did="did:mesh:b",session_id="s2"} 1.0
# HELP agent_hypervisor_ring_current The ring an agent is in now, 0 (root) to 3 (sandbox).
# TYPE agent_hypervisor_ring_current gauge
agent_hypervisor_ring_current{agent_did="did:mesh:a"} 0.0
agent_hypervisor_ring_current{agent_did="did:mesh:b"} 2.0
# HELP agent_hypervisor_ring_elevation_duration_seconds Time spent at elevated privilege: \
the running elevation so far, else the last one that ended.
# TYPE agent_hypervisor_ring_elevation_duration_seconds gauge
agent_hypervisor_ring_elevation_duration_seconds{agent_did="did:mesh:a"} 30.5
agent_hypervisor_ring_elevation_duration_seconds{agent_did="did:mesh:b"} 2.0
# HELP agent_hypervisor_ring_elevations_active Sessions in which an agent is elevated now.
# TYPE agent_hypervisor_ring_elevations_active gauge
agent_hypervisor_ring_elevations_active{agent_did="did:mesh:a"} 2.0
agent_hypervisor_ring_elevations_active{agent_did="did:mesh:b"} 0.0
# HELP agent_hypervisor_ring_elevation_seconds How long elevations lasted that have ended.
# TYPE agent_hypervisor_ring_elevation_seconds histogram
agent_hypervisor_ring_elevation_seconds_bucket{le="1.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="5.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="15.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="60.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="300.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="900.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="3600.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="14400.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="43200.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="86400.0",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="+Inf",partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_count{partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_sum{partition="2"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="1.0",partition="10"} 0.0
agent_hypervisor_ring_elevation_seconds_bucket{le="5.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="15.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="60.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="300.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="900.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="3600.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="14400.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="43200.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="86400.0",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_bucket{le="+Inf",partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_count{partition="10"} 1.0
agent_hypervisor_ring_elevation_seconds_sum{partition="10"} 2.0
"""
    )


def test_without_partitions_there_are_no_series():
    text = text_of({})
    assert all(line.startswith("#") for line in text.splitlines())
    assert text.count("# TYPE") == 6


def test_label_values_are_escaped():
    odd = 'quote " backslash \\ newline \n tab \t ünï'
    text = text_of({0: folded(event(BREACH, agent=odd, session="{}"))})
    assert lines_of("agent_hypervisor_ring_breaches_total", text) == [
        'agent_hypervisor_ring_breaches_total{agent_did="quote \\" backslash \\\\ newline \\n tab \t ünï",'
        'session_id="{}"} 1.0'
    ]
    [series] = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "agent_hypervisor_ring_breaches_total"
    ]
    assert series.labels == {"agent_did": odd, "session_id": "{}"}


def test_a_series_found_in_two_partitions_is_one_series_with_the_sum():
    states = {0: folded(event(BREACH), event(ASSIGNED)), 1: folded(*[event(BREACH)] * 2, event(ASSIGNED))}
    text = text_of(states)
    assert lines_of("agent_hypervisor_ring_breaches", text) == [
        'agent_hypervisor_ring_breaches_total{agent_did="a",session_id="s"} 3.0'
    ]
    assert lines_of("agent_hypervisor_ring_transitions", text) == [
        'agent_hypervisor_ring_transitions_total{agent_did="a",event_type="ring.assigned",session_id="s"} 2.0'
    ]


def test_events_without_agent_and_session_are_counted_per_partition():
    anonymous = {"agent": None, "session": None}
    states = {
        3: folded(event(BREACH, **anonymous), event(ASSIGNED, **anonymous), event(BREACH, session=None)),
        1: folded(*[event(BREACH, **anonymous)] * 2, event(BREACH, agent=None)),
    }
    text = text_of(states)
    assert lines_of("agent_hypervisor_ring_breaches_total", text) == [
        'agent_hypervisor_ring_breaches_total{agent_did="a",session_id="unknown"} 1.0',
        'agent_hypervisor_ring_breaches_total{agent_did="unknown",session_id="s"} 1.0',
        'agent_hypervisor_ring_breaches_total{agent_did="unknown",partition="1",session_id="unknown"} 2.0',
        'agent_hypervisor_ring_breaches_total{agent_did="unknown",partition="3",session_id="unknown"} 1.0',
    ]
    assert lines_of("agent_hypervisor_ring_transitions_total", text) == [
        'agent_hypervisor_ring_transitions_total{agent_did="unknown",event_type="ring.assigned",partition="3",'
        'session_id="unknown"} 1.0'
    ]


def test_a_revoked_partition_takes_its_part_along_and_no_other_series_moves():
    anonymous = {"agent": None, "session": None}
    kept = folded(event(BREACH, **anonymous), event(ELEVATED, ago=9), event(DEMOTED, ago=8))
    moved = folded(
        event(BREACH, **anonymous), event(ELEVATED, ago=9, session="t"), event(DEMOTED, ago=4, session="t")
    )
    counters = ("agent_hypervisor_ring_transitions", "agent_hypervisor_ring_breaches")
    histogram = "agent_hypervisor_ring_elevation_seconds"
    with_both, with_one = text_of({0: kept, 1: moved}), text_of({0: kept})
    for name in (*counters, histogram):
        assert set(lines_of(name, with_one)) < set(lines_of(name, with_both))


def test_the_text_does_not_depend_on_the_order_in_which_things_came():
    first, second = event(BREACH, agent="x", session="1"), event(BREACH, agent="b", session="2")
    one, two = folded(first, second), folded(second, first)
    assert text_of({0: one, 1: two}) == text_of({1: one, 0: two})


def test_elevations_fall_into_cumulative_buckets():
    state = FOLD.new_state()
    for duration in (0.5, 1, 2, 7200, 100_000):
        FOLD.apply(state, event(ELEVATED, ago=duration))
        FOLD.apply(state, event(DEMOTED))
    text = text_of({7: state})
    name = "agent_hypervisor_ring_elevation_seconds"
    values = [line.rpartition(" ")[2] for line in lines_of(f"{name}_bucket", text)]
    assert values == ["2.0", "3.0", "3.0", "3.0", "3.0", "3.0", "3.0", "4.0", "4.0", "4.0", "5.0"]
    assert lines_of(f"{name}_sum", text) == [f'{name}_sum{{partition="7"}} 107203.5']


def test_a_histogram_kept_from_a_version_with_other_bounds_stays_whole():
    text = text_of(
        {0: RingState(elevations={"2": (3, 4_000_000), "5": (1, 5_000_000), "1e6": (1, 200_000_000_000)})}
    )
    name = "agent_hypervisor_ring_elevation_seconds"
    values = [line.rpartition(" ")[2] for line in lines_of(f"{name}_bucket", text)]
    assert values == ["0.0", *["4.0"] * 9, "5.0"]
    assert lines_of(f"{name}_count", text) == [f'{name}_count{{partition="0"}} 5.0']
