"""The wiring of saga-spans."""

from __future__ import annotations

from hypervisor_consumers.runtime.contract import Output
from hypervisor_consumers.runtime.processor import FoldProcessor
from hypervisor_consumers.runtime.service import Service
from hypervisor_consumers.saga_spans.fold import SagaFold
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["DEFAULT_PORT", "saga_spans_service"]

DEFAULT_PORT = 8001


def saga_spans_service(sink: Output[SagaSpanRecord]) -> Service:
    """Saga events to spans, delivered to `sink`."""
    return Service("saga-spans", ["events.saga"], FoldProcessor(SagaFold(), sink))
