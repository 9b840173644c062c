"""The tables of the event index, and how an event stands in them. Pure: no connection is made here.

Every index ends in `timestamp`, so that "the last N of a session" is a walk along it and not a sort. The tables are
made by `migrations`; a test holds that they are these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Row, Table, Text, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from hypervisor_consumers.event_index.key_text import key_text
from hypervisor_schemas.events import HypervisorEvent, event_type_of, type_value
from hypervisor_schemas.timestamps import datetime_of, microseconds
from hypervisor_schemas.wire.payload_json import to_json

__all__ = ["IndexRow", "KeyText", "event_of", "events", "metadata", "offsets", "type_counts", "values_of"]

metadata = MetaData()

text = Text().with_variant(Text(collation="C"), "postgresql")
"""Ordered by code points on both, whatever language the database speaks."""


class KeyText(TypeDecorator[str]):
    """A text that an index has. One that is too long for PostgreSQL's is asked for as it is stored, cut."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """As other texts."""
        return Text(collation="C") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Before it is asked for."""
        return key_text(value) if value is not None and dialect.name == "postgresql" else value


key = KeyText()

# The key is the random id, the rows stand in the order of writing: a random key for the table itself is slower.
# PostgreSQL's key is (event_id, timestamp): one over partitions has to hold what they are divided by.
events = Table(
    "events",
    metadata,
    Column("event_id", key, primary_key=True),
    Column("event_type", key, nullable=False),
    Column("timestamp", BigInteger, nullable=False, comment="microseconds since the epoch, UTC"),
    Column("session_id", key),
    Column("agent_did", key),
    Column("causal_trace_id", text),
    Column("trace_id", key, comment="the first part of causal_trace_id"),
    Column("parent_event_id", text),
    Column("payload", text, nullable=False, comment="a JSON object"),
    Column("topic", text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("offset", BigInteger, nullable=False),
)

Index("ix_events_time", events.c.timestamp)
Index("ix_events_type", events.c.event_type, events.c.timestamp)
# For streams, which read on from offsets. It grows at its ends, and costs the ingest 5 %.
Index("ix_events_place", events.c.topic, events.c.partition, events.c.offset)
# Without what is absent: nobody asks for it by these, and it would be one long run of equal keys.
for _name, _column in (
    ("ix_events_session", events.c.session_id),
    ("ix_events_agent", events.c.agent_did),
    ("ix_events_trace", events.c.trace_id),
):
    _present = _column.is_not(None)
    Index(_name, _column, events.c.timestamp, sqlite_where=_present, postgresql_where=_present)

offsets = Table(
    "offsets",
    metadata,
    Column("topic", text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False, comment="the first offset that is not applied yet"),
)

# By partition, because a partition has one writer: copies that write side by side never wait for one row.
type_counts = Table(
    "type_counts",
    metadata,
    Column("topic", text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("event_type", key, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


class IndexRow(NamedTuple):
    """An event and its place in Kafka."""

    topic: str
    partition: int
    offset: int
    event: HypervisorEvent


def values_of(row: IndexRow) -> tuple[Any, ...]:
    """The row as values of `events`, in the order of its columns.

    An event without an id gets its place as one, `topic:partition:offset`: the same whenever it is read again, and
    no other event's.
    """
    topic, partition, offset, event = row
    trace = event.causal_trace_id
    return (
        event.event_id or f"{topic}:{partition}:{offset}",
        type_value(event.event_type),
        microseconds(event.timestamp),
        event.session_id,
        event.agent_did,
        trace,
        trace.partition("/")[0] or None if trace else None,
        event.parent_event_id,
        to_json(event.payload),
        topic,
        partition,
        offset,
    )


def event_of(row: Row[Any]) -> HypervisorEvent:
    """The event that `values_of` described; its timestamp in UTC."""
    return HypervisorEvent(
        event_id=row.event_id,
        event_type=event_type_of(row.event_type),
        timestamp=datetime_of(row.timestamp),
        session_id=row.session_id,
        agent_did=row.agent_did,
        causal_trace_id=row.causal_trace_id,
        parent_event_id=row.parent_event_id,
        payload=_decode_json(row.payload),
    )
