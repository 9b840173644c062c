"""What can be asked of the event index, as SQL. Pure: statements are made here, and run in `reader`.

Values are bound, never spliced. The statements are such that SQLite and PostgreSQL understand them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    and_,
    case,
    false,
    func,
    literal,
    or_,
    select,
    tuple_,
    union_all,
)

from hypervisor_consumers.event_index.query.containment import contains
from hypervisor_consumers.event_index.tables import events, type_counts
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.timestamps import microseconds

__all__ = [
    "BY_OFFSET",
    "LATEST_FIRST",
    "GroupPosition",
    "Position",
    "Wanted",
    "causal_trace_ids",
    "causes",
    "count_by_type",
    "count_in_time",
    "extent",
    "grouped",
    "last_events",
    "those_between",
    "types_of_categories",
]

_WALKED_APART = 50
"""Types whose events are read one type after the other; SQLite takes 500 parts in a statement at most."""


class Position(NamedTuple):
    """Where an event stands among all: by the time it happened, then by its place in Kafka."""

    timestamp: int
    """Microseconds since the epoch."""
    topic: str
    partition: int
    offset: int


class GroupPosition(NamedTuple):
    """Where a group of events stands among all: the one of the latest event first, then by its value."""

    last: int
    """Microseconds since the epoch."""
    value: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter over events: what is given has to fit. Times are inclusive; those without a zone are UTC."""

    event_types: Sequence[str] | None = None
    """One of these, by their exact values; none of them: no event fits. None: any type."""
    session_id: str | None = None
    agent_did: str | None = None
    trace_id: str | None = None
    """The first part of the causal trace id."""
    start: datetime | None = None
    end: datetime | None = None
    payload: Mapping[str, Any] | None = None
    """A JSON object that the payload contains."""
    subtree: str | None = None
    """A span of the trace: its events, and those of the spans below it."""
    causal_trace_ids: Sequence[str] | None = None
    """Of the subtree, where it is known; one of these."""

    def conditions(self, before: Position | None = None) -> list[ColumnElement[bool]]:
        """As conditions of SQL, to be joined by AND; with `before`, only events that stand before that one."""
        column = events.c
        wanted: list[ColumnElement[bool]] = [
            its == value
            for its, value in (
                (column.session_id, self.session_id),
                (column.agent_did, self.agent_did),
                (column.trace_id, self.trace_id),
            )
            if value is not None
        ]
        if self.event_types is not None:
            one = len(self.event_types) == 1
            wanted.append(
                column.event_type == self.event_types[0] if one else column.event_type.in_(self.event_types)
            )
        if self.causal_trace_ids is not None:
            wanted.append(column.causal_trace_id.in_(self.causal_trace_ids))
        if self.payload is not None:
            wanted.append(contains(column.payload, self.payload))
        if self.start is not None:
            wanted.append(column.timestamp >= microseconds(self.start))
        end = None if self.end is None else microseconds(self.end)
        if before is not None:
            end = before.timestamp if end is None else min(end, before.timestamp)
            wanted.append(tuple_(*_ORDER) < before)
        if end is not None:
            # One bound, so that the index is entered right there, also for the hundredth page.
            wanted.append(column.timestamp <= end)
        return wanted


_ORDER = (events.c.timestamp, events.c.topic, events.c.partition, events.c.offset)
LATEST_FIRST: Final = tuple((column.name, True) for column in _ORDER)
"""The order of `last_events`."""
BY_OFFSET: Final = ((events.c.offset.name, False),)
"""The order of `those_between`."""
_LATEST_FIRST = tuple(column.desc() for column in _ORDER)


def last_events(wanted: Wanted, limit: int, before: Position | None = None) -> Select[Any]:
    """The last `limit` events that fit, latest first.

    Of several types each is walked along its own index, `limit` rows at most, and only those are put in order: a
    single walk would read everything between, or sort every event of these types.
    """
    kinds = wanted.event_types
    if kinds is None or not 1 < len(kinds) <= _WALKED_APART:
        return _last(wanted, limit, before)
    walks = [_last(replace(wanted, event_types=[kind]), limit, before).subquery() for kind in kinds]
    found = union_all(*(select(walk) for walk in walks)).subquery("found")
    latest = tuple(found.c[column.name].desc() for column in _ORDER)
    return select(found).order_by(*latest).limit(limit)


