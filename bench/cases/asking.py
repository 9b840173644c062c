"""Questions to an index of many events while it takes in more: in the database, and over HTTP."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event, Thread

from bench.index_load import AGENTS, BEGAN, SPREAD, batches, fill, session_of, trace_of
from bench.load import emit_steadily
from bench.row import Row
from bench.setting import Setting, seconds_of
from hypervisor_consumers.event_index.questions import Wanted
from hypervisor_consumers.event_index.store import EventStore, open_store
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.services import Fleet, RunningService

EVENTS, PER_SECOND, PARTITIONS, LIMIT = 1_000_000, 2_000, 4, 100
WARM_UP = 20
_KINDS = list(EventType)


@dataclass(frozen=True)
class Question:
    """One filter, as the store and as HTTP take it."""

    wanted: Wanted
    parameters: Mapping[str, str]


def measure(setting: Setting) -> Iterable[Row]:
    samples = 2_000 if setting.full else 500
    yield from _measured(setting, "SQLite", f"sqlite:///{setting.folder}/asked.db", samples)


def _measured(setting: Setting, name: str, url: str, samples: int) -> Iterator[Row]:
    with closing(open_store(url)) as store, setting.fleet(PARTITIONS) as fleet:
        setting.say(f"{name}: {EVENTS:,} events are indexed")
        fill(store, batches(EVENTS))
        service = fleet.start("event-index", "--database", url).wait_ready()
        before = store.event_count()
        with _ingest(fleet):
            for what, ask in QUESTIONS.items():
                setting.say(f"{name}: {samples} questions by {what}")
                yield from _rows(f"{name}, the last {LIMIT} by {what}", store, service, ask, samples)
            if store.event_count() == before:
                raise RuntimeError(f"nothing was taken in meanwhile; the log of the service:\n{service.log}")
        service.close()


def _rows(
    what: str, store: EventStore, service: RunningService, ask: Callable[[random.Random], Question], samples: int
) -> Iterator[Row]:
    chance = random.Random(7)  # noqa: S311 - the same questions in every run
    questions = [ask(chance) for _ in range(WARM_UP + samples)]
    in_database = sorted(seconds_of(lambda one=one: _look(store, one)) for one in questions[WARM_UP:])
    over_http = sorted(seconds_of(lambda one=one: _get(service, one)) for one in questions[WARM_UP:])
    note = f"{EVENTS:,} events, {PER_SECOND:,} a second are taken in; with making the events of the rows."
    yield Row(f"{what}, database p99", "ms", [_p99(in_database) * 1000], floor=10, note=note)
    yield Row(f"{what}, HTTP p99", "ms", [_p99(over_http) * 1000])


def _p99(ascending: list[float]) -> float:
    return ascending[int(0.99 * len(ascending))]


def _look(store: EventStore, question: Question) -> None:
    with store.snapshot() as now:
        now.page(question.wanted, LIMIT)


def _get(service: RunningService, question: Question) -> None:
    service.get("/v1/events", limit=LIMIT, **question.parameters).raise_for_status()


def _by_session(chance: random.Random) -> Question:
    session = session_of(chance.randrange(EVENTS))
    return Question(Wanted(session_id=session), {"session_id": session})


def _by_agent(chance: random.Random) -> Question:
    agent = f"did:mesh:{chance.randrange(AGENTS):032x}"
    return Question(Wanted(agent_did=agent), {"agent_did": agent})


def _by_trace(chance: random.Random) -> Question:
    trace = trace_of(chance.randrange(EVENTS))
    return Question(Wanted(trace_id=trace), {"trace_id": trace})


def _by_type_and_time(chance: random.Random) -> Question:
    kind = chance.choice(_KINDS).value
    start = BEGAN + SPREAD * chance.random() * 0.9
    end = start + timedelta(hours=chance.randrange(1, 48))
    return Question(
        Wanted([kind], start=start, end=end),
        {"event_type": kind, "start": start.isoformat(), "end": end.isoformat()},
    )


QUESTIONS = {
    "session": _by_session,
    "agent": _by_agent,
    "trace": _by_trace,
    "type and time": _by_type_and_time,
}


@contextmanager
def _ingest(fleet: Fleet) -> Iterator[None]:
    """Events of now, for as long as the block runs."""
    with EventPublisher(fleet.bootstrap_servers, topic_prefix=fleet.prefix, environ={}) as publisher:
        bus = HypervisorEventBus()
        publisher.attach(bus)
        over = Event()
        load = Thread(target=emit_steadily, args=(bus, _event_of_now, PER_SECOND, over))
        load.start()
        try:
            yield
        finally:
            over.set()
            load.join()


def _event_of_now(number: int) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=_KINDS[number * 7 % len(_KINDS)],
        timestamp=datetime.now(UTC),
        session_id=f"now-{number // 100}",
        agent_did=f"did:mesh:{number * 7919 % AGENTS:032x}",
        causal_trace_id=f"{secrets.token_hex(6)}/{number % 20:08x}/00000000",
        payload={"ring": number % 4, "reason": f"step {number:08d} of plan"},
    )
