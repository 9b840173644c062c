"""The one declaration of the event record: its fields, in the order in which their bytes stand.

The schema (`avro/hypervisor_event.avsc`), `encode_event`, `EventDecoder` and the batch decoder of the services
follow it. They are written out by hand, each for its own speed; `tests/unit/schemas/test_record_layout.py` compares
each of them with this table, field by field.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["FIELDS", "FINGERPRINT", "ID_CHARACTERS", "ID_FIELDS", "Field", "FieldKind"]


class FieldKind(Enum):
    """The ways in which a field is written."""

    TEXT = "text"
    """Avro's string: the length as a long, then UTF-8."""
    OPTIONAL_TEXT = "optional text"
    """A union of null (branch 0) and string (branch 1)."""
    TIME = "time"
    """A long of the logical type timestamp-micros."""


class Field(NamedTuple):
    """One field of the record."""

    name: str
    kind: FieldKind
    is_id: bool = False
    """Whether it has `ID_CHARACTERS` at most."""


FIELDS = (
    Field("event_id", FieldKind.TEXT, is_id=True),
    Field("event_type", FieldKind.TEXT),
    Field("timestamp", FieldKind.TIME),
    Field("session_id", FieldKind.OPTIONAL_TEXT, is_id=True),
    Field("agent_did", FieldKind.OPTIONAL_TEXT, is_id=True),
    Field("causal_trace_id", FieldKind.OPTIONAL_TEXT, is_id=True),
    Field("parent_event_id", FieldKind.OPTIONAL_TEXT, is_id=True),
    Field("payload", FieldKind.TEXT),
)

ID_FIELDS = tuple(field.name for field in FIELDS if field.is_id)

ID_CHARACTERS = 1024
"""The length of the longest id. Ids become keys of states, tables and metrics; Kafka would take far longer ones."""

FINGERPRINT = bytes.fromhex("bfb7248a7bd6ecfe")
"""CRC-64-AVRO of the schema, little-endian. It is written down because computing it takes an agent 20 ms."""
