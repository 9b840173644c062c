"""The ring fold against a naive model that recomputes everything from the whole list of events."""

from collections import Counter
from copy import copy, deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.samples import Sample

from hypervisor_consumers.ring_metrics.exposition.families import ring_families
from hypervisor_consumers.ring_metrics.fold.agent_rings import (
    agent_rings,
    current_rings,
    elevation_seconds,
    elevations_active,
    ended_durations,
    running_elevations,
)
from hypervisor_consumers.ring_metrics.fold.event_fold import TRANSITION_TYPES, RingFold
from hypervisor_consumers.ring_metrics.fold.state import RingState
from hypervisor_consumers.ring_metrics.metric_defs import ELEVATION_BUCKETS_SECONDS
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import HypervisorEvent, event_type_of, type_value
from hypervisor_schemas.topics import partition_of, record_key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FOLD = RingFold()
LAW = settings(deadline=None)  # a busy machine is no failure

TRANSITIONS = ("ring.assigned", "ring.elevated", "ring.demoted", "ring.elevation_expired")
ENDS = ("ring.demoted", "ring.elevation_expired")
BREACH = "ring.breach_detected"
OTHERS = ("saga.created", "ring.polished")

GOOD_PAYLOADS: list[tuple[dict[str, Any], int | None]] = [
    ({}, None),
    ({"reason": "none given"}, None),
    ({"to_ring": 0}, 0),
    ({"ring": 0}, 0),
    ({"to_ring": 1, "from_ring": 3}, 1),
    ({"to_ring": 2, "ring": 1}, 2),
    ({"to_ring": None, "ring": 3}, 3),
    ({"to_ring": "3"}, 3),
]
BAD_PAYLOADS: list[dict[str, Any]] = [{"ring": 4}, {"to_ring": "x"}, {"to_ring": 1, "ring": -1}]
RING_OF = {repr(payload): ring for payload, ring in GOOD_PAYLOADS}

# Few values, so that times tie, sessions are shared by agents and agents move between sessions.
AGENTS = st.sampled_from(["a", "b", "c", None, ""])
SESSIONS = st.sampled_from(["s", "t", "u", "v", None, ""])
TIMES = st.one_of(
    st.integers(0, 6).map(lambda second: second * 1_000_000),
    st.integers(0, 200_000 * 1_000_000),  # µs; beyond the last bucket of the histogram
)


@st.composite
def event_lists(draw: st.DrawFn, *, placed: bool = False) -> list[HypervisorEvent]:
    """Events in the order they arrive; `placed`: each has an agent or a session, so it has one partition."""
    events = []
    for event_id in draw(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=40)):
        agent, session = draw(AGENTS), draw(SESSIONS)
        if placed and not agent and not session:
            agent = "a"
        payload = draw(st.sampled_from([*[good for good, _ in GOOD_PAYLOADS] * 2, *BAD_PAYLOADS]))
        events.append(
            HypervisorEvent(
                event_id=f"{event_id:016x}",
                event_type=event_type_of(draw(st.sampled_from([*TRANSITIONS * 3, BREACH, *OTHERS]))),
                timestamp=EPOCH + timedelta(microseconds=draw(TIMES)),
                agent_did=agent,
                session_id=session,
                payload=payload,
            )
        )
    return events


@dataclass(frozen=True)
class Seen:
    """An event as the model sees it."""

    arrival: int
    kind: str
    agent: str
    session: str
    at: int
    event_id: str
    ring: int | None


def counted(events: list[HypervisorEvent]) -> list[Seen]:
    return [
        Seen(
            arrival,
            type_value(event.event_type),
            event.agent_did or "unknown",
            event.session_id or "unknown",
            (event.timestamp - EPOCH) // timedelta(microseconds=1),
            event.event_id,
            RING_OF.get(repr(event.payload)),
        )
        for arrival, event in enumerate(events)
        if event.event_type.value == BREACH
        or (event.event_type.value in TRANSITIONS and event.payload not in BAD_PAYLOADS)
    ]


def model(events: list[HypervisorEvent], now: float) -> dict[str, Any]:
    seen = counted(events)
    rings: dict[str, Any] = {}
    durations: dict[str, Any] = {}
    running: dict[str, Any] = {}
    active: dict[str, int] = {}
    all_ended: list[int] = []
    for agent in {each.agent for each in seen}:
        latest_of_session, last_end_of_session, starts, ever = [], [], [], False
        for session in {each.session for each in seen if each.agent == agent}:
            mine = [each for each in seen if (each.agent, each.session) == (agent, session)]
            with_ring = [each for each in mine if each.kind in TRANSITIONS and each.ring is not None]
            if with_ring:
                latest_of_session.append(max(with_ring, key=lambda each: (each.at, each.arrival)))
            clock = [each for each in mine if each.kind == "ring.elevated" or each.kind in ENDS]
            ended = [
                (after, max(0, after.at - before.at))
                for before, after in pairwise(clock)
                if before.kind == "ring.elevated" and after.kind in ENDS
            ]
            all_ended.extend(length for _, length in ended)
            if ended:
                last_end_of_session.append(max(ended, key=lambda each: (each[0].at, each[0].arrival)))
            if clock and clock[-1].kind == "ring.elevated":
                starts.append(clock[-1].at)
            ever = ever or bool(ended)
        if latest_of_session:
            rings[agent] = max(latest_of_session, key=lambda each: (each.at, each.event_id)).ring
        if last_end_of_session:
            durations[agent] = max(last_end_of_session, key=lambda each: (each[0].at, each[0].event_id))[1] / 1e6
        if starts:
            running[agent] = min(starts) / 1e6
        if starts or ever:
            active[agent] = len(starts)
    return {
        "transitions": Counter((e.kind, e.agent, e.session) for e in seen if e.kind in TRANSITIONS),
        "breaches": Counter((e.agent, e.session) for e in seen if e.kind == BREACH),
        "current_rings": rings,
        "ended_durations": durations,
        "running_elevations": running,
        "elevations_active": active,
        "elevation_seconds": durations | {agent: max(now - start, 0.0) for agent, start in running.items()},
        "at_most": {
            bound: sum(length <= bound * 1e6 for length in all_ended) for bound in ELEVATION_BUCKETS_SECONDS
        },
        "ended": (len(all_ended), sum(all_ended)),
    }


