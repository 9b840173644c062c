import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from importlib.resources import files

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor_schemas.errors import InvalidPayload, UndecodableRecord, UnknownSchema
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, event_type_of
from hypervisor_schemas.timestamps import microseconds
from hypervisor_schemas.wire.avro_bytes import long_bytes, time_bytes
from hypervisor_schemas.wire.codec import (
    SINGLE_OBJECT,
    EventDecoder,
    confluent_framing,
    encode_event,
    schema_fingerprint,
    schema_text,
)
from hypervisor_schemas.wire.payload_json import to_json

LAW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure


class Colour(Enum):
    RED = "red"
    NAN = float("nan")
    NESTED = ("a", b"\xff")


class Hostile:
    """A stranger's object that can't be compared, nor written as text."""

    def __str__(self):
        raise RuntimeError

    def __hash__(self):
        return 1

    def __eq__(self, other):
        raise RuntimeError


unicode = st.text()
any_text = st.text(st.characters())  # with lone surrogates
event_types = st.one_of(st.sampled_from([*EventType, *GovernanceEventType]), unicode.map(event_type_of))
moments = st.one_of(
    st.datetimes(timezones=st.just(UTC)),
    st.datetimes(
        min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis takes naive bounds
        max_value=datetime(9999, 12, 30),  # noqa: DTZ001 - likewise
        timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    ),
    st.sampled_from([datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]),
)
json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        unicode,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(unicode, inner, max_size=4)),
    max_leaves=12,
)
json_objects = st.dictionaries(unicode, json_values, max_size=5)
any_values = st.recursive(
    st.one_of(
        json_values,
        st.floats(),
        st.integers(),
        any_text,
        st.binary(max_size=20),
        st.datetimes(),
        st.dates(),
        st.times(),
        st.timedeltas(),
        st.decimals(),
        st.fractions(),
        st.complex_numbers(),
        st.uuids(),
        st.sampled_from(Colour),
        st.builds(object),
        st.builds(Hostile),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.frozensets(st.one_of(any_text, st.integers(), st.none()), max_size=4),
        st.dictionaries(st.one_of(any_text, st.integers(), st.floats(), st.none(), st.dates()), inner, max_size=4),
    ),
    max_leaves=12,
)
framings = st.one_of(st.just(SINGLE_OBJECT), st.integers(0, 2**31 - 1).map(confluent_framing))


def events(payloads=json_objects, ids=unicode):
    optional = st.none() | ids
    return st.builds(
        HypervisorEvent,
        event_id=ids.filter(bool),
        event_type=event_types,
        timestamp=moments,
        session_id=optional,
        agent_did=optional,
        causal_trace_id=optional,
        parent_event_id=optional,
        payload=payloads,
    )


def decoder() -> EventDecoder:
    return EventDecoder(lambda _: schema_text())


@LAW
@given(events(), framings)
def test_any_event_comes_back_the_same_in_either_framing(event, framing):
    back = decoder().decode(encode_event(event, framing))
    assert back == event
    assert type(back.event_type) is type(event.event_type)
    assert back.timestamp.utcoffset() == timedelta(0)


@LAW
@given(events() | events(ids=st.text(min_size=60, max_size=70)), framings)
def test_the_bytes_are_those_that_fastavro_writes(event, framing):
    out = io.BytesIO()
    record = {
        **event.to_dict(),
        "timestamp": (event.timestamp - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1),
        "payload": to_json(event.payload),
    }
    schema = json.loads(schema_text())
    schema["fields"][2]["type"] = "long"
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    assert encode_event(event, framing) == framing + out.getvalue()


@LAW
@given(
    st.integers(-(2**63), 2**63 - 1) | st.integers(0, 63).map(lambda bit: 1 << bit).map(lambda n: min(n, 2**63 - 1))
)
def test_any_number_is_written_as_fastavro_writes_it(number):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    assert long_bytes(number) == out.getvalue()


