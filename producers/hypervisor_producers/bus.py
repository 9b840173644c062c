"""The event bus of an agent: a bounded log in memory with indexes over it, and subscribers.

Names and results are those of the tutorial and of the `agent-hypervisor` package. Events may be of the package's
own class: only attributes are read, and event types are compared by their values.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import TypeAlias
from weakref import WeakSet

from hypervisor_schemas.events import EventType, HypervisorEvent, type_value
from hypervisor_schemas.public import public
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["EventHandler", "HypervisorEventBus"]

log = logging.getLogger(__name__)

EventHandler: TypeAlias = Callable[[HypervisorEvent], object]
"""A function that is called with every event it subscribed to, on the emitting thread. Its result is ignored."""

# An event with its sequence number and the keys it is indexed by. The keys are kept because an event of another
# class may change them later, and eviction must find the same indexes again.
_Entry: TypeAlias = tuple[int, HypervisorEvent, str, str | None, str | None]
_NO_ENTRIES: deque[_Entry] = deque()


@public
class HypervisorEventBus:
    """An append-only log of the latest `max_events` events, with queries and subscribers. Thread-safe.

    When the log is full, each event pushes the oldest one out of the log and of every index. With None there is no
    bound. `clock` gives seconds; only the rate of error reports depends on it.

    Raises:
        ValueError: `max_events` is negative.
    """

    def __init__(self, max_events: int | None = 100_000, *, clock: Callable[[], float] = time.monotonic) -> None:
        if max_events is not None and max_events < 0:
            raise ValueError(f"max_events must be 0 or more, or None for no bound; {max_events} is neither.")
        self._max_events = max_events
        self._next_sequence = 0
        self._log: deque[_Entry] = deque()
        self._by_type: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        self._by_session: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        self._by_agent: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        # Tuples, replaced and never changed: emit uses them without a copy.
        self._handlers_by_type: dict[str, tuple[EventHandler, ...]] = {}
        self._handlers_of_all_types: tuple[EventHandler, ...] = ()
        self._handler_errors = 0
        self._limited = RateLimitedLog(log, clock=clock)
        self._new_lock()
        _buses.add(self)

    def _new_lock(self) -> None:
        # Reentrant: a signal handler may emit while its own thread is inside.
        self._lock = threading.RLock()

    def emit(self, event: HypervisorEvent) -> None:
        """Append `event` and call its subscribers: those of its type first, then those of all types.

        Handlers run on this thread, after the lock is released, in the order they subscribed. They may emit and
        subscribe. A handler that raises is logged and counted; the other handlers and the caller go on.
        """
        kind, session_id, agent_did = event.event_type, event.session_id, event.agent_did
        # An enum's `value` is a property in Python code: a tenth of an emit.
        event_type = kind._value_ if type(kind) is EventType else type_value(kind)
        with self._lock:
            # Look up first, append afterwards: a key that can't be hashed raises here, and nothing has changed.
            agent_log = None if agent_did is None else self._by_agent[agent_did]
            session_log = None if session_id is None else self._by_session[session_id]
            type_log = self._by_type[event_type]
            entry = (self._next_sequence, event, event_type, session_id, agent_did)
            self._next_sequence += 1
            self._log.append(entry)
            type_log.append(entry)
            if session_log is not None:
                session_log.append(entry)
            if agent_log is not None:
                agent_log.append(entry)
            if self._max_events is not None and len(self._log) > self._max_events:
                self._evict_oldest()
            handlers = self._handlers_by_type.get(event_type, ()) + self._handlers_of_all_types
        for handler in handlers:
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - the emitter must not suffer from a handler
                self._handler_failed(handler, event_type, error)

    def subscribe(self, event_type: str | None = None, handler: EventHandler | None = None) -> None:
        """Call `handler` with every later event of `event_type`, or of all types if that is None.

        The type may be ours, the package's own or a plain string. Without a handler, nothing happens.
        """
        if handler is None:
            return
        with self._lock:
            if event_type is None:
                self._handlers_of_all_types += (handler,)
            else:
                key = type_value(event_type)
                self._handlers_by_type[key] = (*self._handlers_by_type.get(key, ()), handler)

    def query_by_type(self, event_type: str) -> list[HypervisorEvent]:
        """All events of this type, oldest first."""
        return self._all_of(self._by_type, type_value(event_type))

    def query_by_session(self, session_id: str) -> list[HypervisorEvent]:
        """All events of this session, oldest first."""
        return self._all_of(self._by_session, session_id)

    def query_by_agent(self, agent_did: str) -> list[HypervisorEvent]:
        """All events of this agent, oldest first."""
        return self._all_of(self._by_agent, agent_did)

    def query_by_time_range(self, start: datetime, end: datetime | None = None) -> list[HypervisorEvent]:
        """All events from `start` to `end` (now, if None), both inclusive, in the order they were emitted.

        A datetime without a time zone counts as UTC. It reads the whole log: an event has the time it happened at,
        and events don't come in the order of these times.
        """
        first, last = _utc(start), datetime.now(UTC) if end is None else _utc(end)
        return [event for event in self.all_events if first <= _utc(event.timestamp) <= last]

    def query(
        self,
        event_type: str | None = None,
        session_id: str | None = None,
        agent_did: str | None = None,
        limit: int | None = None,
    ) -> list[HypervisorEvent]:
        """The events that match every given filter, oldest first; with `limit`, the last that many of them.

        It reads the shortest of the indexes that apply, from its end, and stops at the limit.

        Raises:
            ValueError: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, or None for no limit; {limit} is neither.")
        key = None if event_type is None else type_value(event_type)
        with self._lock:
            indexes: list[deque[_Entry]] = []
            if key is not None:
                indexes.append(self._by_type.get(key, _NO_ENTRIES))
            if session_id is not None:
                indexes.append(self._by_session.get(session_id, _NO_ENTRIES))
            if agent_did is not None:
                indexes.append(self._by_agent.get(agent_did, _NO_ENTRIES))
            shortest = min(indexes, key=len, default=self._log)
            # Copied under the lock, filtered outside: emitters wait for one C call (0.5 ms at 100,000 entries),
            # and an emit from a signal handler can't change the index while it is walked.
            newest_first = list(islice(reversed(shortest), limit if len(indexes) < 2 else None))
        if len(indexes) < 2:
            found = [entry[1] for entry in newest_first]
        else:
            matches = (
                event
                for _, event, its_type, its_session, its_agent in newest_first
                if (key is None or its_type == key)
                and (session_id is None or its_session == session_id)
                and (agent_did is None or its_agent == agent_did)
            )
            found = list(islice(matches, limit))
        found.reverse()
        return found

    @property
    def event_count(self) -> int:
        """The number of events that the log holds now."""
        return len(self._log)

    @property
    def all_events(self) -> list[HypervisorEvent]:
        """A copy of the log, oldest first."""
        with self._lock:
            entries = list(self._log)
        return [entry[1] for entry in entries]

    def type_counts(self) -> dict[str, int]:
        """The number of events in the log by the value of their type; a type without events is absent."""
        with self._lock:
            counts = list(zip(self._by_type, map(len, self._by_type.values()), strict=True))
        return {event_type: count for event_type, count in counts if count}

    @property
    def handler_errors(self) -> int:
        """The number of times that a handler raised, over all handlers."""
        return self._handler_errors

    def _all_of(self, indexes: dict[str, deque[_Entry]], key: str) -> list[HypervisorEvent]:
        with self._lock:
            entries = list(indexes.get(key, _NO_ENTRIES))
        return [entry[1] for entry in entries]

    def _evict_oldest(self) -> None:
        # The oldest event of the log should be the oldest of each of its indexes. The sequence number makes sure: a
        # signal handler that emits, or a KeyboardInterrupt, can come between any two steps of an emit.
        sequence, _, event_type, session_id, agent_did = self._log.popleft()
        _drop(self._by_type, event_type, sequence)
        if session_id is not None:
            _drop(self._by_session, session_id, sequence)
        if agent_did is not None:
            _drop(self._by_agent, agent_did, sequence)

    def _handler_failed(self, handler: EventHandler, event_type: str, error: Exception) -> None:
        with self._lock:
            self._handler_errors += 1
        # Not repr(handler): that is the agent's code too, and may raise.
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        self._limited.log(
            logging.ERROR,
            str(id(handler)),
            "The event handler %s raised on a %s event.",
            name,
            event_type,
            error=error,
        )


def _drop(indexes: dict[str, deque[_Entry]], key: str, sequence: int) -> None:
    """Remove the entries up to `sequence` from the front of one index, and the index itself once it is empty."""
    entries = indexes.get(key)
    if entries is None:
        return
    while entries and entries[0][0] <= sequence:
        entries.popleft()
    if not entries:
        del indexes[key]


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_buses: WeakSet[HypervisorEventBus] = WeakSet()


def _unlock_after_fork() -> None:
    # Another thread of the parent may have held a lock at the fork; in the child nothing would ever release it.
    for bus in _buses:
        bus._new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
