"""Spans as a fold makes them, for tests of sinks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

START = datetime(2025, 1, 15, 10, 30, tzinfo=UTC).timestamp()
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "c" * 16


def span(name: str = "saga.step.build", **changes: Any) -> SagaSpanRecord:
    """Make the span of a step, 2.25 s long."""
    fields: dict[str, Any] = {
        "name": name,
        "saga_id": "deploy",
        "step_id": "b1",
        "step_action": "build",
        "start_time": START,
        "end_time": START + 2.25,
        "status": "ok",
        "attributes": {"agent.saga.id": "deploy", "agent.saga.result": "all checks passed"},
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "parent_span_id": PARENT,
    }
    return SagaSpanRecord(**(fields | changes))


def spans(count: int, **changes: Any) -> list[SagaSpanRecord]:
    """Make spans of one trace, named `span-0`, `span-1` … with span ids of the same number."""
    return [span(f"span-{n}", **{"span_id": f"{n + 1:016x}", "trace_id": TRACE, **changes}) for n in range(count)]
