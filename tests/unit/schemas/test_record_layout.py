"""Schema, encoder, decoder and batch decoder have the fields in the order that `record_layout` declares."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_consumers.runtime.decode.batch_decoder import columns_of, id_numbers_of, origin_of
from hypervisor_consumers.runtime.partitions.dedup_window import id_number
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.timestamps import microseconds
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, EventDecoder, encode_event, schema_fingerprint, schema_text
from hypervisor_schemas.wire.record_layout import FIELDS, FINGERPRINT, ID_CHARACTERS, ID_FIELDS, Field, FieldKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

AVRO_TYPES = {
    FieldKind.TEXT: "string",
    FieldKind.OPTIONAL_TEXT: ["null", "string"],
    FieldKind.TIME: {"type": "long", "logicalType": "timestamp-micros"},
}
SCHEMA = json.loads(schema_text())
EVENT = HypervisorEvent(
    event_id="00000000000000ab",
    event_type=EventType.RING_ELEVATED,
    timestamp=datetime(2025, 1, 15, 10, 30, 0, 123456, UTC),
    session_id="session",
    agent_did="agent",
    causal_trace_id="trace/span",
    parent_event_id="00000000000000cd",
    payload={"ring": 1},
)
EXPECTED: dict[str, Any] = {
    **EVENT.to_dict(),
    "timestamp": microseconds(EVENT.timestamp),
    "payload": '{"ring":1}',
}


def write(layout: Sequence[Field], values: dict[str, Any]) -> bytes:
    """A record with these fields, written by the rules of Avro alone."""

    def long(number: int) -> bytes:
        left, out = (number << 1) ^ (number >> 63), b""
        while left >= 0x80:
            out += bytes((left & 0x7F | 0x80,))
            left >>= 7
        return out + bytes((left,))

    def text(value: str) -> bytes:
        return long(len(value.encode())) + value.encode()

    writers: dict[FieldKind, Callable[[Any], bytes]] = {
        FieldKind.TEXT: text,
        FieldKind.OPTIONAL_TEXT: lambda value: b"\x00" if value is None else b"\x02" + text(value),
        FieldKind.TIME: long,
    }
    return SINGLE_OBJECT + b"".join(writers[field.kind](values[field.name]) for field in layout)


def check_schema(layout: Sequence[Field]) -> None:
    assert [(field["name"], field["type"]) for field in SCHEMA["fields"]] == [
        (field.name, AVRO_TYPES[field.kind]) for field in layout
    ]


def check_encoder(layout: Sequence[Field]) -> None:
    assert encode_event(EVENT) == write(layout, EXPECTED)


def check_decoder(layout: Sequence[Field]) -> None:
    decoder, record = EventDecoder(), write(layout, EXPECTED)
    assert decoder.decode(record) == EVENT
    assert decoder.event_id(record) == EVENT.event_id


def check_id_reader(layout: Sequence[Field]) -> None:
    decoder, record = EventDecoder(), write(layout, EXPECTED)
    assert decoder.event_id(record) == EVENT.event_id
    numbers = id_numbers_of([record], SINGLE_OBJECT)
    assert numbers is not None
    assert numbers.tolist() == [id_number(EVENT.event_id)]


def check_batch_decoder(layout: Sequence[Field]) -> None:
    columns = columns_of([write(layout, EXPECTED)], SINGLE_OBJECT)
    assert columns is not None
    assert columns.id_numbers.tolist() == [id_number(EVENT.event_id)]
    assert columns.event_types.values() == [b"ring.elevated"]
    assert columns.timestamps_us.tolist() == [EXPECTED["timestamp"]]
    assert [origin_of(origin) for origin in columns.origins.values()] == [("session", "agent")]
    assert columns.causal_trace_ids is not None
    assert columns.causal_trace_ids.values() == [b"trace/span"]
    assert columns.payloads == [b'{"ring":1}']


CHECKS = {
    "schema": check_schema,
    "encoder": check_encoder,
    "decoder": check_decoder,
    "id reader": check_id_reader,
    "batch decoder": check_batch_decoder,
}
SWAPS = [
    pytest.param(check, first, second, id=f"{name}: {FIELDS[first].name} and {FIELDS[second].name}")
    for name, check in CHECKS.items()
    for first, second in combinations(range(len(FIELDS)), 2)
    if check is not check_id_reader or first == 0  # they read the first field alone
]


@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_each_reader_and_writer_has_the_declared_fields_in_the_declared_order(check: Callable[..., None]):
    check(FIELDS)


@pytest.mark.parametrize(("check", "first", "second"), SWAPS)
def test_each_disagrees_with_a_layout_in_which_two_fields_are_swapped(
    check: Callable[..., None], first: int, second: int
):
    layout = list(FIELDS)
    layout[first], layout[second] = layout[second], layout[first]

    with pytest.raises(Exception):  # noqa: B017 - an assertion, or the decoder's own error
        check(layout)


@pytest.mark.parametrize("at", range(len(FIELDS)), ids=[field.name for field in FIELDS])
def test_the_schema_disagrees_with_a_layout_in_which_a_field_has_another_name(at: int):
    layout = list(FIELDS)
    layout[at] = layout[at]._replace(name="other")

    with pytest.raises(AssertionError):
        check_schema(layout)


def test_the_fingerprint_is_that_of_the_schema():
    assert schema_fingerprint(schema_text()) == FINGERPRINT


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
def test_the_encoder_bounds_the_length_of_exactly_the_ids(name: str):
    """The timestamp has no length, and a type or a payload may be as long as it likes."""
    if name in {"timestamp", "payload"}:
        return
    long = HypervisorEvent.from_dict({**EVENT.to_dict(), name: "x" * (ID_CHARACTERS + 1)})

    if name in ID_FIELDS:
        with pytest.raises(ValueError, match=f"^{name} has {ID_CHARACTERS + 1} characters"):
            encode_event(long)
    else:
        encode_event(long)
