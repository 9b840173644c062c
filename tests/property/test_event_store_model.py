"""The event index answers every query like a plain list, whatever was written in whatever order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from hypervisor_consumers.event_index.backends.store import EventStore, IndexRow, open_store
from hypervisor_consumers.event_index.query.cursors import read_cursor, write_cursor
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_consumers.event_index.tables import metadata
from hypervisor_schemas.events import EventType, HypervisorEvent, UnknownEventType, event_type_of, type_value
from hypervisor_schemas.topics import event_topic

EPOCH = datetime(2025, 1, 1, tzinfo=UTC)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
few_sessions = st.sampled_from([None, "", "s1", "s2", "sé"]) | text
few_agents = st.sampled_from([None, "", "did:mesh:a", "did:mesh:b"]) | text
few_types = st.sampled_from([EventType.RING_ASSIGNED, EventType.RING_ELEVATED, EventType.SAGA_CREATED]) | st.just(
    event_type_of("quantum.entangled")
)
# Few moments, so that many events share one; and a few from far away.
few_moments = st.integers(-3, 3).map(lambda n: EPOCH + timedelta(microseconds=n)) | st.datetimes(
    timezones=st.just(UTC)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)

events = st.builds(
    HypervisorEvent,
    event_id=st.integers(0, 40).map("{:016x}".format),  # few, so that some come twice
    event_type=few_types,
    timestamp=few_moments,
    session_id=few_sessions,
    agent_did=few_agents,
    causal_trace_id=st.none() | st.just("a1b2c3d4e5f6/89abcdef") | text,
    parent_event_id=st.none() | text,
    payload=st.dictionaries(text, json_values, max_size=3),
)
batches = st.lists(st.lists(st.tuples(st.integers(0, 2), events), max_size=15), max_size=5)
filters = st.fixed_dictionaries(
    {},
    optional={
        "event_type": few_types,
        "session_id": few_sessions,
        "agent_did": few_agents,
        "start": few_moments,
        "end": few_moments,
        "limit": st.integers(0, 12),
    },
)


type_names = (
    st.sampled_from(["ring.assigned", "ring.elevated", "ring", "ring.", "saga", "quantum", "ri", ""]) | text
)
wide_filters = st.builds(
    EventFilter,
    event_types=st.none() | st.lists(type_names, max_size=4),
    session_id=few_sessions,
    trace_id=st.sampled_from([None, "a1b2c3d4e5f6"]) | text,
    start=st.none() | few_moments,
    end=st.none() | few_moments,
)


class ListIndex:
    """The model: a list of rows, sorted and filtered anew for every query."""

    def __init__(self, is_postgres: bool) -> None:
        self.rows: list[IndexRow] = []
        self.is_postgres = is_postgres

    def key(self, event: HypervisorEvent) -> object:
        """The primary key. The key of a table that is partitioned by time must hold the time."""
        return (event.event_id, event.timestamp) if self.is_postgres else event.event_id

    def stored(self, value: Any) -> Any:
        """The value as the database stores it: PostgreSQL can't hold NUL."""
        if not self.is_postgres:
            return value
        if isinstance(value, str) and not isinstance(value, EventType | UnknownEventType):
            return value.replace("\0", "\ufffd")
        if isinstance(value, dict):
            return {self.stored(key): self.stored(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.stored(inner) for inner in value]
        if isinstance(value, HypervisorEvent | EventFilter):
            return replace(value, **{one.name: self.stored(getattr(value, one.name)) for one in fields(value)})
        return value

    def write(self, rows: list[IndexRow]) -> int:
        before = len(self.rows)
        for row in (row._replace(event=self.stored(row.event)) for row in rows):
            if all(self.key(row.event) != self.key(known.event) for known in self.rows):
                self.rows.append(row)
        return len(self.rows) - before

    def query(self, limit: int = 100, **given: Any) -> list[HypervisorEvent]:
        event_filter = self.stored(given)

        def fits(event: HypervisorEvent) -> bool:
            return (
                all(
                    event_filter.get(name) is None or getattr(event, name) == event_filter[name]
                    for name in ("event_type", "session_id", "agent_did")
                )
                and (event_filter.get("start") is None or event.timestamp >= event_filter["start"])
                and (event_filter.get("end") is None or event.timestamp <= event_filter["end"])
            )

        in_order = sorted(self.rows, key=lambda row: (row.event.timestamp, row.topic, row.partition, row.offset))
        found = [row.event for row in in_order if fits(row.event)]
        return found[-limit:] if limit else []


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with closing(open_store(database_url)) as opened:
        yield opened


def model_of(store: EventStore) -> ListIndex:
    """The model of a store, both empty."""
    with store._database.writer.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(delete(table))
    return ListIndex(is_postgres=store._database.writer.dialect.name == "postgresql")


def fits(event: HypervisorEvent, event_filter: EventFilter) -> bool:
    value = type_value(event.event_type)
    kinds = event_filter.event_types
    return (
        (kinds is None or any(value == kind or _is_of_category(value, kind) for kind in kinds))
        and event_filter.session_id in {None, event.session_id}
        and (
            event_filter.trace_id is None
            or (event.causal_trace_id or "").split("/")[0] == (event_filter.trace_id or None)
        )
        and (event_filter.start is None or event.timestamp >= event_filter.start)
        and (event_filter.end is None or event.timestamp <= event_filter.end)
    )


def _is_of_category(value: str, name: str) -> bool:
    return value.startswith(name if name.endswith(".") else f"{name}.") and "." not in name[:-1]


def write_both(store: EventStore, model: ListIndex, batch: list[tuple[int, HypervisorEvent]]) -> None:
    rows: list[IndexRow] = []
    moved: dict[tuple[str, int], tuple[int | None, int]] = {}
    for partition, event in batch:
        topic_partition = event_topic("hypervisor.", type_value(event.event_type)), partition
        next_offset = store.next_offset(*topic_partition)
        old, new = moved.get(topic_partition) or (next_offset, next_offset or 0)
        rows.append(IndexRow(*topic_partition, new, event))
        moved[topic_partition] = (old, new + 1)
    assert store.write(rows, moved) == model.write(rows)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, queries=st.lists(filters, min_size=1, max_size=12))
def test_the_index_answers_like_a_list(
    store: EventStore, batches: list[list[tuple[int, HypervisorEvent]]], queries: list[dict[str, Any]]
) -> None:
    model = model_of(store)
    for batch in batches:
        write_both(store, model, batch)
    for query in queries:
        assert store.query(**query) == model.query(**query)
    assert store.event_count() == len(model.rows)
    assert store.type_counts() == Counter(type_value(row.event.event_type) for row in model.rows)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=batches, event_filter=wide_filters, size=st.integers(1, 7))
def test_successive_pages_are_those_of_a_list(
    store: EventStore, batches: list[list[tuple[int, HypervisorEvent]]], event_filter: EventFilter, size: int
) -> None:
    model = model_of(store)
    for batch in batches:
        write_both(store, model, batch)
    expected = [event for event in model.query(limit=1000) if fits(event, model.stored(event_filter))]
    found: list[HypervisorEvent] = []
    before = None
    with store.snapshot() as snapshot:
        named = snapshot.resolve(event_filter)
        while True:
            page = snapshot.page(named, size, before)
            found += page.events
            if page.resume_at is None:
                break
            assert len(page.events) == size
            before = read_cursor(write_cursor(page.resume_at, event_filter), event_filter)
        assert found[::-1] == expected
        assert snapshot.type_counts(named) == Counter(type_value(event.event_type) for event in expected)
