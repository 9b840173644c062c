"""Governance records as events, for the publisher or the bus of this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from hypervisor_producers.governance.errors import TroubleCounts
from hypervisor_schemas.events import GovernanceEventType, HypervisorEvent

__all__ = ["Emits", "GovernanceEvents", "Publishes"]


@runtime_checkable
class Publishes(Protocol):
    """An `EventPublisher`: it sends events to Kafka."""

    def publish(self, event: Any) -> object:
        """Queue one event."""
        ...


@runtime_checkable
class Emits(Protocol):
    """A bus, ours or the package's: it hands events to its subscribers, such as a publisher attached to it."""

    def emit(self, event: Any) -> object:
        """Hand one event to every subscriber."""
        ...


class GovernanceEvents:
    """Sends events to a publisher or a bus; with None, to nobody.

    Raises:
        ValueError: `target` is neither a publisher nor a bus.
    """

    def __init__(self, target: Publishes | Emits | None, troubles: TroubleCounts) -> None:
        self._send = _discard if target is None else _sender(target)
        self._troubles = troubles
        self.is_on = target is not None

    def emit(
        self,
        event_type: GovernanceEventType,
        agent_id: str | None,
        payload: dict[str, Any],
        session_id: str | None = None,
        causal_trace_id: str | None = None,
    ) -> None:
        """Send one event. Never raises."""
        if not self.is_on:
            return
        try:
            self._send(
                HypervisorEvent(
                    event_type=event_type,
                    session_id=session_id,
                    agent_did=agent_id,
                    causal_trace_id=causal_trace_id,
                    payload=payload,
                )
            )
        except Exception as error:  # noqa: BLE001 - code of a bus; a publisher never raises
            self._troubles.report("output", "The bus failed to take an event.", error=error)


def _sender(target: object) -> Callable[[Any], object]:
    if isinstance(target, Publishes):
        return target.publish
    if isinstance(target, Emits):
        return target.emit
    raise ValueError(
        f"publisher must be an EventPublisher or a HypervisorEventBus; {type(target).__name__} has neither publish "
        "nor emit."
    )


def _discard(_event: Any) -> None:
    """Send an event to nobody."""
