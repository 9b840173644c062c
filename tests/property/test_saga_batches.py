"""Saga events taken batch by batch give what the same events give one by one, whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hypervisor_consumers.runtime.decode.batch_decoder import columns_of
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.saga_spans.fold.batch_fold import SagaBatchFold
from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_EVENT_TYPES
from hypervisor_consumers.saga_spans.fold.state import SagaState
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, EventDecoder, encode_event

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DECODER = EventDecoder()
START_MS = 1_700_000_000_000

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.lists(st.integers(0, 9), max_size=3),
)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "saga_id": st.sampled_from(["g", "h", "", None, 7, "ö"]) | values,
        "step_id": st.sampled_from(["a", "b", "", 0, "x" * 1025]),
        "action": st.sampled_from(["x", "y", None]),
        "step_action": st.sampled_from(["z", ""]),
        "error": values,
        "reason": values,
        "result": values,
        "error_type": values,
        "duration_seconds": values,
        "fan_out_id": st.sampled_from(["f", 1, None]),
        "group_id": values,
        "branches": st.sampled_from([["a", 0], [{"step_id": "b"}], "a"]),
        "policy": values,
        "policy_satisfied": values,
        "goal": values,
        "other": values,
    },
)
events = st.builds(
    HypervisorEvent,
    event_type=st.sampled_from([*SAGA_EVENT_TYPES, EventType.RING_ASSIGNED, event_type_of("saga.of_tomorrow")]),
    timestamp=st.integers(-(10**9), 10**9).map(lambda at: T0 + timedelta(microseconds=at)),
    session_id=st.sampled_from(["s1", "s2", "", None]),
    agent_did=st.sampled_from(["did:a", "did:ü", "", None]),
    causal_trace_id=st.sampled_from(["a1b2c3d4e5f6/01234567", "odd ñ", "", None]),
    payload=payloads,
)
batches = st.lists(st.lists(events, min_size=1, max_size=12), min_size=1, max_size=6)


def partition() -> Partition[SagaState, SagaSpanRecord]:
    made = Partition(0, SagaBatchFold(timeout_ms=50, grace_ms=20), 1000)
    made.begin(0)
    return made


def one_by_one(
    into: Partition[SagaState, SagaSpanRecord], offset: int, batch: Sequence[bytes], seen_at: Sequence[int]
) -> list[tuple[int, SagaSpanRecord]]:
    found = []
    for number, value in enumerate(batch):
        try:
            _, outputs = into.apply(offset + number, DECODER.decode(value), seen_at[number])
        except InvalidPayload as error:
            into.reject(offset + number, error.reason)
        else:
            found += [(offset + number, output) for output in outputs]
    return found


def written(of: Partition[SagaState, SagaSpanRecord]) -> dict[bytes, Any]:
    """The changelog's records: the order of the rows, and of what is in one, says nothing."""
    return {key: None if value is None else json.loads(value) for key, value in of.changes()}


def kept(of: Partition[SagaState, SagaSpanRecord]) -> dict[str, dict[Any, Any]]:
    return {field.name: dict(getattr(of.committed, field.name)) for field in fields(SagaState)}


@given(batches, st.data())
def test_batches_give_what_single_events_give(history: list[list[HypervisorEvent]], data: st.DataObject) -> None:
    fast, slow = partition(), partition()
    offset = taken = 0
    for batch in history:
        records = [
            encode_event(HypervisorEvent(f"{offset + n:016x}" if n % 3 else f"id {offset + n}", *rest))
            for n, rest in enumerate(
                [[getattr(event, name) for name in HypervisorEvent.__slots__[1:]] for event in batch]
            )
        ]
        seen_at = [START_MS + offset + n for n in range(len(batch))]
        columns = columns_of(records, SINGLE_OBJECT)
        assert columns is not None
        found = fast.apply_columns(offset, columns, np.array(seen_at))
        taken += found is not None
        if found is None:
            found = one_by_one(fast, offset, records, seen_at)
        assert list(found) == one_by_one(slow, offset, records, seen_at)
        offset += len(batch)
        match data.draw(st.sampled_from(["commit", "look", "go on"])):
            case "commit":
                assert written(fast) == written(slow)
                fast.commit()
                slow.commit()
                assert kept(fast) == kept(slow)
            case "look":
                now = START_MS + offset + 60
                assert list(fast.expire(now)) == list(slow.expire(now))
    assert written(fast) == written(slow)


def test_ordinary_events_are_taken_at_once() -> None:
    into = partition()
    plain = [
        HypervisorEvent(event_type=kind, session_id="s", payload={"saga_id": "g", "step_id": "a", "n": 1})
        for kind in SAGA_EVENT_TYPES
    ]
    columns = columns_of([encode_event(event) for event in plain], SINGLE_OBJECT)
    assert columns is not None
    found = into.apply_columns(0, columns, np.full(len(plain), START_MS))
    assert found
    assert into.next_offset == len(plain)


def test_an_event_that_is_wrong_leaves_the_batch_to_be_taken_one_by_one() -> None:
    into = partition()
    for bad in ({"saga_id": ["g"]}, {"saga_id": "g" * 1025}, {"saga_id": "g", "step_id": 1.5}):
        mixed = [
            HypervisorEvent(event_type=EventType.SAGA_CREATED, session_id="s", payload=payload)
            for payload in ({"saga_id": "g"}, bad)
        ]
        columns = columns_of([encode_event(event) for event in mixed], SINGLE_OBJECT)
        assert columns is not None
        assert into.apply_columns(0, columns, np.full(2, START_MS)) is None
        assert into.next_offset == 0
        assert not into.pending.sagas