def views(states: list[RingState], now: float) -> dict[str, Any]:
    transitions: Counter[Any] = Counter()
    breaches: Counter[Any] = Counter()
    buckets = []
    rows = []
    for state in states:
        for key, series in state.series.present():
            counts = zip(TRANSITION_TYPES, series.transitions, strict=True)
            transitions.update({(kind, *key): count for kind, count in counts if count})
            breaches.update({key: series.breaches} if series.breaches else {})
        buckets.extend(
            (float(bound), entry.count, entry.microseconds) for (bound,), entry in state.elevations.present()
        )
        rows.extend(agent_rings(state.series.present()))
    return {
        "transitions": transitions,
        "breaches": breaches,
        "current_rings": current_rings(rows),
        "ended_durations": ended_durations(rows),
        "running_elevations": running_elevations(rows),
        "elevations_active": elevations_active(rows),
        "elevation_seconds": elevation_seconds(rows, now),
        "at_most": {
            limit: sum(count for bound, count, _ in buckets if bound <= limit)
            for limit in ELEVATION_BUCKETS_SECONDS
        },
        "ended": (sum(count for _, count, _ in buckets), sum(total for _, _, total in buckets)),
    }


def fold_into(state: RingState, event: HypervisorEvent) -> None:
    before = deepcopy(state)
    is_transition, is_bad = event.event_type.value in TRANSITIONS, event.payload in BAD_PAYLOADS
    try:
        result = FOLD.apply(state, event)
    except InvalidPayload:
        assert is_transition
        assert is_bad
        assert state == before
    else:
        assert not (is_transition and is_bad)
        assert result == (None if event.event_type.value in OTHERS else ())
        assert (state == before) == (result is None)


@LAW
@given(events=event_lists(), now=st.floats(0, 300_000))
def test_the_fold_agrees_with_a_model_that_recomputes_everything(events, now):
    state = FOLD.new_state()
    for event in events:
        fold_into(state, event)
    assert views([state], now) == model(events, now)


@LAW
@given(events=event_lists(placed=True), now=st.floats(0, 300_000), data=st.data())
def test_any_split_over_partitions_by_session_gives_the_same_views(events, now, data):
    partition_by_key = data.draw(
        st.fixed_dictionaries({name: st.integers(0, 3) for name in ("a", "b", "c", "s", "t", "u", "v")})
    )
    states: dict[int, RingState] = {}
    for event in events:
        partition = partition_by_key[event.session_id or event.agent_did]
        fold_into(states.setdefault(partition, FOLD.new_state()), event)
    assert views(list(states.values()), now) == model(events, now)
    assert views(list(states.values())[::-1], now) == model(events, now)


@LAW
@given(events=event_lists(placed=True), partitions=st.integers(1, 12))
def test_every_number_of_partitions_shows_the_same_counters_and_gauges(events, partitions):
    whole, split = FOLD.new_state(), {}
    for event in events:
        fold_into(whole, event)
        key = record_key("ring", event.session_id, event.agent_did, event.event_id)
        fold_into(split.setdefault(partition_of(key, partitions), FOLD.new_state()), event)
    assert seeds_families(split) == seeds_families({0: whole})


def seeds_families(states: dict[int, RingState]) -> list[tuple[str, list[Sample]]]:
    """All but the histogram and the service's own, which are per partition."""
    rows = {
        partition: {(row.agent_did, row.session_id): row for row in agent_rings(state.series.present())}
        for partition, state in states.items()
    }
    families = ring_families(states, rows, now=10.0)[:5]
    return [(family.name, sorted(family.samples, key=str)) for family in families]


@LAW
@given(events=event_lists())
def test_a_state_kept_by_someone_else_is_never_changed_through_another(events):
    """Values are replaced, never changed in place: a shallow copy of the tables is a snapshot."""
    state = FOLD.new_state()
    for event in events[: len(events) // 2]:
        fold_into(state, event)
    snapshot = RingState(*[copy(getattr(state, name)) for name in RingState.__slots__])
    before = deepcopy(state)
    for event in events[len(events) // 2 :]:
        fold_into(state, event)
    assert snapshot == before
