"""The golden records in `hypervisor_schemas/examples/`, against the code; other languages must do the same."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from importlib.resources import files

import pytest

from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.errors import RecordError, UnknownSchema
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, UnknownEventType
from hypervisor_schemas.payloads import read_payload
from hypervisor_schemas.topics import EVENT_PARTITIONS, category_of, event_topic, partition_of, record_key
from hypervisor_schemas.typed_payloads import TYPED_PAYLOADS
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, EventDecoder, confluent_framing, encode_event, schema_text
from hypervisor_schemas.wire.payload_json import to_json

_FILES = {
    entry.name.removesuffix(".json"): json.loads(entry.read_text("utf-8"))
    for entry in (files("hypervisor_schemas") / "examples").iterdir()
    if entry.name.endswith(".json")
}
# Beside the golden records lie examples of other kinds, with tests of their own.
EXAMPLES = {name: example for name, example in _FILES.items() if "event" in example}
each = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


def described(about: str, event: HypervisorEvent) -> dict[str, object]:
    """Make the golden record of this event."""
    kind = event.event_type.value
    key = record_key(category_of(kind), event.session_id, event.agent_did, event.event_id)
    assert key is not None
    record: dict[str, object] = {
        "about": about,
        "event": event.to_dict(),
        "topic": event_topic("hypervisor.", kind),
        "key": key.decode(),
        "partitions": EVENT_PARTITIONS,
        "partition": partition_of(key, EVENT_PARTITIONS),
        "value_single_object": encode_event(event, SINGLE_OBJECT).hex(),
        "value_confluent_id_7": encode_event(event, confluent_framing(7)).hex(),
    }
    if event.causal_trace_id:
        trace = CausalTraceId.from_string(event.causal_trace_id).to_w3c()
        record["w3c"] = {
            "trace_id": trace.trace_id,
            "span_id": trace.span_id,
            "parent_span_id": trace.parent_span_id,
            "traceparent": trace.traceparent,
        }
    return record


@each
def test_a_golden_record_is_what_the_code_makes_of_its_event(example):
    assert described(example["about"], HypervisorEvent.from_dict(example["event"])) == example


@each
@pytest.mark.parametrize("framing", ["value_single_object", "value_confluent_id_7"])
def test_its_bytes_are_read_to_its_event(example, framing):
    event = EventDecoder(lambda _: schema_text()).decode(bytes.fromhex(example[framing]))
    assert event.to_dict() == example["event"]


def read_by_hand(body: bytes) -> dict[str, object]:
    """The Avro record, read without any library: https://avro.apache.org/docs/1.12.0/specification/."""
    rest = iter(body)

    def long() -> int:
        number = shift = 0
        for byte in rest:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        return number >> 1 ^ -(number & 1)

    def text() -> str:
        return bytes(next(rest) for _ in range(long())).decode()

    def optional() -> str | None:
        return text() if long() == 1 else None

    record: dict[str, object] = {"event_id": text(), "event_type": text()}
    record["timestamp"] = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=long())).isoformat()
    for name in ("session_id", "agent_did", "causal_trace_id", "parent_event_id"):
        record[name] = optional()
    record["payload"] = json.loads(text())
    assert next(rest, None) is None
    return record


@each
def test_its_bytes_are_read_to_its_event_by_hand(example):
    single, confluent = (bytes.fromhex(example[f"value_{name}"]) for name in ("single_object", "confluent_id_7"))
    assert single[:10].hex() == "c301bfb7248a7bd6ecfe"
    assert confluent[:5].hex() == "0000000007"
    assert single[10:] == confluent[5:]
    assert read_by_hand(single[10:]) == example["event"]


@pytest.mark.parametrize("vector", _FILES["partitions"]["keys"], ids=lambda vector: vector["case"])
def test_a_key_is_in_the_partition_that_is_told(vector):
    key = vector["key"].encode()
    assert key.hex() == vector["key_hex"]
    assert partition_of(key, 2**32) == vector["murmur2"] & 0x7FFFFFFF
    assert partition_of(key, _FILES["partitions"]["partitions"]) == vector["partition"]


def decoder(schemas):
    """Make the lookup of a registry with these schemas and no other."""

    def schema_by_id(schema_id):
        if schema_id not in schemas:
            raise UnknownSchema("no such id")
        return schemas[schema_id]

    return EventDecoder(schema_by_id)


