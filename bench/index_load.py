"""Events as an index has them: sessions, agents and traces of a common size, spread over the last month.

    python -m bench.index_load --bootstrap-servers HOST:PORT --prefix PREFIX --per-second N

publishes events of now, so many a second, until it is ended: in a process of its own, so that whoever measures
answers meanwhile doesn't wait for its interpreter.
"""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from threading import Event

from bench.load import Record, emit_steadily
from hypervisor_consumers.event_index.backends.store import EventStore, IndexRow
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import encode_event

__all__ = [
    "AGENTS",
    "BATCH",
    "BEGAN",
    "SPREAD",
    "batches",
    "fill",
    "index_event",
    "index_records",
    "session_of",
    "trace_of",
]

BATCH = 5_000
AGENTS = 1_000
PARTITIONS = 12
SPREAD = timedelta(days=30)
BEGAN = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - SPREAD
"""The first event's time; recent, as on PostgreSQL only weeks of the last two years have partitions."""
TOPIC = "hypervisor.events.bench"

_KINDS = list(EventType)
_PER_SESSION, _PER_TRACE = 100, 20


def session_of(number: int) -> str:
    return f"session-{number // _PER_SESSION:08d}"


def trace_of(number: int) -> str:
    return f"{number // _PER_TRACE:012x}"


def index_event(number: int, count: int) -> HypervisorEvent:
    """The event with this number of `count`; about 300 bytes as a row."""
    return HypervisorEvent(
        event_id=f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}",
        event_type=_KINDS[number * 7 % len(_KINDS)],
        timestamp=BEGAN + SPREAD * (number / count),
        session_id=session_of(number),
        agent_did=f"did:mesh:{number * 7919 % AGENTS:032x}",
        causal_trace_id=f"{trace_of(number)}/{number % _PER_TRACE:08x}/00000000",
        payload={"ring": number % 4, "reason": f"step {number:08d} of plan"},
    )


def batches(count: int) -> Iterator[Sequence[IndexRow]]:
    """Make the rows that a service would write."""
    for first in range(0, count, BATCH):
        yield [
            IndexRow(TOPIC, number % PARTITIONS, number // PARTITIONS, index_event(number, count))
            for number in range(first, min(first + BATCH, count))
        ]


def index_records(count: int) -> Iterator[Record]:
    """Make the records that a publisher would write."""
    for number in range(count):
        event = index_event(number, count)
        yield (event.session_id or "").encode(), encode_event(event)


def fill(store: EventStore, rows: Iterator[Sequence[IndexRow]]) -> None:
    """Write all rows, each batch in a transaction with its offsets."""
    reached: dict[tuple[str, int], int] = {}
    for batch in rows:
        moved = {(row.topic, row.partition): row.offset + 1 for row in batch}
        store.write(batch, {place: (reached.get(place), offset) for place, offset in moved.items()})
        reached |= moved


def _event_of_now(number: int) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=_KINDS[number * 7 % len(_KINDS)],
        timestamp=datetime.now(UTC),
        session_id=f"now-{number // _PER_SESSION}",
        agent_did=f"did:mesh:{number * 7919 % AGENTS:032x}",
        causal_trace_id=f"{secrets.token_hex(6)}/{number % _PER_TRACE:08x}/00000000",
        payload={"ring": number % 4, "reason": f"step {number:08d} of plan"},
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.index_load")
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--per-second", type=int, required=True)
    options = parser.parse_args()
    with EventPublisher(options.bootstrap_servers, topic_prefix=options.prefix, environ={}) as publisher:
        bus = HypervisorEventBus()
        publisher.attach(bus)
        emit_steadily(bus, _event_of_now, options.per_second, Event())  # until somebody ends this process


if __name__ == "__main__":
    main()
