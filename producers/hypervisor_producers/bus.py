"""The event bus of an agent: a bounded log in memory with indexes over it, and subscribers.

Names and answers are those of the seed and of the `agent-hypervisor` package. Events may be of the package's own
class: only attributes are read, and event types are compared by their values.
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
"""Called with every event it subscribed to, on the thread that emits; what it returns is ignored."""

# An event with its number and the keys it is indexed by. The keys are kept because a stranger's event may change
# them later, and eviction must find the same indexes again.
_Entry: TypeAlias = tuple[int, HypervisorEvent, str, str | None, str | None]
_NOTHING: deque[_Entry] = deque()


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
        self._next_number = 0
        self._log: deque[_Entry] = deque()
        self._by_type: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        self._by_session: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        self._by_agent: defaultdict[str, deque[_Entry]] = defaultdict(deque)
        # Tuples, replaced and never changed: emit takes them as they are, without a copy.
        self._of_type: dict[str, tuple[EventHandler, ...]] = {}
        self._of_every_type: tuple[EventHandler, ...] = ()
        self._handler_errors = 0
        self._failures = RateLimitedLog(log, clock=clock)
        self._new_lock()
        _buses.add(self)

    def _new_lock(self) -> None:
        # Reentrant: a signal handler may emit while its own thread is inside.
        self._lock = threading.RLock()

    def emit(self, event: HypervisorEvent) -> None:
        """Append `event` and call its subscribers: those of its type first, then those of every type.

        Handlers run here, after the lock is released, in the order they subscribed; they may emit and subscribe.
        One that raises is logged and counted, the others and the caller go on.
        """
        kind, session_id, agent_did = event.event_type, event.session_id, event.agent_did
        # An enum's `value` is a property in Python code: a tenth of an emit.
        event_type = kind._value_ if type(kind) is EventType else type_value(kind)
        with self._lock:
            # Look up first, append afterwards: a key that can't be hashed raises here, and nothing has changed.
            of_agent = None if agent_did is None else self._by_agent[agent_did]
            of_session = None if session_id is None else self._by_session[session_id]
            of_type = self._by_type[event_type]
            entry = (self._next_number, event, event_type, session_id, agent_did)
            self._next_number += 1
            self._log.append(entry)
            of_type.append(entry)
            if of_session is not None:
                of_session.append(entry)
            if of_agent is not None:
                of_agent.append(entry)
            if self._max_events is not None and len(self._log) > self._max_events:
                self._evict_oldest()
            handlers = self._of_type.get(event_type, ()) + self._of_every_type
        for handler in handlers:
            try:
                handler(event)
            except Exception as error:  # noqa: BLE001 - whatever a handler raises is not the emitter's to bear
                self._handler_failed(handler, event_type, error)

    def subscribe(self, event_type: str | None = None, handler: EventHandler | None = None) -> None:
        """Call `handler` with every later event of `event_type`, or of every type if that is None.

        The type may be ours, the package's own or a plain string. No handler: nothing happens.
        """
        if handler is None:
            return
        with self._lock:
            if event_type is None:
                self._of_every_type += (handler,)
            else:
                key = type_value(event_type)
                self._of_type[key] = (*self._of_type.get(key, ()), handler)

    def query_by_type(self, event_type: str) -> list[HypervisorEvent]:
        """All events of this type, oldest first."""
        return self._whole(self._by_type, type_value(event_type))

    def query_by_session(self, session_id: str) -> list[HypervisorEvent]:
        """All events of this session, oldest first."""
        return self._whole(self._by_session, session_id)

    def query_by_agent(self, agent_did: str) -> list[HypervisorEvent]:
        """All events of this agent, oldest first."""
        return self._whole(self._by_agent, agent_did)

    def query_by_time_range(self, start: datetime, end: datetime | None = None) -> list[HypervisorEvent]:
        """All events from `start` to `end` (now, if None), both inclusive, in the order they were emitted.

        A datetime without a time zone counts as UTC. Reads the whole log: events carry the time they happened,
        which is not the order they come in.
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
        """The events that match every filter given, oldest first; with `limit`, the last that many of them.

        Reads the shortest of the indexes that apply, from its end, and stops at the limit.

        Raises:
            ValueError: `limit` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be 0 or more, or None for no limit; {limit} is neither.")
        key = None if event_type is None else type_value(event_type)
        with self._lock:
            indexes: list[deque[_Entry]] = []
            if key is not None:
                indexes.append(self._by_type.get(key, _NOTHING))
            if session_id is not None:
                indexes.append(self._by_session.get(session_id, _NOTHING))
            if agent_did is not None:
                indexes.append(self._by_agent.get(agent_did, _NOTHING))
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
        """How many events the log holds now."""
        return len(self._log)

    @property
    def all_events(self) -> list[HypervisorEvent]:
        """A copy of the log, oldest first."""
        with self._lock:
            entries = list(self._log)
        return [entry[1] for entry in entries]

    def type_counts(self) -> dict[str, int]:
        """How many events of each type the log holds, by the type's value; a type without events is absent."""
        with self._lock:
            counts = list(zip(self._by_type, map(len, self._by_type.values()), strict=True))
        return {event_type: count for event_type, count in counts if count}

    @property
    def handler_errors(self) -> int:
        """How often a handler raised, over all handlers."""
        return self._handler_errors

    def _whole(self, indexes: dict[str, deque[_Entry]], key: str) -> list[HypervisorEvent]:
        with self._lock:
            entries = list(indexes.get(key, _NOTHING))
        return [entry[1] for entry in entries]

    def _evict_oldest(self) -> None:
        # The oldest event of the log is the oldest of each of its indexes. By number, not by trust in that: a
        # signal handler that emits, or a KeyboardInterrupt, can come between any two steps of an emit.
        number, _, event_type, session_id, agent_did = self._log.popleft()
        _drop(self._by_type, event_type, number)
        if session_id is not None:
            _drop(self._by_session, session_id, number)
        if agent_did is not None:
            _drop(self._by_agent, agent_did, number)

    def _handler_failed(self, handler: EventHandler, event_type: str, error: Exception) -> None:
        with self._lock:
            self._handler_errors += 1
        # Not repr(handler): that is a stranger's code too, and may raise.
        name = getattr(handler, "__qualname__", type(handler).__qualname__)
        self._failures.log(
            logging.ERROR,
            str(id(handler)),
            "The event handler %s raised on a %s event.",
            name,
            event_type,
            error=error,
        )


def _drop(indexes: dict[str, deque[_Entry]], key: str, number: int) -> None:
    """Take what is not younger than `number` from the front of one index, and the index itself once it is empty."""
    entries = indexes.get(key)
    if entries is None:
        return
    while entries and entries[0][0] <= number:
        entries.popleft()
    if not entries:
        del indexes[key]


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_buses: WeakSet[HypervisorEventBus] = WeakSet()


def _unlock_after_fork() -> None:
    # Another thread of the parent may have held a lock at the fork; in the child nobody would ever release it.
    for bus in _buses:
        bus._new_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
