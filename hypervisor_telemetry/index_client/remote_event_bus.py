"""`RemoteEventBus`: the bus's query methods, answered for the whole fleet. Runs in the base install."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice

from hypervisor_schemas.events import HypervisorEvent, type_value
from hypervisor_schemas.public import public
from hypervisor_telemetry.index_client.client import IndexClient

__all__ = ["RemoteEventBus"]

_PAGE_SIZE = 500
"""The most events of one answer. Larger pages would make a query for a few events cost as much as for many."""


@public
class RemoteEventBus:
    """The query methods of `HypervisorEventBus`, answered by the `event-index` at `url` for the whole fleet.

    Events come in the order of their times, then of their offsets in Kafka. Events that were published a moment ago
    may be missing; `wait_for(publisher.flush().token)` returns when they are there. Nothing is kept between two
    calls, so threads may share it. `url` is `http[s]://host[:port][/path]`; `token` the service's
    `TELEMETRY_API_TOKEN`, sent to that address only: redirects aren't followed. A request takes `timeout` seconds,
    twice as long at most.

    Raises:
        SettingError: `url` can't be used.

    Every method raises:
        IndexUnavailable: The index can't be reached or can't answer now; the same may succeed later.
        IndexRefused: It refused: without the right token, or for a value out of its bounds.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 10.0) -> None:
        self._client = IndexClient(url, token, timeout=timeout)

    def query_by_type(self, event_type: str) -> list[HypervisorEvent]:
        """All events of this type, oldest first."""
        return self.query(event_type=event_type)

    def query_by_session(self, session_id: str) -> list[HypervisorEvent]:
        """All events of this session, oldest first."""
        return self.query(session_id=session_id)

    def query_by_agent(self, agent_did: str) -> list[HypervisorEvent]:
        """All events of this agent, oldest first."""
        return self.query(agent_did=agent_did)

    def query_by_time_range(self, start: datetime, end: datetime | None = None) -> list[HypervisorEvent]:
        """All events from `start` to `end` (now, if None), both inclusive. Without a time zone they are UTC."""
        last = datetime.now(UTC) if end is None else end
        return _oldest_first(self._latest_first(None, start=start.isoformat(), end=last.isoformat()))

    def query(
        self,
        event_type: str | None = None,
        session_id: str | None = None,
        agent_did: str | None = None,
        limit: int | None = None,
    ) -> list[HypervisorEvent]:
        """The events that match every filter given, oldest first; with `limit`, the last that many of them.

        Raises:
            ValueError: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, or None for no limit; {limit} is neither.")
        if limit == 0:
            return []
        filters = {
            "event_type": None if event_type is None else type_value(event_type),
            "session_id": session_id,
            "agent_did": agent_did,
        }
        return _oldest_first(self._latest_first(limit, **filters))

    @property
    def event_count(self) -> int:
        """The number of events in the index."""
        return int(self._client.ask("/v1/stats")["event_count"])

    def type_counts(self) -> dict[str, int]:
        """The number of events of each type in the index, by the type's value; a type without events is absent."""
        return dict(self._client.ask("/v1/stats")["type_counts"])

    def wait_for(self, token: str, seconds: float = 5.0) -> None:
        """Wait until the index includes the events up to a publisher's `flush().token`, for `seconds` (at most 30).

        Raises:
            IndexUnavailable: It doesn't by then; the sentence names the missing partition and offset.
        """
        self._client.ask("/v1/stats", {"after": token, "wait": str(seconds)}, wait_seconds=seconds)

    def _latest_first(self, limit: int | None, **filters: str | None) -> Iterator[HypervisorEvent]:
        return islice(self._pages(_PAGE_SIZE if limit is None else min(limit, _PAGE_SIZE), filters), limit)

    def _pages(self, size: int, filters: dict[str, str | None]) -> Iterator[HypervisorEvent]:
        cursor, exact = None, filters.get("event_type")
        while True:
            page = {"order": "desc", "limit": str(size), "cursor": cursor}
            answer = self._client.ask("/v1/events", {**page, **filters})
            for data in answer["events"]:
                # For the index a word without a dot is a category, for a bus it is a type like any other.
                if exact in {None, data["event_type"]}:
                    yield HypervisorEvent.from_dict(data)
            cursor = answer["next"]
            if cursor is None:
                return


def _oldest_first(events: Iterator[HypervisorEvent]) -> list[HypervisorEvent]:
    return list(events)[::-1]
