"""Answers from the event index's database, each from one moment of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Select, select

from hypervisor_consumers.event_index.questions import (
    Position,
    Wanted,
    causal_trace_ids,
    causes,
    count_by_type,
    extent,
    grouped,
    last_events,
    those_between,
    types_of_categories,
)
from hypervisor_consumers.event_index.subtrees import MAX_SPANS, TooManySpans, subtree_of
from hypervisor_consumers.event_index.tables import event_of, events, offsets
from hypervisor_consumers.event_index.trouble import translated_errors
from hypervisor_consumers.runtime.processor import Place
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.timestamps import datetime_of

__all__ = ["Group", "Page", "Snapshot", "snapshot"]


@dataclass(frozen=True, slots=True)
class Page:
    """Events, latest first."""

    events: Sequence[HypervisorEvent]
    last: Position | None
    """Where the next page goes on: before this one. None: there is none."""


@dataclass(frozen=True, slots=True)
class Group:
    """The events that have one value in common."""

    value: str
    events: int
    first: datetime
    last: datetime


class Snapshot:
    """Questions that are answered from the same moment of the database."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def offsets(self) -> dict[Place, int]:
        """Per partition the first offset that is not applied yet."""
        return {Place(topic, partition): offset for topic, partition, offset in self._rows(select(offsets))}

    def types_of(self, asked: Sequence[str]) -> list[str]:
        """The types among all events that `asked` names; a word without a dot names a category, too."""
        return [value for (value,) in self._rows(types_of_categories(asked))]

    def page(self, wanted: Wanted, limit: int, before: Position | None = None) -> Page:
        """The last `limit` events that fit; with `before`, of those that stand before that position."""
        # One more than is given, to know whether there are more.
        found = self._rows(last_events(wanted, limit + 1, before))
        last = None
        if limit and len(found) > limit:
            row = found[limit - 1]
            last = Position(row.timestamp, row.topic, row.partition, row.offset)
        return Page([event_of(row) for row in found[:limit]], last)

    def event(self, event_id: str) -> HypervisorEvent | None:
        """The event with this id."""
        found = self._rows(select(events).where(events.c.event_id == event_id))
        return event_of(found[0]) if found else None

    def behind(
        self, place: Place, between: tuple[int, int], wanted: Wanted, *, limit: int, max_bytes: int
    ) -> tuple[list[tuple[int, HypervisorEvent]], int]:
        """The events of a partition that fit, `between` an offset and before another, with their offsets.

        At most `limit`, or about `max_bytes` of payload. Returns them, and the offset up to which they are all.
        """
        found: list[tuple[int, HypervisorEvent]] = []
        size = 0
        # Row by row: what is beyond the bound is never in memory.
        with self._connection.execution_options(yield_per=1).execute(
            those_between(place, *between, wanted, limit)
        ) as rows:
            for row in rows:
                found.append((row.offset, event_of(row)))
                size += len(row.payload)
                if len(found) == limit or size >= max_bytes:
                    return found, row.offset + 1
        return found, between[1]

    def type_counts(self, wanted: Wanted) -> dict[str, int]:
        """How many events fit, by the type's value; a type without any is absent."""
        return {value: int(count) for value, count in self._rows(count_by_type(wanted)) if count}

    def groups(self, wanted: Wanted, by: str, limit: int) -> list[Group]:
        """The events that fit, by the values of the column `by`; at most `limit` values, the latest first."""
        return [
            Group(value, count, datetime_of(first), datetime_of(last))
            for value, count, first, last in self._rows(grouped(wanted, by, limit))
        ]

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
