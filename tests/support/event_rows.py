"""Events and rows that tests of the index write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from hypervisor_consumers.event_index.tables import IndexRow
from hypervisor_schemas.events import EventType, HypervisorEvent

RING = "hypervisor.events.ring"
SAGA = "hypervisor.events.saga"
NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)


def ring_event(number: int, **fields: Any) -> HypervisorEvent:
    return HypervisorEvent(
        **{
            "event_id": f"{number:016x}",
            "event_type": EventType.RING_ASSIGNED,
            "timestamp": NOON + timedelta(seconds=number),
            "session_id": "s1",
            "agent_did": "did:mesh:a",
            **fields,
        }
    )


def ring_rows(*numbers: int, **fields: Any) -> list[IndexRow]:
    return [IndexRow(RING, 0, number, ring_event(number, **fields)) for number in numbers]


def ids(events: list[HypervisorEvent]) -> list[int]:
    return [int(event.event_id, 16) for event in events]


@dataclass
class Clock:
    """A clock in seconds since 1970; a test moves it by setting `now`."""

    now: float = NOON.timestamp()

    def __call__(self) -> float:
        return self.now
