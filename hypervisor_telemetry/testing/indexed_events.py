"""The bus's queries, answered by the event index of a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.query.queries import EventFilter
from hypervisor_schemas.events import HypervisorEvent, type_value
from hypervisor_telemetry.testing.clock import Clock

__all__ = ["IndexedEvents"]

_PAGE_EVENTS = 500


class IndexedEvents:
    """The query methods of `HypervisorEventBus` on the event index, as `RemoteEventBus` has them in production.

    Every query includes all that was published before it. Events come in the order of the time they happened, then
    of their place in Kafka.
    """

    def __init__(self, store: EventStore, settle: Callable[[], None], clock: Clock) -> None:
        self._store = store
        self._settle = settle
        self._clock = clock

    def query_by_type(self, event_type: str) -> list[HypervisorEvent]:
        """Return all events of this type, oldest first."""
        return self.query(event_type=event_type)

    def query_by_session(self, session_id: str) -> list[HypervisorEvent]:
        """Return all events of this session, oldest first."""
        return self.query(session_id=session_id)

    def query_by_agent(self, agent_did: str) -> list[HypervisorEvent]:
        """Return all events of this agent, oldest first."""
        return self.query(agent_did=agent_did)

    def query_by_time_range(self, start: datetime, end: datetime | None = None) -> list[HypervisorEvent]:
        """Return all events from `start` to `end`, both inclusive. Without a time zone they are UTC.

        Without `end` it is now, by the pipeline's clock or the machine's, whichever is later.
        """
        last = max(self._clock.now(), datetime.now(UTC)) if end is None else end
        return self._find(EventFilter(start=start, end=last))

    def query(
        self,
        event_type: str | None = None,
        session_id: str | None = None,
        agent_did: str | None = None,
        limit: int | None = None,
    ) -> list[HypervisorEvent]:
        """Return the events that match every filter given, oldest first; with `limit`, the last that many of them.

        Raises:
            ValueError: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, or None for no limit; {limit} is neither.")
        kinds = None if event_type is None else [type_value(event_type)]
        return self._find(EventFilter(kinds, session_id=session_id, agent_did=agent_did), limit)

    @property
    def event_count(self) -> int:
        """The number of events in the index."""
        self._settle()
        return self._store.event_count()

    def type_counts(self) -> dict[str, int]:
        """Return the number of events of each type, by the type's value; a type without events is absent."""
        self._settle()
        return self._store.type_counts()

    def _find(self, event_filter: EventFilter, limit: int | None = None) -> list[HypervisorEvent]:
        self._settle()
        latest_first: list[HypervisorEvent] = []
        position = None
        with self._store.snapshot() as snapshot:
            while limit is None or len(latest_first) < limit:
                size = _PAGE_EVENTS if limit is None else min(_PAGE_EVENTS, limit - len(latest_first))
                page = snapshot.page(event_filter, size, position)
                latest_first += page.events
                position = page.resume_at
                if position is None:
                    break
        return latest_first[::-1]