def _last(wanted: Wanted, limit: int, before: Position | None) -> Select[Any]:
    return select(events).where(*wanted.conditions(before)).order_by(*_LATEST_FIRST).limit(limit)


def those_between(topic_partition: TopicPartition, first: int, end: int, wanted: Wanted, limit: int) -> Select[Any]:
    """The events of one partition from offset `first` on, before `end`, that fit: the first `limit`, in order."""
    column = events.c
    here = (column.topic == topic_partition.topic, column.partition == topic_partition.partition)
    between = (column.offset >= first, column.offset < end)
    # As one value, so that no database takes the index of a session or a type instead, and reads all of it.
    fits = [case((and_(*conditions), 1), else_=0) == 1] if (conditions := wanted.conditions()) else []
    return select(events).where(*here, *between, *fits).order_by(column.offset).limit(limit)


def count_by_type(wanted: Wanted) -> Select[Any]:
    """How many events fit, by type; read from the kept counts where only types are asked for."""
    if wanted == Wanted(event_types=wanted.event_types):
        by_type = type_counts.c.event_type
        counts = select(by_type, func.sum(type_counts.c.count)).group_by(by_type).order_by(by_type)
        return counts if wanted.event_types is None else counts.where(by_type.in_(wanted.event_types))
    by_type = events.c.event_type
    return select(by_type, func.count()).where(*wanted.conditions()).group_by(by_type).order_by(by_type)


def count_in_time(wanted: Wanted, origin: int, size: int, limit: int) -> Select[Any]:
    """How many events fit, by number of the span of time (each `size` microseconds, from `origin` on) and by type.

    No event that fits is before `origin`. At most so many counts.
    """
    number = (events.c.timestamp - literal(origin, BigInteger)) // literal(size, BigInteger)
    numbered = select(number.label("number"), events.c.event_type).where(*wanted.conditions()).subquery("numbered")
    by = (numbered.c.number, numbered.c.event_type)
    return select(*by, func.count()).group_by(*by).order_by(*by).limit(limit)


def grouped(wanted: Wanted, by: str, limit: int, behind: GroupPosition | None = None) -> Select[Any]:
    """Per value of this column: the value, its events that fit, the first and the last time; the latest first.

    With `behind`, only those that stand behind that one.
    """
    column, last = events.c[by], func.max(events.c.timestamp)
    groups = (
        select(column, func.count(), func.min(events.c.timestamp), last)
        .where(column.is_not(None), *wanted.conditions())
        .group_by(column)
        .order_by(last.desc(), column)
        .limit(limit)
    )
    if behind is None:
        return groups
    return groups.having(or_(last < behind.last, and_(last == behind.last, column > behind.value)))


def extent(wanted: Wanted) -> Select[Any]:
    """The first and the last time of the events that fit."""
    return select(func.min(events.c.timestamp), func.max(events.c.timestamp)).where(*wanted.conditions())


def causal_trace_ids(trace_id: str, limit: int) -> Select[Any]:
    """The different causal trace ids of a trace, at most so many."""
    column = events.c.causal_trace_id
    return select(column).where(events.c.trace_id == trace_id).distinct().limit(limit)


def causes(trace_id: str, limit: int) -> Select[Any]:
    """Pairs of causal trace ids within a trace: of an event, and of the one that its `parent_event_id` names.

    Only of events whose causal trace id names no parent; at most so many.
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


def types_of_categories(asked: Sequence[str]) -> Select[Any]:
    """The types that there are of these: `ring.` is the category, `ring` too, `ring.elevated` a type alone."""
    value = type_counts.c.event_type
    fits: list[ColumnElement[bool]] = [false()]
    for text in asked:
        fits.append(value == text)
        if "." not in text[:-1]:
            category = text if text.endswith(".") else f"{text}."
            # By characters, not by LIKE (where "_" is any) nor by order (which the database's language decides).
            fits.append(func.substr(value, 1, len(category)) == category)
    return select(value).where(or_(*fits)).distinct().order_by(value)
