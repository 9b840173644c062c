import dataclasses
import io
import json
from datetime import UTC, datetime, timedelta, timezone

import fastavro
import hypervisor.observability as package
import pytest

from hypervisor_schemas.errors import InvalidPayload, RegistryUnavailable, UndecodableRecord, UnknownSchema
from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of
from hypervisor_schemas.wire.codec import (
    SINGLE_OBJECT,
    SUBJECT,
    EventDecoder,
    confluent_framing,
    encode_event,
    schema_fingerprint,
    schema_text,
)

MOMENT = datetime(2025, 1, 15, 10, 30, 0, 123456, UTC)
EVENT = HypervisorEvent(
    event_id="0123456789abcdef",
    event_type=EventType.RING_ELEVATED,
    timestamp=MOMENT,
    session_id="session-001",
    agent_did="did:mesh:a",
    causal_trace_id="abc123/def456",
    parent_event_id="fedcba9876543210",
    payload={"from_ring": 3, "to_ring": 0, "why": ["admin", {"vouch": None}]},
)


def with_payload(text: str, event_id: str = "1") -> bytes:
    """A record whose payload is this text, as a foreign writer may have written it."""
    record = {"event_id": event_id, "event_type": "ring.assigned", "timestamp": 0, "payload": text}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(schema_text())), record)
    return SINGLE_OBJECT + out.getvalue()


def test_a_record_begins_with_avros_single_object_mark_and_the_schemas_fingerprint():
    value = encode_event(EVENT)
    assert value[:2] == b"\xc3\x01"
    assert value[2:10] == schema_fingerprint(schema_text())


def test_with_an_id_it_begins_with_confluents_magic_byte_and_the_id():
    assert confluent_framing(7) == b"\x00\x00\x00\x00\x07"
    value = encode_event(EVENT, confluent_framing(0x01020304))
    assert value[:5] == b"\x00\x01\x02\x03\x04"
    assert value[5:] == encode_event(EVENT)[10:]


def test_the_subject_is_the_records_full_name():
    schema = json.loads(schema_text())
    assert f"{schema['namespace']}.{schema['name']}" == SUBJECT


def test_both_framings_read_back_to_the_same_event():
    asked = []

    def schema_by_id(schema_id):
        asked.append(schema_id)
        return schema_text()

    decoder = EventDecoder(schema_by_id)
    assert decoder.decode(encode_event(EVENT)) == EVENT
    assert asked == []
    for _ in range(3):
        assert decoder.decode(encode_event(EVENT, confluent_framing(7))) == EVENT
    assert asked == [7]


def test_an_unknown_type_passes_through_unchanged():
    event = HypervisorEvent(event_type=event_type_of("brand.new"), timestamp=MOMENT)
    assert EventDecoder().decode(encode_event(event)) == event


def test_the_packages_own_event_gives_the_same_bytes():
    fields = EVENT.to_dict() | {"event_type": package.EventType.RING_ELEVATED, "timestamp": MOMENT}
    assert encode_event(package.HypervisorEvent(**fields)) == encode_event(EVENT)


def test_absent_and_empty_ids_are_told_apart():
    event = HypervisorEvent(timestamp=MOMENT, session_id="", agent_did=None)
    back = EventDecoder().decode(encode_event(event))
    assert (back.session_id, back.agent_did) == ("", None)


@pytest.mark.parametrize(
    ("timestamp", "micros"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0),
        (datetime(1970, 1, 1, 0, 0, 0, 7), 7),  # noqa: DTZ001 - a naive datetime is what this row is about
        (datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), -1),
        (datetime(2025, 1, 15, 10, 30, 0, 123456, UTC), 1736937000123456),
        (datetime.max.replace(tzinfo=UTC), 253402300799999999),
        (datetime.min.replace(tzinfo=UTC), -62135596800000000),
    ],
)
def test_a_timestamp_is_microseconds_of_utc_and_a_naive_one_counts_as_utc(timestamp, micros):
    value = encode_event(HypervisorEvent(timestamp=timestamp))
    schema = fastavro.parse_schema(json.loads(schema_text().replace('"logicalType"', '"ignored"')))
    assert fastavro.schemaless_reader(io.BytesIO(value[10:]), schema, None)["timestamp"] == micros
    assert EventDecoder().decode(value).timestamp == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=micros
    )


