"""Batches by column give what events one by one give, whatever is in the batch."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor_consumers.ring_metrics.fold import batch_fold, key_interning
from hypervisor_consumers.ring_metrics.fold.batch_fold import RingBatchFold
from hypervisor_consumers.ring_metrics.fold.event_fold import RING_EVENT_TYPES
from hypervisor_consumers.ring_metrics.fold.state import RingState
from hypervisor_consumers.runtime.decode.batch_decoder import columns_of, id_numbers_of, origin_of
from hypervisor_consumers.runtime.partitions.changelog import tables_of
from hypervisor_consumers.runtime.partitions.dedup_window import id_number
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_schemas.errors import InvalidPayload, RecordError
from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of, type_value
from hypervisor_schemas.timestamps import datetime_of, microseconds
from hypervisor_schemas.wire.codec import (
    ID_CHARACTERS,
    SINGLE_OBJECT,
    EventDecoder,
    confluent_framing,
    encode_event,
    schema_text,
)

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
CONFLUENT = confluent_framing(7)
DECODER = EventDecoder({7: schema_text()}.__getitem__)

hexadecimal = st.integers(0, 2**64 - 1).map("{:016x}".format)
ids = (
    st.none()
    | st.text(max_size=70)
    | st.sampled_from(["", "a", "did:mesh:1", "é", "x" * 63, "x" * 64, "x" * ID_CHARACTERS])
)
events = st.builds(
    HypervisorEvent,
    event_id=hexadecimal | st.text(min_size=1, max_size=20) | st.just("A" * 16) | st.just("0_0000000000000a"),
    event_type=st.sampled_from([*EventType]) | st.text(max_size=20).map(event_type_of),
    timestamp=st.datetimes(timezones=st.just(UTC)) | st.datetimes(datetime(2020, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis takes naive bounds
    session_id=ids,
    agent_did=ids,
    causal_trace_id=ids,
    parent_event_id=ids,
    payload=st.dictionaries(st.text(max_size=5), st.integers(0, 9) | st.text(max_size=90), max_size=3),
)


def check(values: list[bytes], framing: bytes) -> bool:
    """If there are columns, they are what the decoder gives; returns whether there are."""
    columns, numbers = columns_of(values, framing), id_numbers_of(values, framing)
    if numbers is not None:
        for number, value in zip(numbers.tolist(), values, strict=True):
            try:
                assert number == id_number(DECODER.event_id(value))
            except RecordError:
                assert columns is None  # the decoder looks at more of it
    if columns is None:
        return False
    assert len(columns) == len(values)
    assert numbers is not None
    assert numbers.tolist() == columns.id_numbers.tolist()
    parts, types = columns.origins.values(), columns.event_types.values()
    whose = [origin_of(origin) for origin in parts]
    for at, value in enumerate(values):
        assert parts.count(parts[at]) == whose.count(whose[at])
        try:
            event = DECODER.decode(value)
        except InvalidPayload:
            continue  # whoever reads payloads finds out
        if columns.other_ids is None:
            assert event.event_id == f"{columns.id_numbers[at]:016x}"
        else:
            assert columns.other_ids[at] == event.event_id
        assert columns.id_numbers[at] == id_number(event.event_id)
        assert types[at].decode() == type_value(event.event_type)
        assert columns.timestamps_us[at] == microseconds(event.timestamp)
        assert whose[at] == (event.session_id, event.agent_did)
    return True


class TestDecoding:
    @LAW
    @given(st.lists(events, min_size=1, max_size=8), st.sampled_from([SINGLE_OBJECT, CONFLUENT]))
    def test_gives_what_the_decoder_gives(self, batch: list[HypervisorEvent], framing: bytes) -> None:
        values = [encode_event(event, framing) for event in batch]
        assert check(values, framing)

    @LAW
    @given(st.lists(events, min_size=1, max_size=4), st.data())
    def test_takes_nothing_that_the_decoder_does_not_take(self, batch: list[HypervisorEvent], data: Any) -> None:
        values = [bytearray(encode_event(event)) for event in batch]
        victim = data.draw(st.sampled_from(values))
        kind = data.draw(st.sampled_from(["change", "change", "cut", "append", "insert"]))
        at = data.draw(st.integers(0, len(victim) - 1))
        if kind == "change":
            victim[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del victim[at:]
        elif kind == "append":
            victim += data.draw(st.binary(min_size=1, max_size=9))
        else:
            victim[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        check([bytes(value) for value in values], SINGLE_OBJECT)

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\x00",  # an empty id
            b"\x01",  # a negative length
            b"\xff" * 9 + b"\x01",  # a length beyond all bounds
            b"\x02a\x00" + b"\xff" * 12,  # a number that doesn't end
            b"\x02a\x00\x00\x04\x00\x00\x00\x00\x00",  # a branch that the union doesn't have
            b"\x02a\x00\x00\x80\x00\x00\x00\x00\x00",
        ],
    )
    def test_takes_no_number_that_is_out_of_the_ordinary(self, body: bytes) -> None:
        good = encode_event(HypervisorEvent("1", EventType.RING_ASSIGNED))
        assert columns_of([good, SINGLE_OBJECT + body, good], SINGLE_OBJECT) is None
        assert columns_of([SINGLE_OBJECT + body], SINGLE_OBJECT) is None

    def test_takes_no_tombstone_and_no_other_framing(self) -> None:
        good = encode_event(HypervisorEvent("1", EventType.RING_ASSIGNED))
        assert columns_of([good, None], SINGLE_OBJECT) is None  # type: ignore[list-item]
        assert columns_of([good, encode_event(HypervisorEvent(), CONFLUENT)], SINGLE_OBJECT) is None
        assert columns_of([good, b""], SINGLE_OBJECT) is None
        assert columns_of([good], SINGLE_OBJECT) is not None

    @pytest.mark.parametrize("field", ["event_id", "session_id", "agent_did", "causal_trace_id", "parent_event_id"])
    def test_takes_no_id_that_is_too_long(self, field: str) -> None:
        record = {"event_id": "1", "event_type": "x", "timestamp": 0, "payload": "{}"}
        for length in (ID_CHARACTERS, ID_CHARACTERS + 1):
            out = io.BytesIO(SINGLE_OBJECT)
            out.seek(0, io.SEEK_END)
            fastavro.schemaless_writer(out, fastavro.parse_schema(json_schema()), {**record, field: "x" * length})
            assert (columns_of([out.getvalue()], SINGLE_OBJECT) is not None) == (length == ID_CHARACTERS)

    @pytest.mark.parametrize("time", [-(2**62), -(10**17), 10**18, 2**61])
    def test_takes_no_time_that_is_no_datetime(self, time: int) -> None:
        out = io.BytesIO(SINGLE_OBJECT)
        out.seek(0, io.SEEK_END)
        record = {"event_id": "1", "event_type": "x", "timestamp": time, "payload": "{}"}
        fastavro.schemaless_writer(out, fastavro.parse_schema(json_schema()), record)
        assert columns_of([out.getvalue()], SINGLE_OBJECT) is None
        with pytest.raises(RecordError):
            DECODER.decode(out.getvalue())


def json_schema() -> Any:
    """The schema, with times as plain numbers."""
    schema = json.loads(schema_text())
    schema["fields"][2]["type"] = "long"
    return schema


# Few of everything, so that events meet.
ring_events = st.builds(
    HypervisorEvent,
    event_id=st.integers(0, 30).map("{:016x}".format) | st.integers(0, 99).map("{:x}".format),
    event_type=st.sampled_from([*RING_EVENT_TYPES, EventType.SAGA_CREATED]),
    # Few times, so that they tie, and some that are far from each other: beyond the last bucket of the histogram.
    timestamp=st.sampled_from([*range(4)] * 4 + [5_000_000, 5_000_001, 200_000 * 1_000_000]).map(datetime_of)
    | st.datetimes(timezones=st.just(UTC)),
    session_id=st.sampled_from([None, "", "s", "s", "s"]),
    agent_did=st.sampled_from([None, "", "a", "a", "a"]),
    payload=st.sampled_from(
        [{}, {"ring": 1}, {"ring": "2"}, {"to_ring": 0, "ring": 3}, {"ring": 2.0}, {"ring": None}, {"ring": 3}]
    ),
)
unfit = st.builds(HypervisorEvent, event_type=st.just(EventType.RING_DEMOTED), payload=st.just({"ring": "none"}))
batches = st.lists(ring_events, min_size=1, max_size=12) | st.lists(ring_events | unfit, min_size=1, max_size=6)
P = Partition[RingState, Any]


def one_by_one(partition: P, offset: int, batch: list[HypervisorEvent]) -> None:
    for at, event in enumerate(batch, offset):
        try:
            partition.apply(at, event, 1000 + at % 7)
        except InvalidPayload as error:
            partition.reject(at, error.reason)


def everything(partition: P) -> Any:
    tables = [
        {name: dict(table) for name, table in tables_of(state).items()}
        for state in (partition.committed, partition.pending)
    ]
    return tables, partition.account, partition.next_offset, partition.pending.series.size


def written(partition: P) -> Any:
    return {key: None if value is None else json.loads(value) for key, value in partition.changes()}


class TestFolding:
    @settings(LAW, max_examples=300)
    @given(
        st.lists(
            st.tuples(batches, st.sampled_from(["", "", "", "look", "commit", "rollback", "expire", "one by one"])),
            max_size=16,
        ),
        st.sampled_from([2, 4, 100]),
        st.sampled_from([5, 40, 1000]),
        st.sampled_from([1, 12, 1000]),
    )
    def test_at_once_gives_what_one_by_one_gives(
        self, steps: list[tuple[list[HypervisorEvent], str]], max_series: int, window: int, few: int
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch_fold, "MAX_PENDING_EVENTS", few)
            patch.setattr(key_interning, "MAX_ORIGINS", few)
            self.compare(steps, RingBatchFold(max_series=max_series, series_ttl_ms=3), window)

    def compare(self, steps: list[tuple[list[HypervisorEvent], str]], fold: RingBatchFold, window: int) -> None:
        fast, slow = P(0, fold, window), P(0, fold, window)
        for partition in (fast, slow):
            partition.begin(0)
        shown = {}
        for batch, then in steps:
            offset = fast.next_offset
            columns = columns_of([encode_event(event) for event in batch], SINGLE_OBJECT)
            assert columns is not None
            seen_at = np.array([1000 + at % 7 for at in range(offset, offset + len(batch))])
            if then == "one by one" or fast.apply_columns(offset, columns, seen_at) is None:
                one_by_one(fast, offset, batch)
            one_by_one(slow, offset, batch)
            assert fast.next_offset == slow.next_offset
            assert fast.has_changes == slow.has_changes
            assert fast.snapshot().series == shown  # what is committed stays as it is
            if then == "look":
                assert everything(fast) == everything(slow)
            elif then == "commit":
                assert written(fast) == written(slow)
                for partition in (fast, slow):
                    partition.commit()
                shown = fast.snapshot().series.copy()
            elif then == "rollback":
                assert fast.rollback() == slow.rollback()
            elif then == "expire":
                for partition in (fast, slow):
                    partition.expire(1006)
        assert everything(fast) == everything(slow)
        assert written(fast) == written(slow)

    def test_series_by_the_ten_thousand_are_told_apart(self) -> None:
        fold = RingBatchFold()
        fast, slow = P(0, fold, 10), P(0, fold, 10)
        for partition in (fast, slow):
            partition.begin(0)
        for _ in range(3):
            offset = fast.next_offset
            batch = [
                HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id=f"s{number % 66_000}")
                for number in range(offset, offset + 30_000)
            ]
            columns = columns_of([encode_event(event) for event in batch], SINGLE_OBJECT)
            assert columns is not None
            assert fast.apply_columns(offset, columns, np.full(len(batch), 1000)) is not None
            one_by_one(slow, offset, batch)
        assert {key: row.assigned for key, row in fast.pending.series.items()} == {
            key: row.assigned for key, row in slow.pending.series.items()
        }

    def test_what_is_noted_is_dropped_with_what_is_pending(self) -> None:
        partition = P(0, RingBatchFold(), 10)
        partition.begin(0)
        columns = columns_of([encode_event(HypervisorEvent(event_type=EventType.RING_ASSIGNED))], SINGLE_OBJECT)
        assert columns is not None
        assert partition.apply_columns(0, columns, np.array([1000])) is not None
        assert partition.has_changes
        assert partition.rollback() == 0
        assert not partition.pending.series
        assert partition.apply_columns(0, columns, np.array([1000])) is not None
        assert [row.assigned for row in partition.pending.series.values() if row] == [1]

    def test_memory_for_what_is_noted_is_bounded(self) -> None:
        partition = P(0, RingBatchFold(), 10)
        partition.begin(0)
        batch = [
            HypervisorEvent(event_type=EventType.RING_ASSIGNED, agent_did="a")
            for _ in range(batch_fold.MAX_PENDING_EVENTS // 2)
        ]
        for number in range(2):
            assert not partition._state.pending.series
            columns = columns_of([encode_event(replace(event)) for event in batch], SINGLE_OBJECT)
            assert columns is not None
            again = replace(
                columns, id_numbers=np.arange(len(batch), dtype=np.uint64) + np.uint64(number * len(batch))
            )
            assert partition.apply_columns(partition.next_offset, again, np.full(len(batch), 1000)) is not None
        assert [row.assigned for row in partition._state.pending.series.values() if row] == [
            batch_fold.MAX_PENDING_EVENTS
        ]


PIECES = [
    '{"ring":2,"reason":"x"}',
    '{"to_ring":"1","ring":null}',
    '{"ring":1.0,"z":[true,{"y":-1.5e-7}]}',
    '{"ring":"1.0","to_ring":true}',
    '{"ring":1,"ring":"2","to_ring":0e0}',
    '{"z":1e40,"ring":3}',
    '{"z":1e400,"ring":3}',
    '{"z":12E+00400,"ring":3}',
    '{"z":' + "9" * 310 + ".5}",
    '{"z":' + "9" * 310 + "}",
    '{"r\\u0069ng":2}',
    ' {"ring" : -0 } ',
    '[{"ring":1}]',
    '{"ring":[1]}',
    '{"ring":"\\ud800"}',
    '{"z":' + "[" * 2000 + "]" * 2000 + "}",
]
changes = st.tuples(
    st.integers(0, 400), st.integers(0, 2), st.sampled_from(["", *'{}[]",:\\01239.eE+- tn\x00\x7f\xe9'])
)


class TestPayloads:
    @settings(LAW, max_examples=400)
    @given(st.sampled_from(PIECES), st.lists(changes, max_size=3))
    def test_a_text_is_read_as_one_by_one_or_not_at_all(
        self, text: str, wanted: list[tuple[int, int, str]]
    ) -> None:
        for at, removed, added in wanted:
            place = at % (len(text) + 1)
            text = text[:place] + added + text[place + removed :]
        out = io.BytesIO(SINGLE_OBJECT)
        out.seek(0, io.SEEK_END)
        record = {"event_id": "1", "event_type": "ring.assigned", "timestamp": 0, "payload": text}
        fastavro.schemaless_writer(out, fastavro.parse_schema(json_schema()), record)
        columns = columns_of([out.getvalue()], SINGLE_OBJECT)
        assert columns is not None
        fast, slow = P(0, RingBatchFold(), 10), P(0, RingBatchFold(), 10)
        for partition in (fast, slow):
            partition.begin(0)
        if fast.apply_columns(0, columns, np.array([1000])) is not None:
            slow.apply(0, DECODER.decode(out.getvalue()), 1000)
            assert everything(fast) == everything(slow)

    def test_an_ordinary_text_is_read(self) -> None:
        texts = (
            '{"ring":"2"}',
            '{"z":1e40}',
            '{"z":1.5E-21,"ring":1.0}',
            '{"reason":"10e100 steps"}',
            '{"ring":4}',
        )
        batch = [HypervisorEvent(event_type=EventType.RING_ASSIGNED, payload=json.loads(text)) for text in texts]
        for number, event in enumerate(batch):
            partition = P(0, RingBatchFold(), 10)
            partition.begin(0)
            columns = columns_of([encode_event(event)], SINGLE_OBJECT)
            assert columns is not None
            assert (partition.apply_columns(0, columns, np.array([1000])) is not None) == (number < 4)
