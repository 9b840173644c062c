"""Events to framed Avro bytes and back. Pure: a registry, where there is one, comes in as a function.

Two framings are written and read: Avro single-object encoding (0xC3 0x01, the schema's CRC-64-AVRO fingerprint,
little-endian) and the Confluent wire format (0x00, the registry's id, big-endian).

`record_layout` declares the fields and their order. Encoding needs no fastavro, so agents don't load it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import msgspec

from hypervisor_schemas.errors import InvalidPayload, UndecodableRecord, UnknownSchema
from hypervisor_schemas.events import EventType, HypervisorEvent, event_type_of, type_value
from hypervisor_schemas.timestamps import datetime_of
from hypervisor_schemas.wire.avro_bytes import (
    LENGTHS,
    BytesCache,
    long_bytes,
    optional_text_bytes,
    text_bytes,
    time_bytes,
)
from hypervisor_schemas.wire.payload_json import to_json_bytes
from hypervisor_schemas.wire.record_layout import FINGERPRINT, ID_CHARACTERS, ID_FIELDS

__all__ = [
    "ID_CHARACTERS",
    "SINGLE_OBJECT",
    "SUBJECT",
    "EventDecoder",
    "confluent_framing",
    "encode_event",
    "schema_fingerprint",
    "schema_text",
]

SUBJECT = "hypervisor.telemetry.HypervisorEvent"
"""The registry's subject, by record name: the one record goes to every topic."""

_SINGLE_OBJECT_MARK = b"\xc3\x01"

SINGLE_OBJECT = _SINGLE_OBJECT_MARK + FINGERPRINT
"""The framing that needs no registry."""

_SCHEMAS = Path(__file__).parents[1] / "avro"


@cache
def schema_text(version: int | None = None) -> str:
    """The Avro schema as JSON text: the current one, or an earlier version kept in `avro/history/`."""
    name = "hypervisor_event.avsc" if version is None else f"history/v{version}.avsc"
    return (_SCHEMAS / name).read_text("utf-8")


def schema_fingerprint(text: str) -> bytes:
    """CRC-64-AVRO of the schema's parsing canonical form: eight bytes, little-endian, as in the framing."""
    from fastavro.schema import fingerprint, to_parsing_canonical_form  # noqa: PLC0415 - an agent needs neither

    return bytes.fromhex(fingerprint(to_parsing_canonical_form(json.loads(text)), "CRC-64-AVRO"))


def confluent_framing(schema_id: int) -> bytes:
    """The framing of the Confluent wire format for this id."""
    return b"\x00" + schema_id.to_bytes(4, "big")


def encode_event(event: Any, framing: bytes = SINGLE_OBJECT) -> bytes:
    """One framed record. `event` is a `HypervisorEvent` or the package's own: any object with its attributes.

    Raises:
        TypeError, ValueError, OverflowError: A field has a value that the schema doesn't allow: a timestamp that is
            no datetime, an absent `event_id`, an id of more than `ID_CHARACTERS`. The payload is never the reason.
    """
    event_id = event.event_id
    if type(event_id) is not str or not event_id.isascii():
        event_id = _optional_text(event_id)
    if not event_id:
        raise ValueError("event_id is empty; every event needs an id of its own, as events of one id count once")
    if len(event_id) > ID_CHARACTERS:
        _check_length("event_id", event_id, ValueError)
    event_id = event_id.encode()
    event_type, session_id, agent_did = event.event_type, event.session_id, event.agent_did
    trace_id, parent_id = event.causal_trace_id, event.parent_event_id
    payload = to_json_bytes(event.payload)
    # Field by field in the order of `record_layout`: the bytes of fastavro in a fifth of its time. Only None and
    # exact strings are looked up, since equality may mean anything in a class of somebody else.
    return b"".join(
        (
            framing,
            LENGTHS[len(event_id)],
            event_id,
            _type_bytes[event_type if type(event_type) is EventType else type_value(event_type)],
            time_bytes(event.timestamp),
            _session_bytes[session_id if session_id is None or type(session_id) is str else str(session_id)],
            _agent_bytes[agent_did if agent_did is None or type(agent_did) is str else str(agent_did)],
            b"\x00\x00"
            if trace_id is None and parent_id is None
            else _id_bytes("causal_trace_id", trace_id) + _id_bytes("parent_event_id", parent_id),
            LENGTHS[len(payload)] if len(payload) < len(LENGTHS) else long_bytes(len(payload)),
            payload,
        )
    )


