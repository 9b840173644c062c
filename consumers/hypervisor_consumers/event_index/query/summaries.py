"""Summaries of rings and sagas, made from their events. Pure.

A payload that doesn't fit its type is skipped: the index holds whatever agents wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.payloads import RingPayload, SagaPayload, read_payload

__all__ = ["RING_TYPES", "SAGA_TYPES", "latest_rings", "summarize_sagas"]

RING_TYPES = [
    kind.value
    for kind in (
        EventType.RING_ASSIGNED,
        EventType.RING_ELEVATED,
        EventType.RING_DEMOTED,
        EventType.RING_ELEVATION_EXPIRED,
    )
]
"""The events that move an agent to a ring."""

SAGA_TYPES = [kind.value for kind in EventType if kind.value.startswith("saga.")]

_STATES = {
    EventType.SAGA_COMPENSATING: "compensating",
    EventType.SAGA_COMPLETED: "completed",
    EventType.SAGA_ESCALATED: "escalated",
}


def latest_rings(
    key: Callable[[HypervisorEvent], str | None], latest_first: Iterable[HypervisorEvent]
) -> dict[str, int]:
    """The ring of each key: the one that its latest event with a ring names."""
    rings: dict[str, int] = {}
    for event in latest_first:
        value = key(event)
        if value is None or value in rings:
            continue
        try:
            ring = read_payload(event.payload, RingPayload).new_ring
        except InvalidPayload:
            continue
        if ring is not None:
            rings[value] = ring
    return rings


def summarize_sagas(latest_first: Iterable[HypervisorEvent]) -> list[dict[str, Any]]:
    """The state, step counts and times of each saga; the saga of the latest event first.

    `state` is `open`, `compensating`, `completed` or `escalated`, by the latest event that determines one.
    """
    sagas: dict[str, dict[str, Any]] = {}
    for event in latest_first:
        try:
            payload = read_payload(event.payload, SagaPayload)
        except InvalidPayload:
            continue
        if payload.saga_id is None:
            continue
        saga = sagas.setdefault(
            str(payload.saga_id),
            {
                "saga_id": str(payload.saga_id),
                "state": "open",
                "steps_committed": 0,
                "steps_failed": 0,
                "last_error": None,
                "last": event.timestamp.isoformat(),
            },
        )
        saga["first"] = event.timestamp.isoformat()
        state = _STATES.get(event.event_type) if isinstance(event.event_type, EventType) else None
        if state is not None and saga["state"] == "open":
            saga["state"] = state
        saga["steps_committed"] += event.event_type is EventType.SAGA_STEP_COMMITTED
        if event.event_type is EventType.SAGA_STEP_FAILED:
            saga["steps_failed"] += 1
            if saga["last_error"] is None and isinstance(payload.error, str):
                saga["last_error"] = payload.error
    return list(sagas.values())
