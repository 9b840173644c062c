"""Reads the event index's database: a snapshot answers several queries from the same moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from hypervisor_consumers.event_index.query import queries
from hypervisor_consumers.event_index.query.bounded_fetch import MAX_BYTES, fetch_bounded
from hypervisor_consumers.event_index.query.queries import EventFilter, GroupPosition, Position
from hypervisor_consumers.event_index.query.subtrees import MAX_SPANS, TooManySpans, causal_trace_ids_below
from hypervisor_consumers.event_index.tables import event_of, events, offsets
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.timestamps import datetime_of

__all__ = ["Group", "Groups", "Page", "Snapshot"]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of events, latest first."""

    rows: Sequence[Row[Any]]
    resume_at: Position | None
    """The position before which the next page begins; None: there is no next page."""

    @property
    def events(self) -> list[HypervisorEvent]:
        """The events, made from the rows on each access."""
        return [event_of(row) for row in self.rows]


@dataclass(frozen=True, slots=True)
class Group:
    """The number and times of the events that have one value in common."""

    value: str
    events: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Groups:
    """A page of groups, the group of the latest event first."""

    groups: Sequence[Group]
    resume_at: GroupPosition | None
    """The position after which the next page begins; None: there is no next page."""


class Snapshot:
    """Queries that all see the same moment of the database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def offsets(self) -> dict[TopicPartition, int]:
        """The first offset of each partition that is not applied yet."""
        return {
            TopicPartition(topic, partition): offset for topic, partition, offset in self._rows(select(offsets))
        }

    def page(
        self, event_filter: EventFilter, limit: int, before: Position | None = None, *, max_bytes: int = MAX_BYTES
    ) -> Page:
        """The last `limit` matching events, or fewer: up to the one with which their texts reach `max_bytes`.

        With `before`, only events before that position.
        """
        # One more than the limit shows whether there are more.
        statement = queries.latest_events(event_filter, limit + 1, before)
        found, is_whole = fetch_bounded(self._connection, statement, max_bytes, order=queries.LATEST_FIRST)
        rows = found[:limit]
        if not rows or (is_whole and len(found) == len(rows)):
            return Page(rows, None)
        row = rows[-1]
        return Page(rows, Position(row.timestamp, row.topic, row.partition, row.offset))

    def event(self, event_id: str) -> HypervisorEvent | None:
        """The event with this id."""
        rows = self._rows(select(events).where(events.c.event_id == event_id))
        return event_of(rows[0]) if rows else None

    def partition_events(
        self,
        topic_partition: TopicPartition,
        between: tuple[int, int],
        event_filter: EventFilter,
        *,
        limit: int,
        max_bytes: int,
    ) -> tuple[list[tuple[int, HypervisorEvent]], int]:
        """The matching events of a partition with their offsets, from an offset up to before another.

        At most `limit` events, or about `max_bytes`.

        Returns:
            The events, and the offset up to which these are all that match.
        """
        statement = queries.partition_events(topic_partition, *between, event_filter, limit)
        rows, is_whole = fetch_bounded(self._connection, statement, max_bytes, order=queries.BY_OFFSET)
        end = rows[-1].offset + 1 if len(rows) == limit or not is_whole else between[1]
        return [(row.offset, event_of(row)) for row in rows], end

    def type_counts(self, event_filter: EventFilter) -> dict[str, int]:
        """The number of matching events by the type's value; types without any are absent."""
        rows = self._rows(queries.counts_by_type(event_filter))
        return {value: int(count) for value, count in rows if count}

    def bucket_counts(
        self, event_filter: EventFilter, origin_us: int, size_us: int, limit: int
    ) -> list[tuple[int, str, int]]:
        """The matching events as (bucket number, type, count); see `queries.counts_by_bucket`."""
        rows = self._rows(queries.counts_by_bucket(event_filter, origin_us, size_us, limit))
        return [(number, event_type, count) for number, event_type, count in rows]

    def groups(self, event_filter: EventFilter, by: str, limit: int, after: GroupPosition | None = None) -> Groups:
        """The matching events grouped by the column `by`, at most `limit` groups, the latest first.

        With `after`, only the groups after that position.
        """
        rows, is_whole = fetch_bounded(self._connection, queries.groups(event_filter, by, limit + 1, after))
        found = [Group(value, count, datetime_of(first), datetime_of(last)) for value, count, first, last in rows]
        groups = found[:limit]
        if not groups or (is_whole and len(found) == len(groups)):
            return Groups(groups, None)
        return Groups(groups, GroupPosition(rows[len(groups) - 1][3], groups[-1].value))

    def time_range(self, event_filter: EventFilter) -> tuple[datetime, datetime] | None:
        """The first and the last time of the matching events; None if there are none."""
        [(first, last)] = self._rows(queries.time_range(event_filter))
        return None if first is None else (datetime_of(first), datetime_of(last))

    def resolve(self, event_filter: EventFilter) -> EventFilter:
        """The same filter with categories replaced by their types in the index, and a subtree by its ids.

        Raises:
            TooManySpans: The subtree's trace has too many spans.
        """
        if event_filter.event_types is not None:
            rows = self._rows(queries.matching_types(event_filter.event_types))
            event_filter = replace(event_filter, event_types=[value for (value,) in rows])
        if event_filter.subtree is not None:
            ids = self._subtree(event_filter.trace_id or "", event_filter.subtree)
            event_filter = replace(event_filter, causal_trace_ids=ids)
        return event_filter

    def _subtree(self, trace_id: str, span_id: str) -> list[str]:
        ids = self._rows(queries.causal_trace_ids(trace_id, MAX_SPANS + 1))
        links = self._rows(queries.causal_links(trace_id, MAX_SPANS + 1))
        if max(len(ids), len(links)) > MAX_SPANS:
            raise TooManySpans
        return causal_trace_ids_below(
            span_id, (text for (text,) in ids), ((event, cause) for event, cause in links)
        )

    def _rows(self, statement: Select[Any]) -> Sequence[Any]:
        return self._connection.execute(statement).all()
