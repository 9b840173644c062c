"""RingMetricsCollector: the fold of ring-metrics inside an agent's process, fed by its bus."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from hypervisor_consumers.ring_metrics.fold.agent_rings import (
    agent_rings,
    current_rings,
    elevation_seconds,
    ended_durations,
)
from hypervisor_consumers.ring_metrics.fold.event_fold import RING_EVENT_TYPES, TRANSITION_TYPES, RingFold
from hypervisor_consumers.ring_metrics.fold.state import AgentSession, RingSeries
from hypervisor_consumers.ring_metrics.metric_defs import (
    CURRENT_RING,
    ELEVATION_DURATION,
    RING_BREACHES,
    RING_TRANSITIONS,
)
from hypervisor_consumers.runtime.ops.metric_defs import MetricDef
from hypervisor_schemas.events import HypervisorEvent, type_value
from hypervisor_schemas.public import public
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["PrometheusExporterProtocol", "RingMetricsCollector", "Subscribable"]

Series = TypeVar("Series", bound=tuple[str, ...])

_log = logging.getLogger(__name__)


@public
class PrometheusExporterProtocol(Protocol):
    """An exporter that metrics are written to, with the package's signatures. Called by the thread that exports."""

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None, help_text: str = "") -> None:
        """Set one series of a gauge."""
        ...

    def inc_counter(
        self, name: str, value: float = 1.0, labels: dict[str, str] | None = None, help_text: str = ""
    ) -> None:
        """Add `value` to one series of a counter. If this raises, the same increase comes again."""
        ...


class Subscribable(Protocol):
    """A bus that a collector can count the events of: ours, the package's, or any other."""

    def subscribe(self, event_type: Any = None, handler: Any = None) -> Any:
        """Call `handler` with every event of this type."""
        ...


