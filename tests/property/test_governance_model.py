"""Governance metrics against a model that recomputes everything; any labels, partitions, commits and restarts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Never

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_consumers.governance_metrics.exposition import governance_families
from hypervisor_consumers.governance_metrics.fold.batch_fold import GovernanceBatchFold
from hypervisor_consumers.governance_metrics.fold.event_fold import GOVERNANCE_EVENT_TYPES
from hypervisor_consumers.governance_metrics.fold.state import GovernanceState
from hypervisor_consumers.governance_metrics.metric_defs import CHOSEN_LABELS
from hypervisor_consumers.runtime.decode.batch_decoder import columns_of
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import HypervisorEvent, event_type_of
from hypervisor_schemas.governance import LATENCY_BUCKETS_MS
from hypervisor_schemas.topics import partition_of, record_key
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, EventDecoder, encode_event

LAW = settings(deadline=None)  # a busy machine is no failure
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START_MS = 1_700_000_000_000
DECODER = EventDecoder()

DECISION, SCORE, AUDIT, REGISTERED, DEREGISTERED = GOVERNANCE_EVENT_TYPES
OTHERS = ("governance.of_tomorrow", "ring.assigned")

decisions = st.fixed_dictionaries(
    {"allowed": st.booleans()},
    optional={
        "tool_name": st.sampled_from(["shell", "read", "ü", "", None]),
        "evaluation_ms": st.sampled_from([0, 0.01, 0.5, 3, 9_999.5, 20_000, None]) | st.floats(0, 1e300),
        "rate_limited": st.booleans(),
        "rule": st.text(max_size=3),
    },
)
BAD_DECISIONS = [{}, {"allowed": 1}, {"allowed": True, "evaluation_ms": -1}, {"allowed": True, "tool_name": 5}]
scores = st.sampled_from([0, 1, 320.5, 850, 1000])
BAD_SCORES = [{}, {"score": -0.5}, {"score": 1001}, {"score": "7"}]
# Few values, so that times tie, and an agent registers, leaves and comes back.
AGENTS = st.sampled_from(["a", "b", "ç", None, ""])
LABELS = st.sets(st.sampled_from(CHOSEN_LABELS)).map(tuple)


@st.composite
def governance_events(draw: st.DrawFn, *, bad: bool = True) -> HypervisorEvent:
    kind = draw(st.sampled_from([DECISION, DECISION, DECISION, *GOVERNANCE_EVENT_TYPES, *OTHERS]))
    payload: dict[str, Any] = draw(st.sampled_from([{}, {"reason": "x"}, {"allowed": "not read here"}]))
    is_bad = bad and draw(st.integers(0, 9)) == 0
    if kind == DECISION:
        payload = draw(st.sampled_from(BAD_DECISIONS) if is_bad else decisions)
    elif kind == SCORE:
        payload = draw(st.sampled_from(BAD_SCORES)) if is_bad else {"score": draw(scores)}
    agent = draw(AGENTS)
    if not bad and kind in {SCORE, REGISTERED, DEREGISTERED}:
        agent = agent or "a"
    return HypervisorEvent(
        event_id=f"{draw(st.integers(0, 2**64 - 1)):016x}",
        event_type=event_type_of(kind),
        timestamp=EPOCH + timedelta(seconds=draw(st.integers(-3, 6))),
        agent_did=agent,
        session_id=draw(st.sampled_from(["s", None])),
        payload=payload,
    )


def event_lists(*, bad: bool = True, most: int = 40) -> st.SearchStrategy[list[HypervisorEvent]]:
    return st.lists(governance_events(bad=bad), max_size=most, unique_by=lambda event: event.event_id)


def is_good(event: HypervisorEvent) -> bool:
    kind, payload = event.event_type.value, event.payload
    bad = {DECISION: BAD_DECISIONS, SCORE: BAD_SCORES}.get(kind, [])
    if repr(payload) in map(repr, bad):  # 1 == True
        return False
    return bool(event.agent_did) or kind not in {SCORE, REGISTERED, DEREGISTERED}


Series = tuple[str, frozenset[tuple[str, str]]]


def model(events: Iterable[HypervisorEvent], labels: Collection[str]) -> dict[Series, float]:
    """Every series that is not 0, summed over the partitions, from the whole list; latencies by their buckets."""
    found: Counter[Series] = Counter()
    scored: dict[str, Any] = {}
    words: dict[str, Any] = {}
    agents = set()

    def add(name: str, **of: str) -> None:
        found[f"agent_governance_{name}", frozenset(of.items())] += 1

    for event in events:
        kind, payload = event.event_type.value, event.payload
        if not is_good(event) or kind in OTHERS:
            continue
        when = event.timestamp, event.event_id
        if kind == DECISION:
            tool = payload.get("tool_name") or "unknown"
            all_labels = {"agent_id": event.agent_did or "unknown", "tool_name": tool}
            of = {"decision": "allow" if payload["allowed"] else "deny"}
            of |= {label: all_labels[label] for label in labels}
            add("policy_decisions_total", **of)
            add("tool_calls_allowed_total" if payload["allowed"] else "tool_calls_blocked_total", **of)
            if payload.get("rate_limited"):
                add("rate_limit_hits_total", **of)
            if not payload["allowed"]:
                add("denials_total", tool_name=tool)
            if (took := payload.get("evaluation_ms")) is not None:
                add("evaluation_latency_ms_count", **of)
                for bound in (*LATENCY_BUCKETS_MS, float("inf")):
                    if took <= bound:
                        add("evaluation_latency_ms_bucket", le=f"{bound:g}", **of)
        if kind == AUDIT:
            add("audit_events_total")
        if event.agent_did:
            agents.add(event.agent_did)
            if kind == SCORE:
                scored[event.agent_did] = max(scored.get(event.agent_did, (when, 0)), (when, payload["score"]))
            if kind in {DECISION, REGISTERED, DEREGISTERED}:
                words[event.agent_did] = max(words.get(event.agent_did, (when, kind)), (when, kind))
    trust = {
        ("agent_governance_trust_score", frozenset({("agent_id", agent)})): score
        for agent, (_, score) in scored.items()
    }
    active = sum(words.get(agent, ("", ""))[1] != DEREGISTERED for agent in agents)
    presence = {("agent_governance_active_agents", frozenset[tuple[str, str]]()): active}
    return {series: value for series, value in {**found, **trust, **presence}.items() if value}


def shown(states: dict[int, GovernanceState], labels: Collection[str]) -> dict[Series, float]:
    """As the model has it, from the text of `/metrics`."""
    text, _ = Exposition().write(governance_families(states, labels=labels, home_partitions=len(states)), "")
    found: Counter[Series] = Counter()
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if not sample.name.startswith("agent_governance") or sample.name.endswith("_sum"):
                continue
            of = {name: value for name, value in sample.labels.items() if name != "partition"}
            if "le" in of:
                of["le"] = f"{float(of['le']):g}"
            found[sample.name, frozenset(of.items())] += sample.value  # type: ignore[assignment]
    return {series: value for series, value in found.items() if value}


def folded(
    fold: GovernanceBatchFold, events: Iterable[HypervisorEvent], partitions: int
) -> dict[int, GovernanceState]:
    states = {number: fold.new_state() for number in range(partitions)}
    for event in events:
        key = record_key("governance", event.session_id, event.agent_did, event.event_id)
        assert key is not None
        state = states[partition_of(key, partitions)]
        if is_good(event):
            result = fold.apply(state, event, START_MS)
            assert result == (None if event.event_type.value in OTHERS else ())
        else:
            refused(fold, state, event)
    return states


def refused(fold: GovernanceBatchFold, state: GovernanceState, event: HypervisorEvent) -> None:
    before = kept_of(state)
    try:
        fold.apply(state, event, START_MS)
    except InvalidPayload:
        assert kept_of(state) == before
    else:
        raise AssertionError(event)


def kept_of(state: GovernanceState) -> dict[str, dict[Any, Any]]:
    return {field.name: dict(getattr(state, field.name)) for field in fields(GovernanceState)}


@LAW
@given(events=event_lists(), labels=LABELS, partitions=st.integers(1, 4))
def test_what_is_shown_is_what_a_model_makes_of_the_whole_list(
    events: list[HypervisorEvent], labels: tuple[str, ...], partitions: int
) -> None:
    assert shown(folded(GovernanceBatchFold(labels=labels), events, partitions), labels) == model(events, labels)


@LAW
@given(events=event_lists(bad=False), labels=LABELS, data=st.data())
def test_only_the_order_of_what_is_current_counts_and_that_is_by_time(
    events: list[HypervisorEvent], labels: tuple[str, ...], data: st.DataObject
) -> None:
    fold = GovernanceBatchFold(labels=labels)
    other = data.draw(st.permutations(events))
    assert kept_of(folded(fold, events, 1)[0]) == kept_of(folded(fold, other, 1)[0])


@LAW
@given(events=event_lists(), labels=LABELS, max_series=st.integers(1, 4), partitions=st.integers(1, 3))
def test_no_ceiling_loses_a_count(
    events: list[HypervisorEvent], labels: tuple[str, ...], max_series: int, partitions: int
) -> None:
    states = folded(GovernanceBatchFold(labels=labels, max_series=max_series), events, partitions)
    for state in states.values():
        # Two overflow series, one of each decision.
        assert state.decisions.size <= max_series + 2
        assert state.denials.size <= max_series + 1
        assert state.agents.size <= max_series

    def by_name(series: dict[Series, float]) -> dict[str, float]:
        sums: defaultdict[str, float] = defaultdict(float)
        for (name, _), value in series.items():
            if not name.endswith(("trust_score", "active_agents")):
                sums[name] += value
        return dict(sums)

    assert by_name(shown(states, labels)) == by_name(model(events, labels))


@LAW
@given(events=event_lists(bad=False), labels=LABELS, ttl=st.integers(1, 60), agent_ttl=st.integers(1, 60))
def test_exactly_what_has_been_idle_for_longer_is_forgotten_or_not_active(
    events: list[HypervisorEvent], labels: tuple[str, ...], ttl: int, agent_ttl: int
) -> None:
    fold = GovernanceBatchFold(labels=labels, series_ttl_ms=ttl, agent_ttl_ms=agent_ttl)
    state = fold.new_state()
    for number, event in enumerate(events):
        fold.apply(state, event, START_MS + number)
    last_heard = {event.agent_did: START_MS + number for number, event in enumerate(events) if is_known(event)}
    last_denied = {
        event.payload.get("tool_name") or "unknown": START_MS + number
        for number, event in enumerate(events)
        if event.event_type.value == DECISION and not event.payload["allowed"]
    }
    now = START_MS + 60
    fold.expire(state, now)
    heard = {agent: now - at for agent, at in last_heard.items() if agent}
    assert {key for (key,), _ in state.denials.present()} == {
        tool for tool, at in last_denied.items() if now - at <= ttl
    }
    assert {key for (key,), _ in state.agents.present()} == {
        agent for agent, idle in heard.items() if idle <= max(ttl, agent_ttl)
    }
    assert all(row.is_idle == (heard[agent] > agent_ttl) for (agent,), row in state.agents.present())


def is_known(event: HypervisorEvent) -> bool:
    return event.event_type.value not in OTHERS


def partition(labels: Collection[str], max_series: int) -> Partition[GovernanceState, Never]:
    fold = GovernanceBatchFold(labels=labels, max_series=max_series, series_ttl_ms=60, agent_ttl_ms=25)
    made: Partition[GovernanceState, Never] = Partition(0, fold, 1000)
    made.begin(0)
    return made


def one_by_one(
    into: Partition[GovernanceState, Never], offset: int, batch: Sequence[bytes], seen_at: Sequence[int]
) -> None:
    for number, value in enumerate(batch):
        try:
            into.apply(offset + number, DECODER.decode(value), seen_at[number])
        except InvalidPayload as error:
            into.reject(offset + number, error.reason)


def written(of: Partition[GovernanceState, Never]) -> dict[bytes, Any]:
    return {key: None if value is None else json.loads(value) for key, value in of.changes()}


@LAW
@given(
    history=st.lists(event_lists(most=12), max_size=6),
    labels=LABELS,
    max_series=st.sampled_from([1, 2, 100]),
    data=st.data(),
)
def test_batches_single_events_and_what_is_restored_are_one(
    history: list[list[HypervisorEvent]], labels: tuple[str, ...], max_series: int, data: st.DataObject
) -> None:
    """Through commits, aborts, expiry, and restarts from nothing but the changelog's records."""
    fast, slow = partition(labels, max_series), partition(labels, max_series)
    changelog: dict[bytes, bytes | None] = {}
    ids: list[str] = []
    """By offset."""
    offset = 0
    for events in history:
        batch = [encode_event(event) for event in events]
        seen_at = [START_MS + 10 * offset + number for number in range(len(batch))]
        columns = columns_of(batch, SINGLE_OBJECT) if batch else None
        if columns is not None and fast.apply_columns(offset, columns, np.array(seen_at)) is None:
            one_by_one(fast, offset, batch, seen_at)
        one_by_one(slow, offset, batch, seen_at)
        offset += len(batch)
        ids += [event.event_id for event in events]
        match data.draw(st.sampled_from(["commit", "abort", "look", "restart", "go on"])):
            case "abort":
                assert fast.rollback() == slow.rollback()
                offset = fast.next_offset
                del ids[offset:]
            case "look":
                now = START_MS + 10 * offset + 30
                fast.expire(now)
                slow.expire(now)
            case "commit" | "restart" as what:
                changelog |= dict(fast.changes())
                assert written(fast) == written(slow)
                fast.commit()
                slow.commit()
                if what == "restart":
                    live = fast
                    fast = partition(labels, max_series)
                    for key, value in changelog.items():
                        fast.load(key, value)
                    fast.begin(offset)
                    for number, event_id in enumerate(ids):
                        fast.know(number, event_id)
                    assert kept_of(fast.committed) == kept_of(live.committed)
                assert kept_of(fast.committed) == kept_of(slow.committed)
    assert fast.account == slow.account
    assert written(fast) == written(slow)


def test_ordinary_events_are_taken_at_once() -> None:
    into = partition((), 100)
    payloads = {DECISION: {"allowed": False, "tool_name": "t", "rule": [1]}, SCORE: {"score": 7}}
    plain = [
        HypervisorEvent(event_type=event_type_of(kind), agent_did="a", payload=payloads.get(kind, {"n": 1}))
        for kind in (*GOVERNANCE_EVENT_TYPES, *OTHERS)
    ]
    columns = columns_of([encode_event(event) for event in plain], SINGLE_OBJECT)
    assert columns is not None
    assert into.apply_columns(0, columns, np.full(len(plain), START_MS)) == []
    assert into.next_offset == len(plain)
    assert into.pending.decisions.size == 1