@pytest.mark.parametrize(
    ("timestamp", "error"),
    [
        ("2025-01-15", AttributeError),
        (None, AttributeError),
        (1736937000, AttributeError),
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), OverflowError),
    ],
)
def test_a_timestamp_that_nobody_could_read_back_is_refused(timestamp, error):
    with pytest.raises(error):
        encode_event(HypervisorEvent(timestamp=timestamp))


def test_ids_that_are_no_text_or_no_utf8_become_text():
    event = HypervisorEvent(event_id=7, timestamp=MOMENT, session_id="a\ud800b", agent_did=5)  # type: ignore[arg-type]
    back = EventDecoder().decode(encode_event(event))
    assert (back.event_id, back.session_id, back.agent_did) == ("7", "a?b", "5")


@pytest.mark.parametrize("event_id", ["", None])
def test_an_event_without_an_id_is_not_written(event_id):
    with pytest.raises(ValueError, match="event_id is empty; every event needs an id of its own"):
        encode_event(dataclasses.replace(EVENT, event_id=event_id))


@pytest.mark.parametrize("framing", [SINGLE_OBJECT, confluent_framing(7)])
def test_a_record_without_an_event_id_is_undecodable_and_the_next_one_is_read(framing):
    decoder = EventDecoder(lambda _: schema_text())
    with pytest.raises(UndecodableRecord, match=r"^The event_id is empty; .+\.$"):
        decoder.decode(framing + with_payload("{}", event_id="")[10:])
    assert decoder.decode(framing + with_payload("{}", event_id=" ")[10:]).event_id == " "


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "no value"),
        (b"", "neither Avro's single-object mark nor a registry id"),
        (b"\x00\x00\x00", "neither Avro's single-object mark nor a registry id"),
        (SINGLE_OBJECT[:9], "neither Avro's single-object mark nor a registry id"),
        (b"\xc3\x00" + b"x" * 20, "neither Avro's single-object mark nor a registry id"),
        (b"\xc3\x02" + b"x" * 20, "neither Avro's single-object mark nor a registry id"),
        (b'{"event_id": "1"}', "neither Avro's single-object mark nor a registry id"),
        (SINGLE_OBJECT, "not the record that their schema describes"),
        (encode_event(EVENT)[:-1], "not the record that their schema describes"),
        (encode_event(EVENT) + b"!!", "2 bytes follow the record"),
    ],
)
def test_what_is_no_framed_record_is_undecodable(value, sentence):
    with pytest.raises(UndecodableRecord, match=sentence):
        EventDecoder(lambda _: schema_text()).decode(value)


@pytest.mark.parametrize("micros", [2**62, -(2**62), 253402300800000000])
def test_a_moment_outside_the_years_1_to_9999_is_undecodable(micros):
    record = {"event_id": "1", "event_type": "ring.assigned", "timestamp": micros, "payload": "{}"}
    out = io.BytesIO()
    schema = fastavro.parse_schema(json.loads(schema_text().replace('"logicalType"', '"ignored"')))
    fastavro.schemaless_writer(out, schema, record)
    with pytest.raises(UndecodableRecord, match="outside the years 1 to 9999"):
        EventDecoder().decode(SINGLE_OBJECT + out.getvalue())


@pytest.mark.parametrize("text", ["", "{", "nope", '{"a":1}}', "\x00", "[" * 100_000, '{"a":NaN}'])
def test_a_payload_that_is_no_json_is_invalid(text):
    with pytest.raises(InvalidPayload, match="not JSON"):
        EventDecoder().decode(with_payload(text))


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ('"x"', "str"), ("null", "NoneType"), ("1.5", "float")])
def test_a_payload_that_is_no_object_is_invalid(text, kind):
    with pytest.raises(InvalidPayload, match=f"a JSON {kind}, not an object"):
        EventDecoder().decode(with_payload(text))


def test_a_fingerprint_that_no_schema_has_is_unknown():
    with pytest.raises(UnknownSchema, match="fingerprint 0102030405060708"):
        EventDecoder().decode(b"\xc3\x01\x01\x02\x03\x04\x05\x06\x07\x08rest")


