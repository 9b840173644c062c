"""Questions to an index of many events while it takes in more: in the database, and over HTTP.

Three processes beside Kafka and the database: this one asks, one question after the other; the service takes in and
answers; another one publishes.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeAlias

from bench.index_load import AGENTS, BEGAN, SPREAD, batches, fill, session_of, trace_of
from bench.resident import resident
from bench.row import Row
from bench.setting import Setting, seconds_of
from hypervisor_consumers.event_index.backends.store import EventStore, open_store
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_schemas.events import EventType
from hypervisor_telemetry.local.child import Child
from tests.support.postgres import opened
from tests.support.service_processes import Fleet, RunningService, eventually

EVENTS, PER_SECOND, PARTITIONS, LIMIT = 1_000_000, 2_000, 4, 100
WARM_UP = 50
FLOOR = 10
_KINDS = list(EventType)

Times: TypeAlias = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Question:
    """A filter in two forms: for the store and for HTTP."""

    wanted: EventFilter
    parameters: Mapping[str, str]


def measure(setting: Setting) -> Iterable[Row]:
    samples = 2_000 if setting.full else 500
    path = setting.folder / "asked.db"
    yield from _measured(setting, "SQLite", f"sqlite:///{path}", lambda: path.stat().st_size, samples)
    if (server := setting.postgres) is not None:
        url = server.new_database()
        yield from _measured(setting, "PostgreSQL", url, lambda: _settled(url), samples)


def _settled(url: str) -> int:
    """Run vacuum and checkpoint now, which would run soon by themselves; return the bytes on disk."""
    with opened(url) as connection:
        connection.execute("VACUUM (ANALYZE) events")
        connection.execute("CHECKPOINT")
        [size] = connection.execute("SELECT pg_database_size(current_database())").fetchone() or [0]
        return int(size)


def _measured(setting: Setting, name: str, url: str, settled: Callable[[], int], samples: int) -> Iterator[Row]:
    with closing(open_store(url)) as store, setting.fleet(PARTITIONS) as fleet:
        setting.say(f"{name}: {EVENTS:,} events are indexed")
        empty = settled()
        fill(store, batches(EVENTS))
        yield Row(f"{name}, on disk", "bytes/event", [(settled() - empty) / EVENTS])
        service = fleet.start("event-index", "--database", url).wait_ready()
        with _publishing(fleet):
            eventually(store.event_count, lambda count: count >= EVENTS + PER_SECOND)
            before, began = store.event_count(), time.monotonic()
            works = {what: partial(_asked, store, service, ask, samples) for what, ask in QUESTIONS.items()}
            times = _in_rounds(setting, name, works)
            rate = (store.event_count() - before) / (time.monotonic() - began)
        note = (
            f"{samples:,} questions a round, {EVENTS:,} events, {PER_SECOND:,} a second are taken in; until the "
            "last row is read, by a process that does nothing else."
        )
        for what, rounds in times.items():
            for way, floor, note_of_way in (("database", FLOOR, note), ("HTTP", None, "")):
                for percent in (50, 99):
                    figures = [_percentile(one[way], percent) for one in rounds]
                    yield Row(
                        f"{name}, the last {LIMIT} by {what}, {way} p{percent}",
                        "ms",
                        figures,
                        floor=floor,
                        note=note_of_way,
                    )
        yield Row(f"{name}, taken in meanwhile", "events/s", [rate])
        yield Row(f"{name}, the service's memory", "MB", [resident(service.pid)])
        service.close()


def _publishing(fleet: Fleet) -> Child:
    options = ("--bootstrap-servers", fleet.bootstrap_servers, "--prefix", fleet.prefix, "--per-second", PER_SECOND)
    return Child(
        [sys.executable, "-m", "bench.index_load", *map(str, options)],
        env={**os.environ},
        cwd=Path(__file__).parents[2],
        grace=0,
        name="the load",
    )


def _in_rounds(
    setting: Setting, name: str, works: Mapping[str, Callable[[int], Times]]
) -> Mapping[str, Sequence[Times]]:
    """Ask every kind of query once a round, so that a disturbance affects all of them."""
    times: dict[str, list[Times]] = {what: [] for what in works}
    for number in range(setting.rounds):
        for what, work in works.items():
            setting.say(f"{name}, round {number + 1} of {setting.rounds}: by {what}")
            times[what].append(work(number))
    return times


def _asked(
    store: EventStore, service: RunningService, ask: Callable[[random.Random], Question], samples: int, seed: int
) -> Times:
    """Return the seconds of the answers, ascending, by interface (database or HTTP)."""
    chance = random.Random(seed)  # noqa: S311 - the same questions in every run
    database, http = [], []
    for one in [ask(chance) for _ in range(WARM_UP + samples)]:
        # In turn, so that whatever else goes on meets both.
        database.append(seconds_of(partial(_look, store, one)))
        http.append(seconds_of(partial(_get, service, one)))
    return {"database": sorted(database[WARM_UP:]), "HTTP": sorted(http[WARM_UP:])}


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """Return a quantile in milliseconds."""
    return ascending[len(ascending) * percent // 100] * 1000


def _look(store: EventStore, question: Question) -> None:
    with store.snapshot() as snapshot:
        snapshot.page(question.wanted, LIMIT)


def _get(service: RunningService, question: Question) -> None:
    service.get("/v1/events", limit=LIMIT, **question.parameters).raise_for_status()


def _by_session(chance: random.Random) -> Question:
    session = session_of(chance.randrange(EVENTS))
    return Question(EventFilter(session_id=session), {"session_id": session})


def _by_agent(chance: random.Random) -> Question:
    agent = f"did:mesh:{chance.randrange(AGENTS):032x}"
    return Question(EventFilter(agent_did=agent), {"agent_did": agent})


def _by_trace(chance: random.Random) -> Question:
    trace = trace_of(chance.randrange(EVENTS))
    return Question(EventFilter(trace_id=trace), {"trace_id": trace})


def _by_type_and_time(chance: random.Random) -> Question:
    kind = chance.choice(_KINDS).value
    start = BEGAN + SPREAD * chance.random() * 0.9
    end = start + timedelta(hours=chance.randrange(1, 48))
    return Question(
        EventFilter([kind], start=start, end=end),
        {"event_type": kind, "start": start.isoformat(), "end": end.isoformat()},
    )


QUESTIONS = {
    "session": _by_session,
    "agent": _by_agent,
    "trace": _by_trace,
    "type and time": _by_type_and_time,
}
