"""The wiring of saga-spans."""

from __future__ import annotations

from collections.abc import Mapping

from hypervisor_consumers.runtime.contract import Output
from hypervisor_consumers.runtime.processor import FoldProcessor
from hypervisor_consumers.runtime.service import Service
from hypervisor_consumers.saga_spans.fold import SagaFold
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.settings import Settings

__all__ = ["DEFAULT_PORT", "saga_spans_service"]

DEFAULT_PORT = 8001


def saga_spans_service(sink: Output[SagaSpanRecord], environ: Mapping[str, str]) -> Service:
    """Saga events to spans, delivered to `sink`."""
    processor = FoldProcessor(SagaFold(), sink, duplicate_window=Settings.DUPLICATE_WINDOW.of(environ))
    return Service("saga-spans", ["events.saga"], processor)