def _id_bytes(name: str, value: Any) -> bytes:
    text = _optional_text(value)
    _check_length(name, text, ValueError)
    return optional_text_bytes(text)


_type_bytes = BytesCache(lambda event_type: text_bytes(_text(type_value(event_type))))
_session_bytes = BytesCache(partial(_id_bytes, "session_id"))
_agent_bytes = BytesCache(partial(_id_bytes, "agent_did"))


def _check_length(name: str, value: str | None, error_type: type[Exception]) -> None:
    if value is not None and len(value) > ID_CHARACTERS:
        raise error_type(f"{name} has {len(value)} characters; an id has {ID_CHARACTERS} at most.")


def _text(value: Any) -> str:
    text = value if type(value) is str else str(value)
    # Lone surrogates have no UTF-8.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _optional_text(value: Any) -> str | None:
    return None if value is None else _text(value)


class EventDecoder:
    """Framed bytes to events, whichever schema version and framing they were written with.

    `schema_by_id` returns the text of the schema that has this id in a registry. It may raise `UnknownSchema` (for
    good) or `RegistryUnavailable` (ask again later). Without it, records with such an id are `UnknownSchema`.
    `known_schemas` are the texts of schemas by fingerprint; by default all that this project has published.
    """

    def __init__(
        self,
        schema_by_id: Callable[[int], str] | None = None,
        known_schemas: Mapping[bytes, str] | None = None,
    ) -> None:
        import fastavro  # noqa: PLC0415 - agents don't decode, and save 20 ms

        self._read = fastavro.schemaless_reader
        self._current = _current_schema()
        self._schema_by_id = schema_by_id
        texts = _published_schemas() if known_schemas is None else known_schemas
        self._by_framing = {
            _SINGLE_OBJECT_MARK + fingerprint: _schema(fingerprint, text) for fingerprint, text in texts.items()
        }
        self._unusable: dict[bytes, str] = {}

    def decode(self, value: bytes | None) -> HypervisorEvent:
        """One record as an event.

        Raises:
            UndecodableRecord: The value is not exactly one record, `event_id` is empty, or an id is too long.
            UnknownSchema: The record was written with a schema that neither this project nor the registry knows.
            InvalidPayload: The payload is not a JSON object.
            RegistryUnavailable: The registry was asked for an id and didn't answer.
        """
        if value is None:
            raise UndecodableRecord("The record has no value (a tombstone).")
        writer, start = self._writer_of(value)
        body = io.BytesIO(value)
        body.seek(start)
        try:
            record: Any = self._read(body, writer, None if writer is self._current else self._current)
        except Exception as error:  # noqa: BLE001 - fastavro raises what it meets: EOFError, IndexError, ValueError …
            raise UndecodableRecord(f"The bytes are not the record that their schema describes: {error}.") from None
        if body.tell() != len(value):
            raise UndecodableRecord(f"{len(value) - body.tell()} bytes follow the record.")
        if not record["event_id"]:
            # All events without an id would together count as one.
            raise UndecodableRecord("The event_id is empty; every event needs one of its own.")
        for name in ID_FIELDS:
            _check_length(name, record[name], UndecodableRecord)
        try:
            record["timestamp"] = datetime_of(record["timestamp"])
        except OverflowError:
            raise UndecodableRecord(
                f"The timestamp, {record['timestamp']} µs, is outside the years 1 to 9999."
            ) from None
        record["event_type"] = event_type_of(record["event_type"])
        record["payload"] = _object(record["payload"])
        return HypervisorEvent(**record)

    def event_id(self, value: bytes | None) -> str:
        """The event's id alone, for a record that was decoded before, at a tenth of the cost of `decode`.

        Raises:
            UndecodableRecord, UnknownSchema, InvalidPayload, RegistryUnavailable: As `decode`. Some faults of a
                record are not found here.
        """
        if value is None:
            raise UndecodableRecord("The record has no value (a tombstone).")
        writer, start = self._writer_of(value)
        if writer is not self._current:
            return self.decode(value).event_id
        # The first field, a string: its length as a zigzag varint, then UTF-8. Ids are short.
        length = value[start] if start < len(value) else 0x80
        end = start + 1 + (length >> 1)
        if length & 0x81 or end > len(value):
            return self.decode(value).event_id
        try:
            return value[start + 1 : end].decode()
        except UnicodeDecodeError:
            raise UndecodableRecord("The event id is not UTF-8.") from None

    def framing_of(self, value: bytes | None) -> bytes | None:
        """The record's framing if it was written with the current schema, else None.

        All records with the same framing are read in the same way.

        Raises:
            UndecodableRecord, UnknownSchema, RegistryUnavailable: As `decode`.
        """
        if value is None:
            return None
        writer, length = self._writer_of(value)
        return value[:length] if writer is self._current else None

    def _writer_of(self, value: bytes) -> tuple[Any, int]:
        length = {0xC3: 10, 0x00: 5}.get(value[0]) if value else None
        if length is None or len(value) < length or (length == 10 and value[1] != 0x01):
            raise UndecodableRecord("The bytes begin with neither Avro's single-object mark nor a registry id.")
        framing = value[:length]
        writer = self._by_framing.get(framing)
        if writer is None:
            if length == 10:
                raise UnknownSchema(f"No schema here has the fingerprint {framing[2:].hex()}.")
            writer = self._by_framing[framing] = self._schema_of(framing)
        return writer, length

    def _schema_of(self, framing: bytes) -> Any:
        if framing in self._unusable:
            raise UnknownSchema(self._unusable[framing])
        schema_id = int.from_bytes(framing[1:], "big")
        if self._schema_by_id is None:
            raise UnknownSchema(f"Schema id {schema_id} needs a registry; set SCHEMA_REGISTRY_URL.")
        text = self._schema_by_id(schema_id)
        try:
            return _schema(schema_fingerprint(text), text)
        except Exception as error:  # noqa: BLE001 - the registry may hold a schema of any kind under this id
            # An id never gets another schema, so the registry isn't asked again.
            reason = self._unusable[framing] = (
                f"Schema id {schema_id} is not an Avro schema of this event: {error}."
            )
            raise UnknownSchema(reason) from None


