"""Laws of ring states for any events: in any partitions, under any labels and limits, through any commits."""

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.samples import Sample

from hypervisor_consumers.ring_metrics.exposition.families import ring_families
from hypervisor_consumers.ring_metrics.fold.agent_rings import AgentRingsView, agent_rings, publish_agent_rings
from hypervisor_consumers.ring_metrics.fold.event_fold import RING_EVENT_TYPES, RingFold
from hypervisor_consumers.ring_metrics.fold.state import OVERFLOW, RingState
from hypervisor_consumers.ring_metrics.metric_defs import RING_BREACHES, RING_TRANSITIONS
from hypervisor_consumers.runtime.ops.cardinality import SERIES_OVERFLOW
from hypervisor_consumers.runtime.protocols import Home, Table
from hypervisor_schemas.agent_rings import AgentRing
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.topics import partition_of, record_key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAW = settings(deadline=None)  # a busy machine is no failure

AGENTS = st.sampled_from(["a", "b", "c", None, ""])
SESSIONS = st.sampled_from(["s", "t", "u", "v", None, ""])
LABELS = st.sets(st.sampled_from(RING_TRANSITIONS.labels)).map(tuple)
Rows = dict[int, dict[tuple[str, str], AgentRing]]


@st.composite
def seen_events(draw: st.DrawFn) -> list[tuple[HypervisorEvent, int]]:
    """Events in the order they arrive, each with when it was seen, which may go back a little."""
    events = []
    for number in range(draw(st.integers(0, 40))):
        event = HypervisorEvent(
            event_id=f"{draw(st.integers(0, 9))}{number}",
            event_type=draw(st.sampled_from(RING_EVENT_TYPES)),
            timestamp=EPOCH + timedelta(seconds=draw(st.integers(0, 9))),
            agent_did=draw(AGENTS),
            session_id=draw(SESSIONS),
            payload=draw(st.sampled_from([{}, {"ring": 0}, {"to_ring": 1}, {"ring": 2}, {"ring": "3"}])),
        )
        events.append((event, 10 * number + draw(st.integers(0, 25))))
    return events


def committed(state: RingState | None = None) -> RingState:
    """The state as the runtime holds it: all in the bases, no changes."""
    fresh = RingState()
    for old, new in zip(tables(state or RingState()), tables(fresh), strict=True):
        new.base = dict(old.present())
    return fresh


def tables(state: RingState) -> list[Table[Any, Any]]:
    return [getattr(state, name) for name in RingState.__slots__]


def contents(state: RingState) -> list[dict[Any, Any]]:
    return [dict(table.present()) for table in tables(state)]


def merge(state: RingState) -> None:
    for table in tables(state):
        table.merge_changes()


def partition_of_event(event: HypervisorEvent, partitions: int) -> int:
    key = record_key("ring", event.session_id, event.agent_did, event.event_id)
    assert key is not None
    return partition_of(key, partitions)


def samples(
    states: dict[int, RingState], name: str, labels: Iterable[str], home_partitions: int | None = None
) -> list[Sample]:
    families = ring_families(states, {}, 0.0, labels=tuple(labels), home_partitions=home_partitions)
    return [sample for family in families for sample in family.samples if sample.name == name]


@LAW
@given(
    events=seen_events(),
    labels=LABELS,
    max_series=st.integers(1, 12),
    partitions=st.integers(1, 4),
    commits=st.sets(st.integers(0, 39)),
)
def test_no_label_ceiling_or_partition_loses_a_count(events, labels, max_series, partitions, commits):
    fold, states = RingFold(labels=labels, max_series=max_series), {}
    for number, (event, seen_at) in enumerate(events):
        state = states.setdefault(partition_of_event(event, partitions), committed())
        fold.apply(state, event, seen_at)
        if number in commits:
            merge(state)

    truth = Counter(event.event_type.value for event, _ in events)
    breaches = truth.pop("ring.breach_detected", 0)
    transitions: Counter[str] = Counter()
    for sample in samples(states, RING_TRANSITIONS.name, labels):
        transitions[sample.labels.get("event_type", "all")] += sample.value
    assert transitions == (truth if "event_type" in labels else Counter({"all": truth.total()} if truth else {}))
    assert sum(sample.value for sample in samples(states, RING_BREACHES.name, labels)) == breaches
    assert all(state.series.size <= max_series + 1 for state in states.values())
    if "agent_did" in labels and "session_id" in labels:
        overflowed = sum(sample.value for sample in samples(states, SERIES_OVERFLOW.name, labels))
        in_series = [state.series[OVERFLOW] for state in states.values()]
        assert overflowed == sum(sum(series.transitions) + series.breaches for series in in_series if series)