def test_an_id_without_a_registry_is_unknown_and_names_the_setting():
    with pytest.raises(UnknownSchema, match="SCHEMA_REGISTRY_URL"):
        EventDecoder().decode(encode_event(EVENT, confluent_framing(7)))


@pytest.mark.parametrize("error", [UnknownSchema("no such id"), RegistryUnavailable("away")])
def test_what_the_registry_raises_comes_through_and_the_next_record_asks_again(error):
    answers = [error, schema_text()]

    def schema_by_id(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    decoder = EventDecoder(schema_by_id)
    value = encode_event(EVENT, confluent_framing(7))
    with pytest.raises(type(error)):
        decoder.decode(value)
    assert decoder.decode(value) == EVENT


@pytest.mark.parametrize("text", ["", "not json", '{"type": "nonsense"}', "[]", "{}", '{"type": "record"}'])
def test_an_id_that_holds_no_avro_schema_is_unknown_and_asked_for_once(text):
    asked = []

    def schema_by_id(schema_id):
        asked.append(schema_id)
        return text

    decoder, sentences = EventDecoder(schema_by_id), set()
    for _ in range(3):
        with pytest.raises((UnknownSchema, UndecodableRecord)) as refused:
            decoder.decode(encode_event(EVENT, confluent_framing(7)))
        sentences.add(str(refused.value))
    assert asked == [7]
    assert len(sentences) == 1


def test_an_id_that_holds_the_schema_of_something_else_is_undecodable():
    other = '{"type": "record", "name": "Other", "fields": [{"name": "x", "type": "string"}]}'
    with pytest.raises(UndecodableRecord):
        EventDecoder(lambda _: other).decode(encode_event(EVENT, confluent_framing(7)))


@pytest.mark.parametrize("name", ["event_id", "session_id", "agent_did", "causal_trace_id", "parent_event_id"])
def test_an_id_of_more_than_1024_characters_is_not_written(name):
    decoder = EventDecoder()
    fits = HypervisorEvent(**{name: "ü" * 1024})
    assert getattr(decoder.decode(encode_event(fits)), name) == "ü" * 1024
    with pytest.raises(ValueError, match=f"{name} has 1025 characters; an id has 1024 at most"):
        encode_event(HypervisorEvent(**{name: "ü" * 1025}))


def test_a_record_with_an_id_of_more_than_1024_characters_is_undecodable():
    assert EventDecoder().decode(with_payload("{}", "1" * 1024)).event_id == "1" * 1024
    with pytest.raises(UndecodableRecord, match=r"^event_id has 1025 characters; an id has 1024 at most\.$"):
        EventDecoder().decode(with_payload("{}", "1" * 1025))


def test_a_record_of_a_later_schema_is_read_without_what_it_added():
    later = json.loads(schema_text())
    later["fields"].append({"name": "tenant", "type": ["null", "string"], "default": None})
    record = EVENT.to_dict() | {
        "timestamp": MOMENT,
        "payload": json.dumps(EVENT.payload),
        "tenant": "someone",
    }
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(later), record)
    value = out.getvalue()
    text = json.dumps(later)
    assert EventDecoder(lambda _: text).decode(confluent_framing(9) + value) == EVENT
    known = {schema_fingerprint(text): text}
    assert EventDecoder(known_schemas=known).decode(b"\xc3\x01" + schema_fingerprint(text) + value) == EVENT


def test_a_record_of_an_earlier_schema_gets_the_defaults_of_what_it_lacked():
    earlier = json.loads(schema_text())
    earlier["fields"] = [
        field for field in earlier["fields"] if field["name"] in {"event_id", "event_type", "timestamp"}
    ]
    out = io.BytesIO()
    fastavro.schemaless_writer(
        out, fastavro.parse_schema(earlier), {"event_id": "1", "event_type": "vfs.write", "timestamp": MOMENT}
    )
    text = json.dumps(earlier)
    assert EventDecoder(lambda _: text).decode(confluent_framing(3) + out.getvalue()) == HypervisorEvent(
        event_id="1", event_type=EventType.VFS_WRITE, timestamp=MOMENT
    )
