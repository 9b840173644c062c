"""The queries of the event index as SQL statements. Pure: statements are made here and executed in `reader`.

Values are bound parameters, never part of the text. Every statement works on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Select, and_, case, false, func, literal, or_, select, tuple_, union_all

from hypervisor_consumers.event_index.query.containment import contains
from hypervisor_consumers.event_index.tables import events, type_counts
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.timestamps import microseconds

__all__ = [
    "BY_OFFSET",
    "LATEST_FIRST",
    "EventFilter",
    "GroupPosition",
    "Position",
    "causal_links",
    "causal_trace_ids",
    "counts_by_bucket",
    "counts_by_type",
    "groups",
    "latest_events",
    "matching_types",
    "partition_events",
    "time_range",
]

_MAX_UNION_TYPES = 50
"""The most types whose events are read type by type. SQLite allows 500 SELECTs in a compound statement."""


class Position(NamedTuple):
    """The position of an event in the order of all: by its time, then by its topic, partition and offset."""

    timestamp_us: int
    """Microseconds since the epoch."""
    topic: str
    partition: int
    offset: int


class GroupPosition(NamedTuple):
    """The position of a group in the order of all: by its latest event, latest first, then by its value."""

    last_us: int
    """The time of the group's latest event, in microseconds since the epoch."""
    value: str


@dataclass(frozen=True, slots=True)
class EventFilter:
    """A filter over events: an event must match all that is given. Times are inclusive, in UTC without a zone."""

    event_types: Sequence[str] | None = None
    """The exact values of the allowed types. An empty sequence matches no event; None matches any type."""
    session_id: str | None = None
    agent_did: str | None = None
    trace_id: str | None = None
    """The first part of the causal trace id."""
    start: datetime | None = None
    end: datetime | None = None
    payload: Mapping[str, Any] | None = None
    """A JSON object that the payload must contain."""
    subtree: str | None = None
    """A span of the trace; events of this span and of the spans below it match."""
    causal_trace_ids: Sequence[str] | None = None
    """The causal trace ids of the subtree, once they are known; an event must have one of them."""

    def conditions(self, before: Position | None = None) -> list[ColumnElement[bool]]:
        """The filter as SQL conditions, to be joined by AND; with `before`, only events before that position."""
        column = events.c
        conditions: list[ColumnElement[bool]] = [
            id_column == value
            for id_column, value in (
                (column.session_id, self.session_id),
                (column.agent_did, self.agent_did),
                (column.trace_id, self.trace_id),
            )
            if value is not None
        ]
        if self.event_types is not None:
            is_single = len(self.event_types) == 1
            conditions.append(
                column.event_type == self.event_types[0] if is_single else column.event_type.in_(self.event_types)
            )
        if self.causal_trace_ids is not None:
            conditions.append(column.causal_trace_id.in_(self.causal_trace_ids))
        if self.payload is not None:
            conditions.append(contains(column.payload, self.payload))
        if self.start is not None:
            conditions.append(column.timestamp >= microseconds(self.start))
        end_us = None if self.end is None else microseconds(self.end)
        if before is not None:
            end_us = before.timestamp_us if end_us is None else min(end_us, before.timestamp_us)
            conditions.append(tuple_(*_ORDER) < before)
        if end_us is not None:
            # A single upper bound lets the database enter the index at the page, also at the hundredth one.
            conditions.append(column.timestamp <= end_us)
        return conditions


_ORDER = (events.c.timestamp, events.c.topic, events.c.partition, events.c.offset)
LATEST_FIRST: Final = tuple((column.name, True) for column in _ORDER)
"""The order of the rows of `latest_events`."""
BY_OFFSET: Final = ((events.c.offset.name, False),)
"""The order of the rows of `partition_events`."""
_LATEST_FIRST = tuple(column.desc() for column in _ORDER)


def latest_events(event_filter: EventFilter, limit: int, before: Position | None = None) -> Select[Any]:
    """The last `limit` events that match, latest first.

    With several types, the index is read for each type separately, `limit` rows at most, and only those rows are
    sorted. Reading them together would read all events between, or sort all events of these types.
    """
    types = event_filter.event_types
    if types is None or not 1 < len(types) <= _MAX_UNION_TYPES:
        return _latest(event_filter, limit, before)
    per_type = [_latest(replace(event_filter, event_types=[kind]), limit, before).subquery() for kind in types]
    found = union_all(*(select(subquery) for subquery in per_type)).subquery("found")
    latest = tuple(found.c[column.name].desc() for column in _ORDER)
    return select(found).order_by(*latest).limit(limit)


