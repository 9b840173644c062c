"""One suite for the bus of a process and the two that ask an index: same questions, same answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from fastapi import FastAPI

from hypervisor_consumers.event_index.api.routes import create_router
from hypervisor_consumers.event_index.backends.store import IndexRow, open_store
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.ops.http import HttpServer
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent, event_type_of, type_value
from hypervisor_schemas.topics import event_topic
from hypervisor_telemetry import HypervisorEventBus, RemoteEventBus
from hypervisor_telemetry.testing import Pipeline

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Bus(Protocol):
    """The methods of all."""

    def query_by_type(self, event_type: str) -> list[HypervisorEvent]: ...
    def query_by_session(self, session_id: str) -> list[HypervisorEvent]: ...
    def query_by_agent(self, agent_did: str) -> list[HypervisorEvent]: ...
    def query_by_time_range(self, start: datetime, end: datetime | None = None) -> list[HypervisorEvent]: ...
    def query(
        self,
        event_type: str | None = None,
        session_id: str | None = None,
        agent_did: str | None = None,
        limit: int | None = None,
    ) -> list[HypervisorEvent]: ...
    def type_counts(self) -> dict[str, int]: ...
    @property
    def event_count(self) -> int: ...


class World:
    """A bus, and a way to put events into it."""

    def __init__(self, bus: Bus, emit: Any) -> None:
        self.bus = bus
        self._emit = emit
        self._seconds = count()

    def emit(self, kind: Any = EventType.RING_ASSIGNED, **fields: Any) -> HypervisorEvent:
        """Add an event, a second after the one before."""
        at = NOON + next(self._seconds) * SECOND
        event = HypervisorEvent(**{"event_type": kind, "timestamp": at, **fields})
        self._emit(event)
        return event


@pytest.fixture(
    params=["in this process", "in a test", "on sqlite", pytest.param("on postgresql", marks=pytest.mark.full)]
)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "in this process":
        bus = HypervisorEventBus()
        yield World(bus, bus.emit)
        return
    if request.param == "in a test":
        with Pipeline() as pipeline:
            yield World(pipeline.events, pipeline.bus.emit)
        return
    if request.param == "on sqlite":
        database = f"sqlite:///{tmp_path}/index.db"
    else:
        database = request.getfixturevalue("postgres").new_database()
    with closing(open_store(database)) as store:

        def write(event: HypervisorEvent) -> None:
            place = event_topic("t.", type_value(event.event_type)), 3
            at = store.next_offset(*place)
            store.write([IndexRow(*place, at or 0, event)], {place: (at, (at or 0) + 1)})

        app = FastAPI()
        app.include_router(create_router(store, IndexFreshness(RuntimeMetrics(), lambda: 0.0), "s3cret"))
        with closing(HttpServer(app, "127.0.0.1", 0)) as server:
            yield World(RemoteEventBus(server.url, "s3cret"), write)


def test_an_empty_bus_has_nothing(world: World) -> None:
    assert world.bus.query() == []
    assert world.bus.query_by_session("s1") == []
    assert world.bus.event_count == 0
    assert world.bus.type_counts() == {}


def test_an_event_comes_back_as_it_was(world: World) -> None:
    event = world.emit(
        EventType.SAGA_STEP_FAILED,
        timestamp=NOON + timedelta(microseconds=1),
        session_id="sé/&?=+ #",
        agent_did="did:mesh:日本語",
        causal_trace_id="a1b2c3d4e5f6/89abcdef/01234567",
        parent_event_id="00000000000000fe",
        payload={"nested": {"list": [1, {"deep": None}], "text": "naïve 😀"}, "big": 2**70, "half": 0.5},
    )
    [found] = world.bus.query()
    assert found == event
    assert type(found.event_type) is EventType
    assert world.bus.query_by_session("sé/&?=+ #") == world.bus.query_by_agent("did:mesh:日本語") == [event]


def test_each_way_of_asking_gives_the_events_that_fit_oldest_first(world: World) -> None:
    events = [
        world.emit(kind, session_id=f"s{n % 2}", agent_did=f"did:{n % 3}")
        for n, kind in enumerate([EventType.RING_ASSIGNED, EventType.SAGA_CREATED, EventType.RING_ASSIGNED] * 4)
    ]
    assert world.bus.query() == events
    ring = [event for event in events if event.event_type is EventType.RING_ASSIGNED]
    assert world.bus.query_by_type(EventType.RING_ASSIGNED) == world.bus.query_by_type("ring.assigned") == ring
    assert world.bus.query_by_session("s1") == events[1::2]
    assert world.bus.query_by_agent("did:2") == events[2::3]
    assert world.bus.query("ring.assigned", "s0", "did:0") == events[0::6]
    assert world.bus.query(event_type="ring.assigned", session_id="s0", agent_did="did:1") == []
    assert world.bus.query(limit=5) == events[-5:]
    assert world.bus.query(session_id="s1", limit=2) == events[-3::2]
    assert world.bus.query(limit=0) == []
    assert world.bus.query(limit=100) == events


def test_more_events_than_an_answer_holds_all_come(world: World) -> None:
    events = [world.emit(session_id="long") for _ in range(1203)]
    assert world.bus.query_by_session("long") == events
    assert world.bus.query(limit=1101) == events[-1101:]
    assert world.bus.query(limit=1203) == events


def test_a_type_is_one_type_and_never_its_category(world: World) -> None:
    [elevated, word, dotted] = [world.emit(event_type_of(kind)) for kind in ("ring.elevated", "ring", "ring.")]
    assert world.bus.query_by_type("ring") == [word]
    assert world.bus.query_by_type("ring.") == [dotted]
    assert world.bus.query(event_type="ring.elevated") == [elevated]
    assert world.bus.query(event_type="ring", limit=1) == [word]
    assert world.bus.query_by_type("") == []


def test_an_empty_text_is_a_filter_not_its_absence(world: World) -> None:
    world.emit(session_id="s1")
    empty = world.emit(session_id="", agent_did="")
    assert world.bus.query_by_session("") == world.bus.query_by_agent("") == [empty]


def test_a_time_range_is_inclusive_and_naive_times_are_utc(world: World) -> None:
    events = [world.emit() for _ in range(5)]
    assert world.bus.query_by_time_range(NOON + SECOND, NOON + 3 * SECOND) == events[1:4]
    naive = (NOON + SECOND).replace(tzinfo=None)
    assert world.bus.query_by_time_range(naive, naive + SECOND) == events[1:3]
    elsewhere = timezone(timedelta(hours=5, minutes=45))
    assert world.bus.query_by_time_range((NOON + 4 * SECOND).astimezone(elsewhere)) == events[4:]
    assert world.bus.query_by_time_range(NOON + SECOND, NOON) == []


def test_without_an_end_a_time_range_ends_now(world: World) -> None:
    past = world.emit()
    world.emit(timestamp=datetime.now(UTC) + timedelta(days=1))
    assert world.bus.query_by_time_range(NOON) == [past]


def test_types_are_counted(world: World) -> None:
    kinds = [EventType.RING_ASSIGNED, GovernanceEventType.TRUST_SCORE, event_type_of("quantum.entangled")]
    for kind in [*kinds, EventType.RING_ASSIGNED]:
        world.emit(kind)
    assert world.bus.event_count == 4
    assert world.bus.type_counts() == {"ring.assigned": 2, "governance.trust_score": 1, "quantum.entangled": 1}


def test_a_negative_limit_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="limit must be 0 or more, or None for no limit; -1 is neither"):
        world.bus.query(limit=-1)
