"""saga-spans with the null sink, state and transactions on, beside Quix Streams that keeps the same state."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from bench.load import Record, working_off, write_plainly
from bench.peers.rate import rate_of
from bench.peers.running import PEERS, Peer, in_python, why_not
from bench.row import Row
from bench.setting import Setting
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import encode_event
from tests.support.service_processes import Fleet, RunningService

OURS = "saga-spans"
PARTITIONS = 8
SESSIONS = 10_000
WARM_UP = 50_000
STAGES = 8
"""The number of events of a saga: created, three steps that start and end, completed."""

SPANS_OF_A_SAGA = 4
COUNT = struct.Struct(">q")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

QUIX = Peer(
    "Quix Streams exactly-once",
    "It makes the same spans from the same state, a row of msgpack per open saga; it has no window of ids, no "
    "metrics, no time-outs, remembers no saga that has ended, and takes records one by one.",
    in_python("sagas_with_quix"),
    package="quixstreams",
    commits=True,
    changelog=next(peer.changelog for peer in PEERS if peer.package == "quixstreams"),
    # A row that is as long as this, and only such a one, is a number of spans.
    count_of=lambda row: COUNT.unpack(row)[0] if len(row) == COUNT.size else 0,
    warm_up=WARM_UP // 5,
)


def measure(setting: Setting) -> Iterable[Row]:
    count, fewer = (1_600_000, 480_000) if setting.full else (480_000, 160_000)
    has_peer = (why := why_not(QUIX)) is None
    if not has_peer:
        setting.say(f"{QUIX.name} is left out: {why}")
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(setting.rounds):
        with setting.fleet(PARTITIONS) as fleet:
            setting.say(f"round {number + 1} of {setting.rounds}: writing {count:,} events")
            write_plainly(fleet, fleet.topic("saga"), list(saga_records(count)))
            setting.say(f"round {number + 1} of {setting.rounds}: {OURS}")
            ours.append(_ours(fleet, count))
        if not has_peer:
            continue
        with setting.fleet(PARTITIONS) as fleet:
            write_plainly(fleet, fleet.topic("saga"), list(saga_records(fewer)))
            setting.say(f"round {number + 1} of {setting.rounds}: {QUIX.name}")
            theirs.append(rate_of(QUIX, fleet, fleet.topic("saga"), fewer, spans_of(fewer)))
    what = f"{OURS}, null sink, exactly-once, one process"
    load = f"{count:,} events of {SESSIONS:,} sessions, {PARTITIONS} partitions, {STAGES} events a saga."
    note = f"{load} {QUIX.not_equal}"
    yield Row(what, "events/s", ours, QUIX.name if theirs else "", theirs, 3 if theirs else None, 6, note)


def saga_records(count: int) -> Iterator[Record]:
    """Make sagas: several sessions side by side, one saga after the other in each."""
    for number in range(count):
        event = saga_event(number)
        yield (event.session_id or "").encode(), encode_event(event)


def saga_event(number: int) -> HypervisorEvent:
    session, turn = number % SESSIONS, number // SESSIONS
    saga, stage = divmod(turn, STAGES)
    payload = {"saga_id": f"deploy-{saga}"}
    if stage == 0:
        kind = EventType.SAGA_CREATED
    elif stage == STAGES - 1:
        kind = EventType.SAGA_COMPLETED
    else:
        kind = EventType.SAGA_STEP_STARTED if stage % 2 else EventType.SAGA_STEP_COMMITTED
        step = (stage - 1) // 2
        payload |= {"step_id": f"step-{step}", "step_action": ("validate", "migrate", "switch")[step]}
        if stage % 2 == 0:
            payload["result"] = f"{number} checks passed"
    return HypervisorEvent(
        event_type=kind,
        timestamp=NOON + timedelta(milliseconds=number),
        session_id=f"session-{session:05}",
        agent_did=f"did:mesh:agent-{session % 500}",
        causal_trace_id=f"{session:06x}{saga:06x}/{session:08x}",
        payload=payload,
    )


def spans_of(count: int) -> int:
    """Return the number of spans that so many events make."""
    turns, rest = divmod(count, SESSIONS)
    sagas, stages = divmod(turns, STAGES)
    if rest:
        raise ValueError(f"{count:,} is no multiple of {SESSIONS:,}")
    return SESSIONS * (sagas * SPANS_OF_A_SAGA + max(0, stages - 1) // 2)


def _ours(fleet: Fleet, count: int) -> float:
    service = fleet.start(OURS, "--sink", "null")
    try:
        rate = working_off(fleet, fleet.prefix + OURS, fleet.topic("saga"), count, WARM_UP)
        if (spans := _spans(service)) != spans_of(count):
            raise AssertionError(f"{OURS} has made {spans:,} spans of {spans_of(count):,}")
    finally:
        service.close()
    return rate


def _spans(service: RunningService) -> int:
    counters = ("agent_hypervisor_sagas_total", "agent_hypervisor_saga_steps_total")
    return int(sum(sum(service.metrics(name).values()) for name in counters))
