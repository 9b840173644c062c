"""SagaSpanExporter: saga spans inside an agent's process, from any event bus to a buffer and an optional sink."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from typing import Any, Protocol, TypeAlias
from weakref import WeakSet

from hypervisor_consumers.saga_spans.fold.event_fold import SAGA_LIFECYCLE, SagaFold
from hypervisor_consumers.saga_spans.sinks.sink_adapter import hand_over
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanSink
from hypervisor_schemas.errors import RecordError
from hypervisor_schemas.events import HypervisorEvent, type_value
from hypervisor_schemas.public import public
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["EventSource", "SagaSpanExporter"]

log = logging.getLogger(__name__)

_Finished: TypeAlias = tuple[SagaSpanRecord, SpanSink | None]
"""A span, and the sink that was attached when it finished."""

_Rejected: TypeAlias = tuple[HypervisorEvent, Exception]


class EventSource(Protocol):
    """A bus: ours, the one of the `agent-hypervisor` package, or any object with this method."""

    def subscribe(self, event_type: Any = None, handler: Any = None) -> Any:
        """Call `handler(event)` for every event of this type from now on."""
        ...


@public
class SagaSpanExporter:
    """Turns the saga events of a bus into finished spans, kept in a bounded buffer and handed to a sink.

    Thread-safe. Nothing here raises into the emitter: an event that doesn't fit and a sink that fails are logged
    (once a minute at most) and counted.
    """

    def __init__(self, bus: EventSource, sink: SpanSink | None = None, *, max_spans: int | None = 10_000) -> None:
        """Subscribe to the bus.

        Args:
            bus: Where the events come from.
            sink: Gets every span as it finishes, in addition to the buffer: as the arguments that `SpanSink` names,
                or, if it has `record_saga_span(record)`, as the whole record, with its ids, parent and events.
            max_spans: The most finished spans that are kept; the oldest are dropped first. None: all are kept.

        Raises:
            ValueError: `max_spans` is negative.
        """
        if max_spans is not None and max_spans < 0:
            raise ValueError(f"max_spans must be 0 or more, or None for no bound; {max_spans} is neither.")
        self._fold = SagaFold()
        self._spans: deque[SagaSpanRecord] = deque(maxlen=max_spans)
        self._sink = sink
        self._start_afresh()
        self.reset()
        _exporters.add(self)
        # By type: then this exporter, if it subscribed before a handler that answers one saga event with another,
        # gets the two in order.
        for event_type in SAGA_LIFECYCLE:
            bus.subscribe(event_type=event_type, handler=self._handle)

    def _start_afresh(self) -> None:
        # Re-entrant: a signal handler may emit while its own thread holds the lock. Its event then waits, because
        # one event has to be folded before the next.
        self._lock = threading.RLock()
        self._waiting: deque[HypervisorEvent] = deque()
        self._folding = False
        self._limited = RateLimitedLog(log)

    def reset(self) -> None:
        """Forget all spans, open sagas and counts; the subscription and the sink stay."""
        with self._lock:
            self._state = self._fold.new_state()
            self._spans.clear()
            self._events_processed = self._events_rejected = self._sink_errors = self._spans_dropped = 0

    def attach_sink(self, sink: SpanSink) -> None:
        """Give every span that finishes from now on to `sink`, which replaces the former one."""
        with self._lock:
            self._sink = sink

    def detach_sink(self) -> None:
        """Give spans to no sink any more; they are still buffered."""
        with self._lock:
            self._sink = None

    @property
    def completed_spans(self) -> list[SagaSpanRecord]:
        """A copy of the buffer, the oldest span first."""
        with self._lock:
            return list(self._spans)

    @property
    def events_processed(self) -> int:
        """The number of events received of the seven types of `SAGA_LIFECYCLE`, including rejected ones.

        The package's exporter counts the same: fan-out and checkpoint events are not among them.
        """
        return self._events_processed

    @property
    def events_rejected(self) -> int:
        """The number of events received that don't fit their type."""
        return self._events_rejected

    @property
    def spans_dropped(self) -> int:
        """The number of spans that were dropped from the buffer for newer ones."""
        return self._spans_dropped

    @property
    def sink_errors(self) -> int:
        """The number of spans that the sink failed to take."""
        return self._sink_errors

    def _handle(self, event: HypervisorEvent) -> None:
        self._waiting.append(event)
        finished, rejected = self._fold_waiting()
        # No lock is held here: sinks and log handlers are the user's code, and may emit.
        for refused, error in rejected:
            self._report(refused, error)
        for span, sink in finished:
            if sink is not None:
                self._forward(sink, span)

    def _fold_waiting(self) -> tuple[list[_Finished], list[_Rejected]]:
        """Fold the events that wait, of this thread or another."""
        finished: list[_Finished] = []
        rejected: list[_Rejected] = []
        with self._lock:
            if self._folding:
                return finished, rejected
            self._folding = True
            try:
                while self._waiting:
                    event = self._waiting.popleft()
                    self._events_processed += 1
                    try:
                        spans = self._fold.apply(self._state, event) or ()
                    except Exception as error:  # noqa: BLE001 - a foreign event may hold anything
                        self._events_rejected += 1
                        rejected.append((event, error))
                        continue
                    for span in spans:
                        self._spans_dropped += len(self._spans) == self._spans.maxlen
                        self._spans.append(span)
                        finished.append((span, self._sink))
            finally:
                self._folding = False
        return finished, rejected

    def _report(self, event: HypervisorEvent, error: Exception) -> None:
        message = "The %s event %s was not used: %s"
        # A bus may bring anything, even objects without the attributes of an event.
        kind, event_id = (
            type_value(getattr(event, "event_type", "saga")),
            getattr(event, "event_id", "without an id"),
        )
        unforeseen = None if isinstance(error, RecordError) else error
        self._limited.log(logging.WARNING, "rejected", message, kind, event_id, error, error=unforeseen)

    def _forward(self, sink: SpanSink, span: SagaSpanRecord) -> None:
        try:
            hand_over(sink, span)
        except Exception as error:  # noqa: BLE001 - an error of the user's code must not reach the emitter
            with self._lock:
                self._sink_errors += 1
            message = "The span sink failed; the span %s is only in completed_spans."
            self._limited.log(logging.WARNING, "sink", message, span.name, error=error)


_exporters: WeakSet[SagaSpanExporter] = WeakSet()


def _start_afresh_after_fork() -> None:
    # Another thread of the parent may hold the lock at the fork; in the child it would never be released.
    for exporter in _exporters:
        exporter._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_after_fork)