@public
class RingMetricsCollector:
    """Counts the ring events of a bus. Safe to use from many threads; never raises to the emitter.

    `clock` gives seconds since 1970; it decides the age of a running elevation.
    """

    def __init__(self, bus: Subscribable, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        # A snapshot has a series for every agent and session of the bus, however many they are.
        self._fold = RingFold(max_series=sys.maxsize)
        self._state = self._fold.new_state()
        self._processed = 0
        self._rejected = 0
        self._exported = _Exported()
        self._new_locks()
        _collectors.add(self)
        # By type, so that the bus doesn't call for other events. The members are strings and hash as such, so the
        # package's bus finds them by its own enum.
        for event_type in RING_EVENT_TYPES:
            bus.subscribe(event_type=event_type, handler=self._handle)

    def _new_locks(self) -> None:
        # Re-entrant: a signal handler may emit while its own thread holds the lock. At worst one of two events of
        # the same series goes uncounted then; otherwise the thread would hang for ever.
        self._lock = threading.RLock()
        # Held while an exporter is called, and taken first: a slow exporter stops no emitter.
        self._export_lock = threading.RLock()
        self._log = RateLimitedLog(_log)

    @property
    def events_rejected(self) -> int:
        """The number of ring events that don't fit their type; they only count in `events_processed`."""
        return self._rejected

    def collect(self) -> dict[str, Any]:
        """A snapshot under the seed's keys.

        Returns:
            `agent_hypervisor_ring_transitions_total`: (event type, agent, session) -> events;
            `agent_hypervisor_ring_breaches_total`: (agent, session) -> events;
            `agent_hypervisor_ring_current`: agent -> ring;
            `agent_hypervisor_ring_elevation_duration_seconds`: agent -> seconds of the elevation that ended
            last, without running ones; `events_processed`: ring events received, including rejected ones, as in
            the package.
        """
        series, processed = self._snapshot()
        rows = agent_rings(series)
        return {
            RING_TRANSITIONS.name: _transitions(series),
            RING_BREACHES.name: _breaches(series),
            CURRENT_RING.name: current_rings(rows),
            ELEVATION_DURATION.name: ended_durations(rows),
            "events_processed": processed,
        }

    def export_to_prometheus(self, exporter: PrometheusExporterProtocol) -> None:
        """Write all metrics to an exporter; counters by their increase since the last call with this exporter.

        A running elevation is exported as its age. An error of the exporter is passed on; the next call exports
        what this one did not.
        """
        with self._export_lock:
            series, _ = self._snapshot()
            rows = agent_rings(series)
            exported = self._exported.to(exporter)
            _export_increases(exporter, exported, RING_TRANSITIONS, _transitions(series))
            _export_increases(exporter, exported, RING_BREACHES, _breaches(series))
            _export_gauges(exporter, CURRENT_RING, current_rings(rows))
            _export_gauges(exporter, ELEVATION_DURATION, elevation_seconds(rows, self._clock()))

    def reset(self) -> None:
        """Start over: forget all events and everything that was exported."""
        with self._export_lock, self._lock:
            self._state = self._fold.new_state()
            self._processed = self._rejected = 0
            self._exported = _Exported()

    def _handle(self, event: HypervisorEvent) -> None:
        try:
            with self._lock:
                if self._fold.apply(self._state, event) is not None:
                    self._processed += 1
        except Exception as error:  # noqa: BLE001 - no content of an event may stop its emitter
            self._reject(event, error)

    def _reject(self, event: HypervisorEvent, error: Exception) -> None:
        with self._lock:
            self._processed += 1
            self._rejected += 1
        kind = type_value(event.event_type)
        self._log.log(
            logging.WARNING,
            kind,
            "Event %s (%s) of agent %s is not counted: %s",
            event.event_id,
            kind,
            event.agent_did,
            error,
        )

    def _snapshot(self) -> tuple[list[tuple[AgentSession, RingSeries]], int]:
        with self._lock:
            # Copying a dict is one step under the GIL: an emit from a signal handler can't come in between.
            series, processed = self._state.series.copy(), self._processed
        return [(key, value) for key, value in series.items() if value is not None], processed


def _transitions(series: Iterable[tuple[AgentSession, RingSeries]]) -> dict[tuple[str, str, str], int]:
    return {
        (kind, *key): count
        for key, value in series
        for kind, count in zip(TRANSITION_TYPES, value.transitions, strict=True)
        if count
    }


def _breaches(series: Iterable[tuple[AgentSession, RingSeries]]) -> dict[AgentSession, int]:
    return {key: value.breaches for key, value in series if value.breaches}


def _export_increases(
    exporter: PrometheusExporterProtocol,
    exported: dict[tuple[str, ...], int],
    metric: MetricDef,
    counts: Mapping[Series, int],
) -> None:
    for series, count in counts.items():
        increase = count - exported.get(series, 0)
        if increase:
            exporter.inc_counter(
                metric.name, float(increase), labels=metric.labelled(series), help_text=metric.help
            )
            exported[series] = count


def _export_gauges(exporter: PrometheusExporterProtocol, metric: MetricDef, values: Mapping[str, float]) -> None:
    for agent, value in values.items():
        exporter.set_gauge(metric.name, float(value), labels=metric.labelled([agent]), help_text=metric.help)


class _Exported:
    """The counts that each exporter has been given, per series; forgotten with the exporter.

    Exporters are compared by identity, since an exporter need not be hashable. Series of the two counters differ
    in length, so they are never equal.
    """

    def __init__(self) -> None:
        self._given: dict[int, tuple[object, dict[tuple[str, ...], int]]] = {}

    def to(self, exporter: object) -> dict[tuple[str, ...], int]:
        """The counts that this exporter has been given so far, to be changed in place."""
        key, given = id(exporter), self._given
        if key not in given:
            keep: object
            try:
                keep = weakref.ref(exporter, lambda _: given.pop(key, None))
            except TypeError:
                # It allows no weak references. It must be kept, or another object could get its id.
                keep = exporter
            given[key] = (keep, {})
        return given[key][1]


_collectors: weakref.WeakSet[RingMetricsCollector] = weakref.WeakSet()


def _unlock_after_fork() -> None:
    # Another thread of the parent may hold a lock at the fork; in the child nobody would ever release it.
    for collector in _collectors:
        collector._new_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)
