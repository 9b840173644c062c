"""The tables of the event index, and the rows that hold events. Pure: no connection is made here.

Every index ends in `timestamp`: "the last N of a session" reads along the index and sorts nothing. The package
`migrations` creates the tables; a test checks that they are the ones declared here.
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

__all__ = [
    "EVENT_COLUMNS",
    "TIMESTAMP",
    "IndexRow",
    "KeyText",
    "event_of",
    "events",
    "metadata",
    "offsets",
    "type_counts",
    "values_of",
]

metadata = MetaData()

text = Text().with_variant(Text(collation="C"), "postgresql")
"""The type of a text that both databases order by code points, whatever the database's language is."""


class KeyText(TypeDecorator[str]):
    """A text that is part of an index. PostgreSQL stores long ones shortened, so queries shorten them, too."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        """The column's type: the same as for other texts."""
        return Text(collation="C") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """The value as PostgreSQL stores it."""
        return key_text(value) if value is not None and dialect.name == "postgresql" else value


key = KeyText()

# The primary key is the random id, while rows are stored in the order of writing: clustering the table by a random
# key is slower. PostgreSQL's key is (event_id, timestamp): a partitioned table's key must hold the partition key.
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
# For streams, which continue from offsets. The index grows at its ends only, and costs the ingest 5 %.
Index("ix_events_place", events.c.topic, events.c.partition, events.c.offset)
# Partial indexes, without NULL: no query asks for it, and it would be one long run of equal keys.
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

# Counted per partition, because a partition has one writer: copies that write concurrently never share a row.
type_counts = Table(
    "type_counts",
    metadata,
    Column("topic", text, primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("event_type", key, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

TIMESTAMP = list(events.c).index(events.c.timestamp)
"""The index of the timestamp in a tuple of `values_of`."""

EVENT_COLUMNS = ", ".join(f'"{column.name}"' for column in events.c)
"""The quoted names of the columns of `events`, in their order."""

_decode_json = msgspec.json.Decoder(dict[str, Any]).decode


class IndexRow(NamedTuple):
    """An event with its topic, partition and offset in Kafka."""

    topic: str
    partition: int
    offset: int
    event: HypervisorEvent


def values_of(row: IndexRow) -> tuple[Any, ...]:
    """The row's values for `events`, in the order of its columns.

    An event without an id gets the id `topic:partition:offset`: it is the same whenever the event is read again,
    and no other event has it.
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
    """The event of a row of `events`; its timestamp is in UTC."""
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
