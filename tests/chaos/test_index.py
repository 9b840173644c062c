"""Two copies of event-index on one PostgreSQL: rows are the truth through kills, restarts and bad records."""

from __future__ import annotations

import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_consumers.event_index.tables import IndexRow, values_of
from tests.chaos.harness import Load, describe_copies, record_of, ring_events
from tests.support.postgres import Postgres, opened
from tests.support.service_processes import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from hypervisor_schemas.events import HypervisorEvent
    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.full, pytest.mark.timeout(1800)]

PARTITIONS = 6


def test_rows_and_counts_are_the_truth_while_copies_are_killed_and_the_database_restarts(
    new_fleet: Callable[[int], Fleet], own_postgres: Postgres, chaos: Chaos
) -> None:
    random, fleet, url = chaos.random, new_fleet(PARTITIONS), own_postgres.new_database()
    good: dict[str, HypervisorEvent] = {}
    records = list(mixed(random, chaos.scaled(60_000, 600_000), good))
    copies = [start(fleet, url) for _ in range(2)]
    eventually(lambda: [copy.partitions() for copy in copies], all, 60)
    load = Load(fleet, records, per_second=4_000).start()
    kills = restarts = 0
    # One of each in every run, then as it comes.
    due = random.sample(["kill", "restart"], 2)
    while due or not load.is_over:
        until = time.monotonic() + random.uniform(1, 4)
        eventually(lambda until=until: time.monotonic() >= until or load.is_over, bool, 10)
        if (due.pop() if due else random.choices(["kill", "restart"], [3, 2])[0]) == "kill":
            copies.pop(random.randrange(len(copies))).kill()
            copies.append(start(fleet, url))
            kills += 1
        else:
            own_postgres.stop(random.choice([signal.SIGINT, signal.SIGQUIT]))
            until = time.monotonic() + random.uniform(0, 2)
            eventually(lambda until=until: time.monotonic() >= until, bool, 10)
            own_postgres.start()
            restarts += 1
    try:
        eventually(lambda: difference(url, good), lambda wrong: not wrong, 120)
        # And so it stays, when everything is read.
        eventually(lambda: sum(lag(copy) for copy in copies), lambda behind: behind == 0, 120)
        assert difference(url, good) == ""
        assert all(copy.status is None for copy in copies)
    except AssertionError:
        print(describe_copies(copies))
        raise
    print(f"{len(good)} events, {len(records)} records, {kills} kills, {restarts} restarts of the database")


def start(fleet: Fleet, url: str) -> RunningService:
    return fleet.start("event-index", TELEMETRY_DATABASE_URL=url)


def lag(copy: RunningService) -> float:
    return sum(copy.metrics("hypervisor_telemetry_lag_records").values())


def mixed(random: Random, count: int, good: dict[str, HypervisorEvent]) -> Iterator[tuple[bytes | None, bytes]]:
    """Records in the order to send: some come twice, in the same partition or in another, some are bad."""
    sent: list[tuple[bytes | None, bytes]] = []
    for event in ring_events(random, count):
        key, value = record_of(event)
        kind = random.random()
        if kind < 0.05 and sent:
            yield random.choice(sent[-2000:])
        elif kind < 0.10 and sent:
            yield random.randbytes(4).hex().encode(), random.choice(sent[-2000:])[1]
        elif kind < 0.12:
            yield key, b"\xff" + random.randbytes(random.randrange(50))
        else:
            good[event.event_id] = event
            sent.append((key, value))
            yield sent[-1]


def difference(url: str, good: dict[str, HypervisorEvent]) -> str:
    """In what rows or counts are not the truth."""
    with opened(url) as connection:
        rows: list[Any] = connection.execute(
            "SELECT event_id, event_type, timestamp, session_id, agent_did FROM events"
        ).fetchall()
        kept = connection.execute("SELECT event_type, sum(count)::int FROM type_counts GROUP BY 1").fetchall()
    if len(rows) != len(good):
        return f"{len(rows)} rows, and the truth is {len(good)}"
    wanted = {values_of(IndexRow("", 0, 0, event))[:5] for event in good.values()}
    if set(rows) != wanted:
        return f"{len(set(rows) ^ wanted)} rows differ"
    counts = Counter(event.event_type.value for event in good.values())
    return "" if dict(kept) == counts else f"counts are {dict(kept)}, and the truth is {counts}"
