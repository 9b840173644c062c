"""The wiring of saga-spans."""

from __future__ import annotations

from hypervisor_consumers.runtime.contract import Output
from hypervisor_consumers.runtime.service import StatefulService
from hypervisor_consumers.saga_spans.fold import SagaFold
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_consumers.saga_spans.state import SagaState

__all__ = ["DEFAULT_PORT", "saga_spans_service"]

DEFAULT_PORT = 8001


def saga_spans_service(sink: Output[SagaSpanRecord]) -> StatefulService[SagaState, SagaSpanRecord]:
    """Saga events to spans, delivered to `sink`."""
    return StatefulService(name="saga-spans", source="events.saga", fold=SagaFold(), output=sink)