near_times = st.builds(
    lambda begin, steps: [begin + timedelta(microseconds=sum(steps[: at + 1])) for at in range(len(steps))],
    st.datetimes(datetime(1960, 1, 1), datetime(2150, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - likewise
    st.lists(st.integers(-(1 << 29), 1 << 29) | st.integers(-3, 3).map(lambda spans: spans << 27), max_size=8),
)


@LAW
@given(near_times | st.lists(moments, max_size=5))
def test_a_time_is_written_alike_whatever_times_came_before_it(times):
    assert [time_bytes(each) for each in times] == [long_bytes(microseconds(each)) for each in times]


@LAW
@given(events() | events(ids=st.text(min_size=60, max_size=70)), framings)
def test_the_id_alone_is_that_of_the_whole_event(event, framing):
    assert decoder().event_id(encode_event(event, framing)) == event.event_id


@LAW
@given(events(payloads=any_values))
def test_no_payload_is_a_reason_not_to_encode_and_every_one_decodes_to_an_object(event):
    back = decoder().decode(encode_event(event))
    assert isinstance(back.payload, dict)
    assert dataclasses.replace(back, payload={}) == dataclasses.replace(event, payload={})


@LAW
@given(st.dictionaries(any_text, json_values, max_size=5))
def test_what_is_written_as_json_is_a_fixed_point(payload):
    once = to_json(payload)
    assert to_json(json.loads(once)) == once


@LAW
@given(json_objects)
def test_a_payload_is_written_alike_whether_it_is_cleaned_or_needs_no_cleaning(payload):
    # A tuple needs it, and what stands beside it.
    assert to_json({**payload, "\0": ()}) == to_json({**payload, "\0": []})


@LAW
@given(events(ids=any_text), any_text)
def test_what_utf8_cannot_hold_is_replaced_and_nothing_else(event, text):
    def held(value: str | None) -> str | None:
        return None if value is None else "".join("?" if "\ud800" <= each <= "\udfff" else each for each in value)

    back = decoder().decode(encode_event(dataclasses.replace(event, payload={"text": text})))
    assert back == dataclasses.replace(
        event,
        event_id=held(event.event_id),
        session_id=held(event.session_id),
        agent_did=held(event.agent_did),
        causal_trace_id=held(event.causal_trace_id),
        parent_event_id=held(event.parent_event_id),
        payload={"text": held(text)},
    )


def decode_or_refuse(value: bytes) -> HypervisorEvent | None:
    try:
        event_id = decoder().event_id(value)
    except (UndecodableRecord, UnknownSchema, InvalidPayload):
        event_id = None
    try:
        event = decoder().decode(value)
    except (UndecodableRecord, UnknownSchema, InvalidPayload):
        return None
    assert isinstance(event, HypervisorEvent)
    assert event.event_id == event_id
    return event


@LAW
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xc3", b"\xc3\x01", SINGLE_OBJECT, b"\x00", b"\x00\x00\x00\x00\x07"]),
)
def test_random_bytes_are_refused_with_an_error_of_the_contract(noise, start):
    decode_or_refuse(start + noise)


@LAW
@given(events(), framings, st.data())
def test_a_record_cut_short_is_always_refused(event, framing, data):
    value = encode_event(event, framing)
    assert decode_or_refuse(value[: data.draw(st.integers(0, len(value) - 1))]) is None


@LAW
@given(events(), framings, st.binary(min_size=1, max_size=20))
def test_a_record_with_more_behind_it_is_always_refused(event, framing, more):
    with pytest.raises(UndecodableRecord, match="bytes follow the record"):
        decoder().decode(encode_event(event, framing) + more)


@LAW
@given(events(), framings, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5))
def test_a_corrupted_record_is_an_event_or_an_error_of_the_contract(event, framing, changes):
    value = bytearray(encode_event(event, framing))
    for place, byte in changes:
        value[place % len(value)] = byte
    decode_or_refuse(bytes(value))


VERSIONS = sorted(
    int(entry.name.removeprefix("v").removesuffix(".avsc"))
    for entry in (files("hypervisor_schemas") / "avro" / "history").iterdir()
)


@pytest.mark.parametrize("version", VERSIONS)
@LAW
@given(event=events())
def test_records_of_every_version_ever_published_are_read(version, event):
    text = schema_text(version)
    schema = json.loads(text)
    held = {field["name"] for field in schema["fields"]}
    record = event.to_dict() | {"timestamp": event.timestamp, "payload": to_json(event.payload)}
    out = io.BytesIO()
    fastavro.schemaless_writer(
        out, fastavro.parse_schema(schema), {name: value for name, value in record.items() if name in held}
    )
    expected = dataclasses.replace(
        HypervisorEvent(event_id=event.event_id, event_type=event.event_type, timestamp=event.timestamp),
        **{name: getattr(event, name) for name in held & record.keys()},
    )
    by_id = EventDecoder(lambda _: text)
    assert by_id.decode(b"\xc3\x01" + schema_fingerprint(text) + out.getvalue()) == expected
    assert by_id.decode(confluent_framing(3) + out.getvalue()) == expected
