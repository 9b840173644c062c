"""Answers from the event index's database, each from one moment of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, select

from hypervisor_consumers.event_index.errors import translated_errors
from hypervisor_consumers.event_index.query.bounded_fetch import MAX_BYTES, fetched
from hypervisor_consumers.event_index.query.queries import (
    BY_OFFSET,
    LATEST_FIRST,
    GroupPosition,
    Position,
    Wanted,
    causal_trace_ids,
    causes,
    count_by_type,
    count_in_time,
    extent,
    grouped,
    last_events,
    those_between,
    types_of_categories,
)
from hypervisor_consumers.event_index.query.subtrees import MAX_SPANS, TooManySpans, subtree_of
from hypervisor_consumers.event_index.tables import event_of, events, offsets
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.timestamps import datetime_of

__all__ = ["Group", "Groups", "Page", "Snapshot", "snapshot"]


@dataclass(frozen=True, slots=True)
class Page:
    """Events, latest first."""

    rows: Sequence[Row[Any]]
    last: Position | None
    """Where the next page goes on: before this one. None: there is none."""

    @property
    def events(self) -> list[HypervisorEvent]:
        """They are read from their rows each time."""
        return [event_of(row) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Group:
    """The events that have one value in common."""

    value: str
    events: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups, that of the latest event first."""

    groups: Sequence[Group]
    last: GroupPosition | None
    """Where the next page goes on: behind this one. None: there is none."""


class Snapshot:
    """Questions that are answered from the same moment of the database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def offsets(self) -> dict[TopicPartition, int]:
        """Per partition the first offset that is not applied yet."""
        return {
            TopicPartition(topic, partition): offset for topic, partition, offset in self._rows(select(offsets))
        }

    def types_of(self, asked: Sequence[str]) -> list[str]:
        """The types among all events that `asked` names; a word without a dot names a category, too."""
        return [value for (value,) in self._rows(types_of_categories(asked))]

    def page(
        self, wanted: Wanted, limit: int, before: Position | None = None, *, max_bytes: int = MAX_BYTES
    ) -> Page:
        """The last `limit` events that fit, or fewer: up to the one with which they have `max_bytes`.

        With `before`, of those that stand before that position.
        """
        # One more than is given, to know whether there are more.
        asked = last_events(wanted, limit + 1, before)
        found, is_whole = fetched(self._connection, asked, max_bytes, order=LATEST_FIRST)
        rows = found[:limit]
        if not rows or (is_whole and len(found) == len(rows)):
            return Page(rows, None)
        row = rows[-1]
        return Page(rows, Position(row.timestamp, row.topic, row.partition, row.offset))

    def event(self, event_id: str) -> HypervisorEvent | None:
        """The event with this id."""
        found = self._rows(select(events).where(events.c.event_id == event_id))
        return event_of(found[0]) if found else None

    def behind(
        self,
        topic_partition: TopicPartition,
        between: tuple[int, int],
        wanted: Wanted,
        *,
        limit: int,
        max_bytes: int,
    ) -> tuple[list[tuple[int, HypervisorEvent]], int]:
        """The events of a partition that fit, `between` an offset and before another, with their offsets.

        At most `limit`, or about `max_bytes`. Returns them, and the offset up to which they are all.
        """
        asked = those_between(topic_partition, *between, wanted, limit)
        rows, is_whole = fetched(self._connection, asked, max_bytes, order=BY_OFFSET)
        end = rows[-1].offset + 1 if len(rows) == limit or not is_whole else between[1]
        return [(row.offset, event_of(row)) for row in rows], end

    def type_counts(self, wanted: Wanted) -> dict[str, int]:
        """How many events fit, by the type's value; a type without any is absent."""
        return {value: int(count) for value, count in self._rows(count_by_type(wanted)) if count}

    def counts_in_time(self, wanted: Wanted, origin: int, size: int, limit: int) -> list[tuple[int, str, int]]:
        """How many events fit, by number of the span of time (each `size` us, from `origin` on) and by type."""
        return [
            (number, kind, count) for number, kind, count in self._rows(count_in_time(wanted, origin, size, limit))
        ]

    def groups(self, wanted: Wanted, by: str, limit: int, behind: GroupPosition | None = None) -> Groups:
        """The events that fit, by the values of the column `by`; at most `limit` values, the latest first.

        With `behind`, of those that stand behind that position.
        """
        rows, is_whole = fetched(self._connection, grouped(wanted, by, limit + 1, behind))
        found = [Group(value, count, datetime_of(first), datetime_of(last)) for value, count, first, last in rows]
        kept = found[:limit]
        if not kept or (is_whole and len(found) == len(kept)):
            return Groups(kept, None)
        return Groups(kept, GroupPosition(rows[len(kept) - 1][3], kept[-1].value))

    def extent(self, wanted: Wanted) -> tuple[datetime, datetime] | None:
        """The first and the last time of the events that fit; None: there are none."""
        [(first, last)] = self._rows(extent(wanted))
        return None if first is None else (datetime_of(first), datetime_of(last))

    def named(self, wanted: Wanted) -> Wanted:
        """The same filter with categories replaced by the types that there are of them, a subtree by its ids.

        Raises:
            TooManySpans: The subtree is of a trace with too many.
        """
        if wanted.event_types is not None:
            wanted = replace(wanted, event_types=self.types_of(wanted.event_types))
        if wanted.subtree is not None:
            wanted = replace(wanted, causal_trace_ids=self._subtree(wanted.trace_id or "", wanted.subtree))
        return wanted

    def _subtree(self, trace_id: str, span_id: str) -> list[str]:
        ids = self._rows(causal_trace_ids(trace_id, MAX_SPANS + 1))
        caused = self._rows(causes(trace_id, MAX_SPANS + 1))
        if max(len(ids), len(caused)) > MAX_SPANS:
            raise TooManySpans
        return subtree_of(span_id, (text for (text,) in ids), ((its, cause) for its, cause in caused))

    def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        return self._connection.execute(statement).all()


@contextmanager
def snapshot(engine: Engine) -> Iterator[Snapshot]:
    """Ask several things of one moment.

    Raises:
        QueryTooSlow: One of them took longer than it may.
        StoreUnavailable: The database didn't answer.
    """
    with translated_errors(asking=True), engine.connect() as connection:
        yield Snapshot(connection)