@LAW
@given(events=seen_events(), labels=LABELS, partitions=st.integers(1, 4))
def test_below_the_ceiling_every_label_combination_has_its_own_truth(events, labels, partitions):
    fold, states = RingFold(labels=labels), {}
    for event, seen_at in events:
        fold.apply(states.setdefault(partition_of_event(event, partitions), RingState()), event, seen_at)

    for metric, kinds in ((RING_TRANSITIONS, RING_EVENT_TYPES[:4]), (RING_BREACHES, RING_EVENT_TYPES[4:])):
        names = [label for label in metric.labels if label in labels]
        truth = Counter(
            tuple(
                {
                    "event_type": event.event_type.value,
                    "agent_did": event.agent_did or "unknown",
                    "session_id": event.session_id or "unknown",
                }[name]
                for name in names
            )
            for event, _ in events
            if event.event_type in kinds
        )
        shown: Counter[tuple[str, ...]] = Counter()
        for sample in samples(states, metric.name, labels):
            shown[tuple(sample.labels[name] for name in names)] += sample.value
        assert shown == truth


@LAW
@given(
    events=seen_events(),
    labels=LABELS,
    max_series=st.integers(1, 12),
    before=st.integers(1, 4),
    grown_by=st.integers(0, 4),
    moved=st.integers(0, 39),
)
def test_no_series_is_shown_by_two_partitions(events, labels, max_series, before, grown_by, moved):
    """Also when the source grew after some of the events: those after it may lie elsewhere."""
    fold, states = RingFold(labels=labels, max_series=max_series), {}
    for number, (event, seen_at) in enumerate(events):
        partitions = before if number < moved else before + grown_by
        fold.apply(states.setdefault(partition_of_event(event, partitions), RingState()), event, seen_at)
    home = before if grown_by else None
    shown = [
        (sample.name, *sorted(sample.labels.items()))
        for partition, state in states.items()
        for name in (RING_TRANSITIONS.name, RING_BREACHES.name)
        for sample in samples({partition: state}, name, labels, home)
    ]
    assert len(set(shown)) == len(shown)
    together = [
        (sample.name, *sorted(sample.labels.items()))
        for name in (RING_TRANSITIONS.name, RING_BREACHES.name)
        for sample in samples(states, name, labels, home)
    ]
    assert sorted(together) == sorted(shown)


@LAW
@given(
    events=seen_events(),
    labels=LABELS,
    max_series=st.integers(1, 12),
    partitions=st.integers(1, 4),
    steps=st.lists(st.sampled_from(["commit", "abort", "expire", ""]), max_size=40),
)
def test_the_public_table_is_what_the_committed_states_say(events, labels, max_series, partitions, steps):
    fold = RingFold(labels=labels, max_series=max_series, series_ttl_ms=60, elevation_max_ms=90)
    states = {partition: committed() for partition in range(partitions)}
    view, rows = AgentRingsView(), {}

    def commit(partition: int) -> None:
        state = states[partition]
        for record in publish_agent_rings(state, Home(partition, partitions)):
            of_partition = rows.setdefault(partition_of(record.partition_key, 3), view.new_rows())
            view.apply(of_partition, record.key, record.value)
        merge(state)

    for (event, seen_at), step in zip_longest(events, steps[: len(events)], fillvalue=""):
        partition = partition_of_event(event, partitions)
        state = states[partition]
        fold.apply(state, event, seen_at)
        if step == "expire":
            fold.expire(state, seen_at)
        if step == "commit":
            commit(partition)
        if step == "abort":
            for table in tables(state):
                table.discard_changes()
    for partition in states:
        commit(partition)

    direct = [
        row
        for state in states.values()
        for row in agent_rings(state.series.present())
        if (row.agent_did, row.session_id) != ("unknown", "unknown")
    ]
    assert sorted(shown_rows(rows)) == sorted(map(repr, direct))
    assert all(partition_of(agent.encode(), 3) == number for number, of in rows.items() for agent, _ in of)


