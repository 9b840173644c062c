"""The wiring of the service ring-metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Never

from prometheus_client.metrics_core import Metric

from hypervisor_consumers.ring_metrics.exposition.agent_lines import AgentLines
from hypervisor_consumers.ring_metrics.exposition.counter_lines import CounterLines
from hypervisor_consumers.ring_metrics.exposition.families import ring_families
from hypervisor_consumers.ring_metrics.fold.agent_rings import AgentRingsView, publish_agent_rings
from hypervisor_consumers.ring_metrics.fold.batch_fold import RingBatchFold
from hypervisor_consumers.ring_metrics.fold.state import RingState
from hypervisor_consumers.ring_metrics.metric_defs import RING_TRANSITIONS
from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.ops.cardinality_families import limit_family
from hypervisor_consumers.runtime.service_copy import StatefulService
from hypervisor_schemas.settings import Settings

__all__ = ["DEFAULT_PORT", "ring_metrics_service"]

DEFAULT_PORT = 8000


def ring_metrics_service(
    environ: Mapping[str, str], now: Callable[[], float] = time.time
) -> StatefulService[RingState, Never]:
    """Ring events to `/metrics`; `now` gives the seconds since 1970."""
    labels = Settings.RING_LABELS.of(environ)
    max_series = Settings.MAX_SERIES.of(environ)
    counters = CounterLines() if set(labels) == set(RING_TRANSITIONS.labels) else None
    gauges = AgentLines()

    def families(shown: Shown[RingState]) -> Iterable[Metric]:
        at = now()
        families = ring_families(
            shown.states,
            shown.rows,
            at,
            labels=labels,
            home_partitions=shown.state_partitions,
            counters=None if counters is None else counters.families(shown.states, shown.state_partitions),
            gauges=gauges.families(shown.rows, at),
        )
        return [*families, limit_family(max_series)]

    return StatefulService(
        name="ring-metrics",
        source="events.ring",
        fold=RingBatchFold(
            series_ttl_ms=Settings.SERIES_TTL.of(environ) * 1000,
            elevation_max_ms=Settings.ELEVATION_MAX.of(environ) * 1000,
            max_series=max_series,
            labels=labels,
        ),
        families=families,
        publish=publish_agent_rings,
        view=AgentRingsView(),
    )