_decode_json = msgspec.json.Decoder().decode


def _object(text: str) -> dict[str, Any]:
    try:
        payload = _decode_json(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidPayload(f"The payload is not JSON: {error}.") from None
    if not isinstance(payload, dict):
        raise InvalidPayload(f"The payload is a JSON {type(payload).__name__}, not an object.")
    return payload


def _parsed(text: str) -> Any:
    """The schema with timestamps as plain microseconds: fastavro's datetimes double the cost of reading."""
    import fastavro  # noqa: PLC0415 - as above

    def without_logical_types(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: without_logical_types(value) for key, value in node.items() if key != "logicalType"}
        return [without_logical_types(item) for item in node] if isinstance(node, list) else node

    return fastavro.parse_schema(without_logical_types(json.loads(text)))


@cache
def _current_schema() -> Any:
    return _parsed(schema_text())


def _schema(fingerprint: bytes, text: str) -> Any:
    # For the current schema the very same object: records of any other one are resolved field by field.
    return _current_schema() if fingerprint == FINGERPRINT else _parsed(text)


@cache
def _published_schemas() -> Mapping[bytes, str]:
    """The texts of the current schema and of every earlier version, by fingerprint."""
    texts = [path.read_text("utf-8") for path in (_SCHEMAS / "history").glob("*.avsc")]
    return {schema_fingerprint(text): text for text in (*texts, schema_text())}