def shown_rows(rows: Rows) -> list[str]:
    return [repr(row) for of_partition in rows.values() for row in of_partition.values()]


@LAW
@given(events=seen_events(), labels=LABELS, expiries=st.sets(st.integers(0, 39)))
def test_an_agents_rings_and_elevations_are_the_same_under_any_labels(events, labels, expiries):
    folds = [
        RingFold(labels=each, series_ttl_ms=60, elevation_max_ms=90) for each in (RING_TRANSITIONS.labels, labels)
    ]
    states = [RingState(), committed()]
    for number, (event, seen_at) in enumerate(events):
        for fold, state in zip(folds, states, strict=True):
            fold.apply(state, event, seen_at)
            if number in expiries:
                fold.expire(state, seen_at)
    rows = [sorted(map(repr, agent_rings(state.series.present()))) for state in states]
    assert rows[0] == rows[1]
    assert contents(states[0])[1] == contents(states[1])[1]


@LAW
@given(events=seen_events(), labels=LABELS, max_series=st.integers(1, 12))
def test_a_state_that_was_written_and_read_again_is_the_same(events, labels, max_series):
    fold, state = RingFold(labels=labels, max_series=max_series), RingState()
    for event, seen_at in events:
        fold.apply(state, event, seen_at)
    for table in tables(state):
        for _, value in table.present():
            assert msgspec.json.decode(msgspec.json.encode(value), type=table.value_type) == value


@LAW
@given(
    events=seen_events(),
    labels=LABELS,
    max_series=st.integers(1, 12),
    batches=st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.booleans())),
)
def test_changes_over_a_base_are_a_plain_run_of_what_was_merged(events, labels, max_series, batches):
    fold = RingFold(labels=labels, max_series=max_series, series_ttl_ms=60, elevation_max_ms=90)
    state, plain = committed(), RingState()
    rest = list(events)
    for size, merged, expires in batches:
        batch, rest = rest[:size], rest[size:]
        untouched = deepcopy(contents(state))
        trial = deepcopy(plain)
        for each in (state, trial):
            for event, seen_at in batch:
                fold.apply(each, event, seen_at)
            if expires and batch:
                fold.expire(each, batch[-1][1])
        assert contents(state) == contents(trial)
        assert [table.size for table in tables(state)] == [table.size for table in tables(trial)]
        if merged:
            merge(state)
            plain = trial
        else:
            for table in tables(state):
                table.discard_changes()
            assert contents(state) == untouched
    assert [table.base for table in tables(state)] == contents(plain)


@LAW
@given(events=seen_events(), ttl=st.integers(1, 200), elevation_max=st.integers(1, 300), later=st.integers(0, 600))
def test_exactly_what_has_been_idle_for_longer_is_forgotten(events, ttl, elevation_max, later):
    fold, state = RingFold(series_ttl_ms=ttl, elevation_max_ms=elevation_max), committed()
    last_seen: dict[tuple[str, str], int] = {}
    running: dict[tuple[str, str], bool] = {}
    for event, seen_at in events:
        fold.apply(state, event, seen_at)
        key = (event.agent_did or "unknown", event.session_id or "unknown")
        last_seen[key] = max(seen_at, last_seen.get(key, 0))
        kind = event.event_type.value
        if kind not in {"ring.assigned", "ring.breach_detected"}:
            running[key] = kind == "ring.elevated"
    fold.expire(state, later)
    assert {key for key, _ in state.series.present()} == {
        key
        for key, seen in last_seen.items()
        if later - seen <= (max(ttl, elevation_max) if running.get(key) else ttl)
    }
