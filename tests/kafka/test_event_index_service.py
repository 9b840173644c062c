"""event-index as a process: every event is one row, through duplicates and crashes, and can be asked for."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, event_type_of
from tests.support.service_processes import COMMAND, Fleet, RunningService, eventually
from tests.support.span_receivers import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.kafka

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TOKEN = secrets.token_hex(8)

EVENTS = [
    HypervisorEvent(
        event_type=kind,
        timestamp=NOON + timedelta(seconds=second),
        session_id=f"s{second % 3}",
        agent_did=f"did:{second % 2}",
        causal_trace_id="a1b2c3d4e5f6/01234567",
        payload={"n": second, "of": {"nested": ["ä", None, 1.5]}},
    )
    for second, kind in enumerate([*EventType, *GovernanceEventType, event_type_of("weather.changed")])
]
STRANGE = EVENTS[-1]


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [event["event_id"] for event in answer.json()["events"]]


def event_count(service: RunningService) -> Any:
    return service.get("/v1/stats").json()["event_count"]


def database(path: Path) -> str:
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def index(new_fleet: Callable[[int], Fleet], tmp_path_factory: pytest.TempPathFactory) -> RunningService:
    """Holds every event, though each was published twice."""
    fleet = new_fleet(2)
    service = fleet.start("event-index", "--database", database(tmp_path_factory.mktemp("index") / "events.db"))
    fleet.publish(EVENTS)
    fleet.publish(EVENTS)

    def applied() -> float:
        results = service.metrics("hypervisor_telemetry_records_total")
        return sum(count for series, count in results.items() if 'result="applied"' in series)

    eventually(applied, lambda count: count == 2 * len(EVENTS))
    eventually(lambda: service.get("/v1/stats").json()["event_count"], lambda count: count == len(EVENTS))
    return service


def test_an_event_that_came_twice_is_one_row(index: RunningService):
    answer = index.get("/v1/stats").json()
    assert answer["event_count"] == len(EVENTS)
    assert answer["type_counts"] == {event.event_type.value: 1 for event in EVENTS}


def test_events_come_back_as_they_were_published_oldest_first(index: RunningService):
    assert index.get("/v1/events").json()["events"] == [event.to_dict() for event in EVENTS]


def test_an_answer_tells_how_far_it_goes(index: RunningService):
    answer = eventually(
        lambda: index.get("/v1/events", limit=1).json(), lambda answer: answer["freshness"]["lag_records"] == 0
    )
    assert answer["is_partial"] is False
    assert answer["freshness"]["lag_seconds"] == 0
    offsets = [offset for of_topic in answer["freshness"]["includes"].values() for offset in of_topic.values()]
    assert len(offsets) == 2 * 10
    assert sum(offsets) >= 2 * len(EVENTS)


def test_a_type_that_this_version_does_not_know_goes_through_unchanged(index: RunningService):
    assert index.get("/v1/events", event_type="weather.changed").json()["events"] == [STRANGE.to_dict()]


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({"session_id": "s1"}, lambda event: event.session_id == "s1"),
        ({"agent_did": "did:0", "session_id": "s2"}, lambda e: e.agent_did == "did:0" and e.session_id == "s2"),
        ({"event_type": "ring.demoted"}, lambda event: event.event_type == EventType.RING_DEMOTED),
        (
            {"start": "2026-01-01T12:00:03Z", "end": "2026-01-01T12:00:08Z"},
            lambda event: 3 <= (event.timestamp - NOON).seconds <= 8,
        ),
    ],
)
def test_filters_are_all_applied(
    index: RunningService, filters: dict[str, str], fits: Callable[[HypervisorEvent], bool]
):
    wanted = [event.event_id for event in EVENTS if fits(event)]

    assert ids(index.get("/v1/events", **filters)) == wanted
    assert ids(index.get("/v1/events", **filters, limit=1)) == wanted[-1:]


def test_a_service_with_a_token_answers_only_who_carries_it(new_fleet: Callable[[int], Fleet], tmp_path: Path):
    options = ("--database", database(tmp_path / "events.db"))
    service = new_fleet(1).start("event-index", *options, TELEMETRY_API_TOKEN=TOKEN)

    def status(path: str, **headers: str) -> int:
        return httpx.get(service.url + path, headers=headers, trust_env=False).status_code

    assert status("/v1/stats") == 401
    assert status("/v1/events", authorization="Bearer another") == 401
    assert status("/v1/stats", authorization=f"Bearer {TOKEN}") == 200
    assert status("/metrics") == 200
    assert status("/healthz") == 200
    assert TOKEN not in service.log


def test_what_was_flushed_is_in_the_answer_that_is_asked_for_it(new_fleet: Callable[[int], Fleet], tmp_path: Path):
    fleet = new_fleet(2)
    service = fleet.start("event-index", "--database", database(tmp_path / "events.db"))
    with EventPublisher(environ=fleet.environ) as publisher:
        for n in range(20):
            publisher.publish(HypervisorEvent(event_type=list(EventType)[n % 40], session_id=f"s{n}"))
            flushed = publisher.flush()
            assert flushed.pending == 0
            answer = service.get("/v1/events", session_id=f"s{n}", after=flushed.token, wait=30)
            assert len(ids(answer)) == 1


def test_after_a_kill_in_the_middle_of_a_load_the_rows_are_the_truth(
    new_fleet: Callable[[int], Fleet], tmp_path: Path
):
    fleet = new_fleet(2)
    options = ("--database", database(tmp_path / "events.db"))
    kinds = (EventType.SESSION_CREATED, EventType.VFS_WRITE, EventType.SAGA_CREATED, EventType.RING_ASSIGNED)

    def load(first: int) -> list[HypervisorEvent]:
        return [
            HypervisorEvent(event_type=kinds[n % 4], session_id=f"s{n % 50}", payload={"n": n})
            for n in range(first, first + 4000)
        ]

    before, after = load(0), load(4000)
    fleet.publish(before)
    first = fleet.start("event-index", *options)
    eventually(lambda: event_count(first), lambda count: count > 0)
    first.kill()
    fleet.publish(after)
    second = fleet.start("event-index", *options)

    published = Counter(event.event_type.value for event in before + after)
    eventually(lambda: event_count(second), lambda count: count >= 8000)
    answer = second.get("/v1/stats").json()
    assert answer["event_count"] == 8000
    assert answer["type_counts"] == published
    assert {event["payload"]["n"] for event in all_events(second)} == set(range(8000))
    status, seconds = second.terminate()
    assert status == 0
    assert seconds < 10
    assert fleet.members("event-index") == 0


def all_events(service: RunningService) -> list[dict[str, Any]]:
    """By session: an answer has 1000 events at most."""
    answers = [service.get("/v1/events", session_id=f"s{n}", limit=1000).json()["events"] for n in range(50)]
    return [event for answer in answers for event in answer]


def test_every_copy_knows_how_far_behind_the_others_are(new_fleet: Callable[[int], Fleet], tmp_path: Path):
    fleet = new_fleet(8)
    options = ("--database", database(tmp_path / "events.db"))
    one = fleet.start("event-index", *options).wait_ready()
    other = fleet.start("event-index", *options)
    everything = one.partitions()
    for copy in (one, other):
        eventually(copy.partitions, lambda count: 0 < count < everything, 60)

    def freshness(copy: RunningService) -> tuple[int | None, float | None, bool]:
        answer = copy.get("/v1/events", limit=1).json()
        return answer["freshness"]["lag_records"], answer["freshness"]["lag_seconds"], answer["is_partial"]

    fleet.publish(EVENTS)
    for copy in (one, other):
        eventually(lambda copy=copy: event_count(copy), lambda count: count == len(EVENTS))
        eventually(lambda copy=copy: freshness(copy), lambda told: told == (0, 0.0, False))

    os.kill(other.pid, signal.SIGSTOP)
    try:
        # Of many sessions, so that either copy has some.
        fleet.publish(
            [replace(event, event_id=f"again-{n}", session_id=f"again-{n}") for n, event in enumerate(EVENTS)]
        )
        behind = eventually(
            lambda: (event_count(one), freshness(one)),
            lambda told: told[1][0] and told[0] + told[1][0] == 2 * len(EVENTS),
        )
        assert behind[1][1] > 0
    finally:
        os.kill(other.pid, signal.SIGCONT)
    for copy in (one, other):
        eventually(lambda copy=copy: freshness(copy), lambda told: told == (0, 0.0, False), 90)
        assert event_count(copy) == 2 * len(EVENTS)


def test_tail_shows_each_event_once_over_a_crash_of_the_index(new_fleet: Callable[[int], Fleet], tmp_path: Path):
    fleet = new_fleet(2)
    options = ("--database", database(tmp_path / "events.db"), "--port", str(free_port()))
    service = fleet.start("event-index", *options).wait_ready()
    command = [*COMMAND, "tail", "--json", "--lines", "1", "--url", service.url]
    with (tmp_path / "tail.err").open("wb") as errors:
        tail = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
    assert tail.stdout is not None
    try:
        fleet.publish(EVENTS[:1])
        shown = [json.loads(tail.stdout.readline())["event_id"]]
        fleet.publish(EVENTS[1:20])
        service.kill()
        fleet.publish(EVENTS[20:])
        fleet.start("event-index", *options).wait_ready()
        shown += [json.loads(tail.stdout.readline())["event_id"] for _ in EVENTS[1:]]
        tail.send_signal(signal.SIGINT)
        assert tail.stdout.read() == b""
        assert tail.wait(30) == 130
    finally:
        tail.kill()
        tail.wait(30)
        tail.stdout.close()
    assert Counter(shown) == Counter(event.event_id for event in EVENTS)
    assert "Trying again until Ctrl-C." in (tmp_path / "tail.err").read_text()
