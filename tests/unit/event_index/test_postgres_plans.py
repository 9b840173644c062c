"""The work that queries cost on PostgreSQL, by its query plans."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event

from hypervisor_consumers.event_index.backends.store import (
    EventStore,
    IndexRow,
    open_database,
    open_store,
)
from hypervisor_consumers.event_index.query.queries import EventFilter, Position
from hypervisor_schemas.events import EventType
from tests.support.event_rows import NOON, RING, Clock, ring_event
from tests.support.postgres import Postgres, opened

pytestmark = pytest.mark.full

WEEK = timedelta(weeks=1)
MONDAY = datetime(2025, 1, 13, tzinfo=UTC)


@pytest.fixture(scope="module")
def grown(postgres: Postgres) -> str:
    """A database of 120,000 events over twenty weeks."""
    url, kinds = postgres.new_database(), list(EventType)
    with closing(open_store(url, now=Clock())) as store:
        for at in range(0, 120_000, 20_000):
            rows = [
                IndexRow(
                    RING,
                    0,
                    n,
                    ring_event(
                        n,
                        timestamp=NOON - timedelta(seconds=100 * n),
                        session_id=f"s{n % 1000}",
                        agent_did=f"did:{n % 300}",
                        event_type=kinds[n % 40],
                        causal_trace_id=f"{n % 2000:012x}/1",
                    ),
                )
                for n in range(at, at + 20_000)
            ]
            store.write(rows, {(RING, 0): (at or None, at + 20_000)})
    with opened(url) as connection:
        connection.execute("ANALYZE")
    return url


@pytest.mark.parametrize(
    ("event_filter", "indexes"),
    [
        (EventFilter(), {"timestamp"}),
        (EventFilter(session_id="s7"), {"session_id_timestamp"}),
        (EventFilter(agent_did="did:7"), {"agent_did_timestamp"}),
        (EventFilter(trace_id=f"{7:012x}"), {"trace_id_timestamp"}),
        # Of a type that is common a walk along the time finds a hundred as fast.
        (
            EventFilter(["ring.assigned"], start=NOON - 5 * WEEK, end=NOON - WEEK),
            {"event_type_timestamp", "timestamp"},
        ),
        (EventFilter(["ring.assigned"]), {"event_type_timestamp", "timestamp"}),
        (EventFilter(["ring.assigned", "saga.created", "ring.demoted"]), {"event_type_timestamp", "timestamp"}),
    ],
)
@pytest.mark.parametrize("before", [None, Position(int((NOON - 3 * WEEK).timestamp() * 1e6), RING, 0, 0)])
def test_the_last_hundred_walk_along_an_index(
    grown: str, event_filter: EventFilter, before: Position | None, indexes: set[str]
) -> None:
    database, plans = open_database(grown), []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            raw = connection.connection.driver_connection
            explained = raw.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).fetchone()
            plans.append(explained[0][0]["Plan"])

    with closing(EventStore(database)) as store:
        sqlalchemy_event.listen(database.readers, "before_cursor_execute", explain)
        with store.snapshot() as snapshot:
            assert snapshot.page(event_filter, 100, before).events
    [plan] = plans
    scans = [node for node in _nodes(plan) if "Scan" in node["Node Type"] and node["Actual Loops"]]
    used = [node for node in scans if node["Node Type"] != "Subquery Scan" and node["Actual Rows"]]
    # Where a week has only a few, it may be by a bitmap of the same index.
    names = {node["Index Name"] for node in used if node["Node Type"] != "Bitmap Heap Scan"}
    assert {name[len("events_20250113_") : -len("_idx")] for name in names} <= indexes
    read = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in used
    )
    assert read < 120_000 / 8


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def test_a_time_range_touches_its_own_weeks_only(grown: str) -> None:
    with opened(grown) as connection:
        start = int((NOON - WEEK).timestamp() * 1e6)
        plan = str(
            connection.execute(
                "EXPLAIN SELECT * FROM events WHERE timestamp >= %s AND timestamp < %s",
                (start, start + 1000),
                prepare=False,
            ).fetchall()
        )
    assert "events_20250106" in plan
    assert plan.count("events_20") <= 3
