"""What saga events become: finished spans, and the protocol of those that take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

__all__ = ["SagaSpanRecord", "SpanSink"]


@dataclass(frozen=True, slots=True)
class SagaSpanRecord:
    """One finished span: a saga, one of its steps or a compensation.

    Times are seconds since the epoch, the events' own. `status` is "ok", "error" or "compensating". `attributes`
    are the seed's (`agent.saga.*`, `agent.did`, `session.id`), all strings. `trace_id` has 32 hex, `span_id` and
    `parent_span_id` 16; a saga's span has no parent.
    """

    name: str
    saga_id: str
    step_id: str
    step_action: str
    start_time: float
    end_time: float
    status: str
    attributes: dict[str, Any] = field(default_factory=dict)
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str | None = None

    @property
    def duration_seconds(self) -> float:
        """The span's length; 0 where only one end of it was seen."""
        return self.end_time - self.start_time


@runtime_checkable
class SpanSink(Protocol):
    """Anything that takes spans as they finish, in the process of the agent."""

    def record_span(
        self, name: str, start_time: float, end_time: float, attributes: dict[str, Any], status: str
    ) -> None:
        """Take one span. Called by keyword, on a thread that emits, with `attributes` of its own.

        What it raises is logged and counted, and reaches neither the exporter nor the emitter. It may emit events.
        """
        ...
