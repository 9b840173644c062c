"""The exact exposition text of ring-metrics."""

from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_consumers.ring_metrics.exposition.families import ring_families
from hypervisor_consumers.ring_metrics.fold.agent_rings import agent_rings
from hypervisor_consumers.ring_metrics.fold.event_fold import RingFold
from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, EndedElevations, RingState
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import partition_of

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


def folded(*events: HypervisorEvent, fold: RingFold = FOLD) -> RingState:
    state = fold.new_state()
    for each in events:
        fold.apply(state, each)
    return state


def rows_of(states: dict[int, RingState]) -> dict[int, dict[tuple[str, str], AgentRing]]:
    """All agents' rows, in one partition."""
    rows = [row for state in states.values() for row in agent_rings(state.series.present())]
    return {5: {(row.agent_did, row.session_id): row for row in rows}}


def text_of(states: dict[int, RingState], **options: Any) -> str:
    """The families in their order, and the series of each sorted, but not the buckets of a histogram."""
    text, _ = Exposition().write(ring_families(states, rows_of(states), NOW, **options), "")
    lines: list[str] = []
    for name, group in groupby(text.decode().splitlines(), lambda line: line.partition("{")[0]):
        family = list(group)
        lines += family if name.startswith("#") or name.endswith("_bucket") else sorted(family)
    return "\n".join(lines) + "\n"


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
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:a",event_type="ring.elevated",session_id="s1"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:a",event_type="ring.elevated",session_id="s2"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:b",event_type="ring.assigned",session_id="s2"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="did:mesh:b",event_type="ring.demoted",session_id="s2"} 1.0
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
# HELP hypervisor_telemetry_series_kept Series in the state of a partition, of the kind that has most: what \
TELEMETRY_MAX_SERIES is the ceiling of.
# TYPE hypervisor_telemetry_series_kept gauge
hypervisor_telemetry_series_kept{partition="10"} 2.0
hypervisor_telemetry_series_kept{partition="2"} 1.0
# HELP hypervisor_telemetry_series_overflow_total Events of series beyond TELEMETRY_MAX_SERIES: \
counted in an overflow series, or what is current of their agent is not kept.
# TYPE hypervisor_telemetry_series_overflow_total counter
hypervisor_telemetry_series_overflow_total{partition="10"} 0.0
hypervisor_telemetry_series_overflow_total{partition="2"} 0.0
# HELP hypervisor_telemetry_series Series of the service's own metrics that this copy shows.
# TYPE hypervisor_telemetry_series gauge
hypervisor_telemetry_series 44.0
"""
    )


def test_without_partitions_there_are_no_series():
    text = text_of({})
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["hypervisor_telemetry_series 0.0"]
    assert text.count("# TYPE") == 9


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
        'agent_hypervisor_ring_breaches_total{agent_did="unknown",partition="1",session_id="unknown"} 2.0',
        'agent_hypervisor_ring_breaches_total{agent_did="unknown",partition="3",session_id="unknown"} 1.0',
        'agent_hypervisor_ring_breaches_total{agent_did="unknown",session_id="s"} 1.0',
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
    state = RingState()
    for bound, count, total in (("2", 3, 4_000_000), ("5", 1, 5_000_000), ("1e6", 1, 200_000_000_000)):
        state.elevations.add((bound,), EndedElevations(count, total))
    text = text_of({0: state})
    name = "agent_hypervisor_ring_elevation_seconds"
    values = [line.rpartition(" ")[2] for line in lines_of(f"{name}_bucket", text)]
    assert values == ["0.0", *["4.0"] * 9, "5.0"]
    assert lines_of(f"{name}_count", text) == [f'{name}_count{{partition="0"}} 5.0']


BREACHES = "agent_hypervisor_ring_breaches_total"
TRANSITIONS = "agent_hypervisor_ring_transitions_total"


def test_what_is_shown_of_an_agent_comes_from_the_rows_alone():
    rows = {
        0: {("a", "s"): AgentRing("a", "s", 2, 5_000_000, "1", elevated_since=int((NOW - 9) * 1e6))},
        7: {("b", "s"): AgentRing("b", "s", 0, 5_000_000, "2"), ("b", "t"): AgentRing("b", "t", 3, 6_000_000, "3")},
    }
    state = folded(event(ASSIGNED, agent="elsewhere", ring=1))
    shown = {
        sample.name: sample
        for family in ring_families({1: state}, rows, NOW)
        for sample in family.samples
        if set(sample.labels) == {"agent_did"}
        for sample in [sample._replace(name=(sample.name, sample.labels["agent_did"]))]
    }
    assert {name: sample.value for name, sample in shown.items()} == {
        ("agent_hypervisor_ring_current", "a"): 2,
        ("agent_hypervisor_ring_current", "b"): 3,
        ("agent_hypervisor_ring_elevation_duration_seconds", "a"): 9.0,
        ("agent_hypervisor_ring_elevations_active", "a"): 1,
    }


def test_what_lies_over_a_base_is_shown_with_it_and_what_was_removed_is_not():
    before = folded(event(BREACH), event(BREACH, session="t"))
    state = RingState()
    state.series.base = dict(before.series.present())
    FOLD.apply(state, event(BREACH))
    state.series.remove(("a", "t"))
    assert lines_of(BREACHES, text_of({0: state})) == [f'{BREACHES}{{agent_did="a",session_id="s"}} 2.0']


def test_the_overflow_series_spans_partitions_and_is_shown_for_each():
    fold = RingFold(max_series=1)
    events = [event(BREACH), event(BREACH, session="t"), event(ASSIGNED, session="u", ring=1)]
    text = text_of({1: folded(*events, fold=fold), 2: folded(*events, event(BREACH, session="v"), fold=fold)})
    overflow = 'agent_did="__overflow__"'
    assert [line for line in lines_of("agent_", text) if overflow in line] == [
        f'{TRANSITIONS}{{{overflow},event_type="ring.assigned",partition="1",session_id="__overflow__"}} 1.0',
        f'{TRANSITIONS}{{{overflow},event_type="ring.assigned",partition="2",session_id="__overflow__"}} 1.0',
        f'{BREACHES}{{{overflow},partition="1",session_id="__overflow__"}} 1.0',
        f'{BREACHES}{{{overflow},partition="2",session_id="__overflow__"}} 2.0',
    ]
    name = "hypervisor_telemetry_series_overflow_total"
    assert lines_of(name, text) == [f'{name}{{partition="1"}} 2.0', f'{name}{{partition="2"}} 3.0']
    assert lines_of("agent_hypervisor_ring_current", text) == []


def test_the_number_of_series_is_that_of_the_lines():
    text = text_of({0: folded(event(ASSIGNED, ring=1), event(BREACH), event(ELEVATED)), 3: folded()})
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines[-1] == f"hypervisor_telemetry_series {float(len(lines) - 1)}"


LABELLED = [
    event(ASSIGNED, ring=1),
    event(DEMOTED, session="t"),
    event(BREACH, agent="b"),
    event(BREACH, session=None),
    event(BREACH, agent=None),
    event(BREACH, agent=None, session=None),
]


@pytest.mark.parametrize(
    ("labels", "lines"),
    [
        (
            ("agent_did", "session_id"),
            [
                f'{TRANSITIONS}{{agent_did="a",session_id="s"}} 1.0',
                f'{TRANSITIONS}{{agent_did="a",session_id="t"}} 1.0',
                f'{BREACHES}{{agent_did="a",session_id="unknown"}} 1.0',
                f'{BREACHES}{{agent_did="b",session_id="s"}} 1.0',
                f'{BREACHES}{{agent_did="unknown",session_id="s"}} 1.0',
                f'{BREACHES}{{agent_did="unknown",partition="4",session_id="unknown"}} 1.0',
            ],
        ),
        (
            ("event_type", "session_id"),
            [
                f'{TRANSITIONS}{{event_type="ring.assigned",session_id="s"}} 1.0',
                f'{TRANSITIONS}{{event_type="ring.demoted",session_id="t"}} 1.0',
                f'{BREACHES}{{session_id="s"}} 2.0',
                f'{BREACHES}{{partition="4",session_id="unknown"}} 2.0',
            ],
        ),
        (
            ("event_type", "agent_did"),
            [
                f'{TRANSITIONS}{{agent_did="a",event_type="ring.assigned",partition="4"}} 1.0',
                f'{TRANSITIONS}{{agent_did="a",event_type="ring.demoted",partition="4"}} 1.0',
                f'{BREACHES}{{agent_did="a",partition="4"}} 1.0',
                f'{BREACHES}{{agent_did="b",partition="4"}} 1.0',
                f'{BREACHES}{{agent_did="unknown",partition="4"}} 2.0',
            ],
        ),
        (
            ("event_type",),
            [
                f'{TRANSITIONS}{{event_type="ring.assigned",partition="4"}} 1.0',
                f'{TRANSITIONS}{{event_type="ring.demoted",partition="4"}} 1.0',
                f'{BREACHES}{{partition="4"}} 4.0',
            ],
        ),
        ((), [f'{TRANSITIONS}{{partition="4"}} 2.0', f'{BREACHES}{{partition="4"}} 4.0']),
    ],
)
def test_labels_can_be_left_out_and_what_then_spans_partitions_says_so(labels, lines):
    state = folded(*LABELLED, fold=RingFold(labels=labels))
    text = text_of({4: state}, labels=labels)
    assert sorted(lines_of(TRANSITIONS, text) + lines_of(BREACHES, text)) == sorted(lines)
    assert lines_of("agent_hypervisor_ring_current", text) == ['agent_hypervisor_ring_current{agent_did="a"} 1.0']


def test_an_overflow_without_labels_is_summed_with_the_series_that_has_none():
    fold = RingFold(max_series=2, labels=())
    state = folded(event(BREACH), event(BREACH, session="t"))  # with all labels; they take both places
    fold.apply(state, event(BREACH))
    for session in "st":
        state.series.remove(("a", session))
    fold.apply(state, event(BREACH))
    assert set(state.series) == {OVERFLOW, ("", "")}
    assert lines_of(BREACHES, text_of({0: state}, labels=())) == [f'{BREACHES}{{partition="0"}} 2.0']


def test_counts_of_former_labels_are_not_shown_and_begin_anew():
    state = folded(event(ASSIGNED, ring=1), event(BREACH))
    fewer = RingFold(labels=("event_type", "agent_did"))
    assert lines_of(BREACHES, text_of({0: state}, labels=("event_type", "agent_did"))) == []
    for _ in range(2):
        fewer.apply(state, event(BREACH))
    assert lines_of(BREACHES, text_of({0: state}, labels=("event_type", "agent_did"))) == [
        f'{BREACHES}{{agent_did="a",partition="0"}} 2.0'
    ]


def test_after_the_source_grew_only_a_sessions_first_partition_goes_without_the_label():
    home, others = partition_of(b"s", 3), {0, 1, 2, 7} - {partition_of(b"s", 3)}
    states = {partition: folded(event(BREACH)) for partition in (home, *others)}
    assert set(lines_of(BREACHES, text_of(states, home_partitions=3))) == {
        f'{BREACHES}{{agent_did="a",session_id="s"}} 1.0',
        *(f'{BREACHES}{{agent_did="a",partition="{partition}",session_id="s"}} 1.0' for partition in others),
    }
    assert lines_of(BREACHES, text_of(states)) == [f'{BREACHES}{{agent_did="a",session_id="s"}} 4.0']


def test_after_the_source_grew_what_has_no_session_goes_by_its_agent():
    home = partition_of(b"a", 3)
    states = {partition: folded(event(BREACH, session=None)) for partition in (home, 7)}
    assert set(lines_of(BREACHES, text_of(states, home_partitions=3))) == {
        f'{BREACHES}{{agent_did="a",session_id="unknown"}} 1.0',
        f'{BREACHES}{{agent_did="a",partition="7",session_id="unknown"}} 1.0',
    }
