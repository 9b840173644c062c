"""Events as an index has them: sessions, agents and traces of a common size, spread over a month."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from hypervisor_consumers.event_index.store import EventStore, IndexRow
from hypervisor_schemas.events import EventType, HypervisorEvent

__all__ = ["AGENTS", "BATCH", "BEGAN", "SPREAD", "batches", "fill", "index_event", "session_of", "trace_of"]

BATCH = 5_000
AGENTS = 1_000
PARTITIONS = 12
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SPREAD = timedelta(days=30)
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
    """As a service would write them."""
    for first in range(0, count, BATCH):
        yield [
            IndexRow(TOPIC, number % PARTITIONS, number // PARTITIONS, index_event(number, count))
            for number in range(first, min(first + BATCH, count))
        ]


def fill(store: EventStore, rows: Iterator[Sequence[IndexRow]]) -> None:
    """Write them all, each batch in a transaction with its offsets."""
    reached: dict[tuple[str, int], int] = {}
    for batch in rows:
        moved = {(row.topic, row.partition): row.offset + 1 for row in batch}
        store.write(batch, {place: (reached.get(place), offset) for place, offset in moved.items()})
        reached |= moved
