"""event-index as processes on a real PostgreSQL: copies side by side, and a server that comes and goes."""

from __future__ import annotations

import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.postgres import Postgres, opened
from tests.support.service_processes import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.kafka, pytest.mark.full]

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KINDS = (EventType.SESSION_CREATED, EventType.VFS_WRITE, EventType.SAGA_CREATED, EventType.RING_ASSIGNED)


def load(first: int, count: int) -> list[HypervisorEvent]:
    return [
        HypervisorEvent(
            event_type=KINDS[n % 4],
            timestamp=NOON + timedelta(minutes=n),
            session_id=f"s{n % 50}",
            payload={"n": n},
        )
        for n in range(first, first + count)
    ]


def difference(url: str, events: list[HypervisorEvent]) -> str:
    """In what the database is not what these events make of it."""
    with opened(url) as connection:
        ids = Counter(one for (one,) in connection.execute("SELECT event_id FROM events"))
        counts = dict(
            connection.execute("SELECT event_type, sum(count)::int FROM type_counts GROUP BY 1").fetchall()
        )
    wanted = Counter(event.event_id for event in events)
    if ids != wanted:
        return f"{len(wanted - ids)} rows are missing, {(ids - wanted).total()} are too many"
    kinds = Counter(event.event_type.value for event in events)
    return "" if counts == kinds else f"counts are {counts}, and the truth is {kinds}"


def settle(url: str, events: list[HypervisorEvent], seconds: float = 60) -> None:
    eventually(lambda: difference(url, events), lambda wrong: not wrong, seconds)


def start(fleet: Fleet, url: str, **environ: str) -> RunningService:
    # In the environment, as it holds a password.
    return fleet.start("event-index", TELEMETRY_DATABASE_URL=url, **environ)


def test_copies_write_side_by_side_and_take_over_from_each_other(
    new_fleet: Callable[[int], Fleet], postgres: Postgres
) -> None:
    fleet, url = new_fleet(4), postgres.new_database()
    copies = [start(fleet, url) for _ in range(2)]
    eventually(lambda: [copy.partitions() for copy in copies], all, 60)
    events = load(0, 4000)
    fleet.publish(events)
    settle(url, events)
    assert all(copy.metrics("hypervisor_telemetry_transactions_total") for copy in copies)
    copies[0].kill()
    more = load(4000, 4000)
    fleet.publish(more)
    fleet.publish(events[:500])
    settle(url, events + more)
    answer = copies[1].get("/v1/stats").json()
    assert answer["event_count"] == 8000
    status, seconds = copies[1].terminate()
    assert status == 0
    assert seconds < 10
    assert postgres.password not in copies[0].log + copies[1].log


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["a restart", "a crash"])
def test_a_server_that_is_stopped_and_started_in_mid_load_costs_nothing(
    new_fleet: Callable[[int], Fleet], own_postgres: Postgres, how: signal.Signals
) -> None:
    fleet, url = new_fleet(2), own_postgres.new_database()
    service = start(fleet, url).wait_ready()
    events = load(0, 3000)
    fleet.publish(events)
    eventually(lambda: service.get("/v1/stats").json()["event_count"], bool)

    own_postgres.stop(how)
    more = load(3000, 3000)
    fleet.publish(more)
    status, said = eventually(service.ready, lambda ready: "made safe" in ready[1])
    assert status == 200
    assert own_postgres.password not in said
    answer = service.get("/v1/stats")
    assert answer.status_code == 503
    assert "The event index's database can't be used now" in answer.json()["detail"]
    own_postgres.start()

    settle(url, events + more)
    eventually(service.ready, lambda ready: ready == (200, "ok\n") or ready[1].strip() == "ok")
    assert service.status is None
    assert own_postgres.password not in service.log
    assert "Traceback" not in service.log


def test_a_copy_that_starts_while_the_server_is_away_waits_for_it(
    new_fleet: Callable[[int], Fleet], own_postgres: Postgres
) -> None:
    fleet, url = new_fleet(1), own_postgres.new_database()
    own_postgres.stop()
    service = start(fleet, url)
    events = load(0, 100)
    fleet.publish(events)
    status, said = eventually(service.ready, lambda ready: "database can't be used now" in ready[1])
    assert status == 503
    assert own_postgres.password not in said
    own_postgres.start()
    service.wait_ready()
    settle(url, events)
    assert own_postgres.password not in service.log


def test_events_that_are_too_old_go_while_the_service_runs(
    new_fleet: Callable[[int], Fleet], postgres: Postgres
) -> None:
    fleet, url = new_fleet(1), postgres.new_database()
    old, young = load(0, 50), [HypervisorEvent(event_type=KINDS[n % 4]) for n in range(50)]
    fleet.publish(old + young)
    first = start(fleet, url).wait_ready()
    settle(url, old + young)
    assert first.terminate()[0] == 0
    second = start(fleet, url, TELEMETRY_INDEX_RETENTION="1h")
    settle(url, young)
    fleet.publish(old[:10])
    late = "hypervisor_telemetry_index_expired_total"
    eventually(lambda: second.value(late, outcome="not_added"), lambda count: count == 10)
    assert second.value(late, outcome="removed") == 50
    assert difference(url, young) == ""


def test_a_question_that_takes_too_long_is_503_and_holds_nothing_up(
    new_fleet: Callable[[int], Fleet], postgres: Postgres
) -> None:
    fleet, url = new_fleet(1), postgres.new_database()
    service = start(fleet, url, TELEMETRY_QUERY_TIMEOUT="0.5").wait_ready()
    with opened(url) as connection, connection.transaction():
        connection.execute("LOCK TABLE type_counts IN ACCESS EXCLUSIVE MODE")
        answer = service.get("/v1/stats")
    assert answer.status_code == 503
    assert "TELEMETRY_QUERY_TIMEOUT" in answer.json()["detail"]
    events = load(0, 10)
    fleet.publish(events)
    settle(url, events)