@pytest.mark.parametrize("record", _FILES["refused"]["records"], ids=lambda record: record["case"])
def test_a_record_that_cannot_be_used_is_refused_for_the_reason_that_is_told(record):
    with pytest.raises(RecordError) as caught:
        decoder({7: schema_text()}).decode(bytes.fromhex(record["value"]))
    assert caught.value.reason == record["reason"]


@pytest.mark.parametrize("record", _FILES["evolution"]["records"], ids=lambda record: record["case"])
def test_a_record_of_another_version_is_read_to_the_event_that_is_told(record):
    event = decoder({8: json.dumps(record["writer_schema"])}).decode(bytes.fromhex(record["value_confluent_id_8"]))
    assert event.to_dict() == record["event"]


class Role(Enum):
    ADMIN = "admin"


VALUES = {
    "not a number": float("nan"),
    "infinity": float("inf"),
    "negative infinity": float("-inf"),
    "a date and time, UTC": datetime(2025, 1, 15, 10, 30, tzinfo=UTC),
    "a date": date(2025, 1, 15),
    "the bytes 00 ff, in base64": b"\x00\xff",
    "a member of an enumeration: its value": Role.ADMIN,
    "a set or tuple: an array": (1, 2),
    "half a surrogate pair: a question mark": "a\ud800b",
    "a key that is the number 1: text": {1: "one"},
    "a key that is nothing: text": {None: 1},
    "a key that is true: text": {True: 1},
    "anything else: its text": Decimal("1.50"),
}


def test_values_that_json_has_no_form_for_are_written_as_told():
    told = {value["case"]: value["json"] for value in _FILES["payload_values"]["values"]}
    assert {case: to_json({"v": value}) for case, value in VALUES.items()} == {
        case: f'{{"v":{text}}}' for case, text in told.items()
    }


# From Kafka's own UtilsTest.testMurmur2.
@pytest.mark.parametrize(
    ("key", "murmur2"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partitions_are_those_of_kafkas_own_hash(key, murmur2):
    positive = murmur2 & 0x7FFFFFFF
    for partitions in (1, 12, 1000, 2**31 - 1):
        assert partition_of(key, partitions) == positive % partitions
    # No remainder is taken by a number above every hash, so this compares all 31 bits.
    assert partition_of(key, 2**32) == positive


def test_the_examples_show_what_other_languages_get_wrong():
    events = {name: HypervisorEvent.from_dict(example["event"]) for name, example in EXAMPLES.items()}
    keys = {name: example["key"] for name, example in EXAMPLES.items()}

    ring = events["ring-elevated-to-root"]
    assert ring.event_type is EventType.RING_ELEVATED
    assert ring.payload["to_ring"] == 0
    assert keys["ring-elevated-to-root"] == ring.session_id

    assert events["saga-step-committed"].event_type is EventType.SAGA_STEP_COMMITTED
    # One session is in one partition, whatever the category, except for governance.
    assert EXAMPLES["saga-step-committed"]["partition"] == EXAMPLES["ring-elevated-to-root"]["partition"]

    governance = events["governance-by-agent"]
    assert governance.event_type is GovernanceEventType.POLICY_DECISION
    assert governance.session_id
    assert keys["governance-by-agent"] == governance.agent_did

    assert type(events["unknown-type"].event_type) is UnknownEventType
    assert EXAMPLES["unknown-type"]["topic"] == "hypervisor.events.other"

    nested = events["unicode-and-nesting"]
    assert not json.dumps(nested.payload, ensure_ascii=False).isascii()
    assert not keys["unicode-and-nesting"].isascii()

    assert events["no-session"].session_id is None
    assert keys["no-session"] == events["no-session"].agent_did

    alone = events["no-session-no-agent"]
    assert (alone.session_id, alone.agent_did, keys["no-session-no-agent"]) == (None, None, alone.event_id)

    empty = events["empty-session"]
    assert (empty.session_id, keys["empty-session"]) == ("", empty.agent_did)

    assert events["short-trace"].causal_trace_id == "abc123/def456"
    assert "w3c" not in EXAMPLES["no-session-no-agent"]
    assert EXAMPLES["saga-step-committed"]["w3c"]["parent_span_id"]


def test_every_type_of_governance_has_an_example():
    told = {event["event"]["event_type"] for event in EXAMPLES.values()}
    assert {member.value for member in GovernanceEventType} <= told


def test_every_example_of_a_typed_payload_has_these_types():
    for example in EXAMPLES.values():
        for kind, types in TYPED_PAYLOADS.items():
            if example["event"]["event_type"] in types:
                read_payload(example["event"]["payload"], kind)
