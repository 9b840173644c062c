"""The wiring of ring-metrics."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import Metric

from hypervisor_consumers.ring_metrics.families import ring_families
from hypervisor_consumers.ring_metrics.fold import RingFold
from hypervisor_consumers.runtime.processor import FoldProcessor
from hypervisor_consumers.runtime.service import Service
from hypervisor_schemas.settings import Settings

__all__ = ["DEFAULT_PORT", "ring_metrics_service"]

DEFAULT_PORT = 8000


def ring_metrics_service(environ: Mapping[str, str]) -> Service:
    """Ring events to `/metrics`."""
    processor = FoldProcessor(RingFold(), duplicate_window=Settings.DUPLICATE_WINDOW.of(environ))

    def families() -> Iterable[Metric]:
        with processor.visible_states() as states:
            return ring_families(states, time.time())

    return Service("ring-metrics", ["events.ring"], processor, families)