def _latest(event_filter: EventFilter, limit: int, before: Position | None) -> Select[Any]:
    return select(events).where(*event_filter.conditions(before)).order_by(*_LATEST_FIRST).limit(limit)


def partition_events(
    topic_partition: TopicPartition, first: int, end: int, event_filter: EventFilter, limit: int
) -> Select[Any]:
    """The first `limit` events of a partition that match, in order, from offset `first` up to before `end`."""
    column = events.c
    is_partition = (column.topic == topic_partition.topic, column.partition == topic_partition.partition)
    is_between = (column.offset >= first, column.offset < end)
    # One value for all conditions: otherwise a database may read all of the index of a session or a type instead.
    matches = [case((and_(*conditions), 1), else_=0) == 1] if (conditions := event_filter.conditions()) else []
    return select(events).where(*is_partition, *is_between, *matches).order_by(column.offset).limit(limit)


def counts_by_type(event_filter: EventFilter) -> Select[Any]:
    """The number of matching events by type; read from the kept counts if the filter has types only."""
    if event_filter == EventFilter(event_types=event_filter.event_types):
        by_type = type_counts.c.event_type
        counts = select(by_type, func.sum(type_counts.c.count)).group_by(by_type).order_by(by_type)
        return counts if event_filter.event_types is None else counts.where(by_type.in_(event_filter.event_types))
    by_type = events.c.event_type
    return select(by_type, func.count()).where(*event_filter.conditions()).group_by(by_type).order_by(by_type)


def counts_by_bucket(event_filter: EventFilter, origin_us: int, size_us: int, limit: int) -> Select[Any]:
    """The number of matching events by bucket number and by type, at most `limit` counts.

    Bucket 0 begins at `origin_us`, and no matching event is before it. Each bucket has `size_us` microseconds.
    """
    time = events.c.timestamp
    number = (time - literal(origin_us, time.type)) // literal(size_us, time.type)
    numbered = (
        select(number.label("number"), events.c.event_type).where(*event_filter.conditions()).subquery("numbered")
    )
    by = (numbered.c.number, numbered.c.event_type)
    return select(*by, func.count()).group_by(*by).order_by(*by).limit(limit)


def groups(event_filter: EventFilter, by: str, limit: int, after: GroupPosition | None = None) -> Select[Any]:
    """The matching events grouped by the column `by`: value, count, first and last time; the latest group first.

    With `after`, only the groups after that position.
    """
    column, last = events.c[by], func.max(events.c.timestamp)
    statement = (
        select(column, func.count(), func.min(events.c.timestamp), last)
        .where(column.is_not(None), *event_filter.conditions())
        .group_by(column)
        .order_by(last.desc(), column)
        .limit(limit)
    )
    if after is None:
        return statement
    return statement.having(or_(last < after.last_us, and_(last == after.last_us, column > after.value)))


def time_range(event_filter: EventFilter) -> Select[Any]:
    """The first and the last time of the matching events."""
    return select(func.min(events.c.timestamp), func.max(events.c.timestamp)).where(*event_filter.conditions())


def causal_trace_ids(trace_id: str, limit: int) -> Select[Any]:
    """The distinct causal trace ids of a trace, at most `limit`."""
    column = events.c.causal_trace_id
    return select(column).where(events.c.trace_id == trace_id).distinct().limit(limit)


def causal_links(trace_id: str, limit: int) -> Select[Any]:
    """Pairs of causal trace ids of a trace: of an event, and of the event that its `parent_event_id` names.

    Only for events whose causal trace id names no parent; at most `limit` pairs.
    """
    caused, cause = events.alias("caused"), events.alias("cause")
    return (
        select(caused.c.causal_trace_id, cause.c.causal_trace_id)
        .join(cause, cause.c.event_id == caused.c.parent_event_id)
        .where(caused.c.trace_id == trace_id, cause.c.trace_id == trace_id)
        .where(caused.c.causal_trace_id.not_like("%/%/%"))
        .where(caused.c.causal_trace_id != cause.c.causal_trace_id)
        .distinct()
        .limit(limit)
    )


def matching_types(names: Sequence[str]) -> Select[Any]:
    """The types in the index that match the names: `ring.` and `ring` are a category, `ring.elevated` is a type."""
    value = type_counts.c.event_type
    matches: list[ColumnElement[bool]] = [false()]
    for name in names:
        matches.append(value == name)
        if "." not in name[:-1]:
            category = name if name.endswith(".") else f"{name}."
            # Compared by characters: LIKE treats "_" as any character, and an order depends on the language.
            matches.append(func.substr(value, 1, len(category)) == category)
    return select(value).where(or_(*matches)).distinct().order_by(value)
