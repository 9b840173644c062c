"""What saga events become: finished spans, and the protocol of those that take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hypervisor_schemas.public import public

__all__ = ["SagaSpanRecord", "SpanEvent", "SpanSink"]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """Something that happened within a span, at one moment: a checkpoint. `time` in seconds since the epoch."""

    name: str
    time: float
    attributes: dict[str, str] = field(default_factory=dict)


@public
@dataclass(frozen=True, slots=True)
class SagaSpanRecord:
    """One finished span: a saga, one of its steps, a fan-out or a compensation.

    Times are seconds since the epoch, the events' own. `status` is "ok", "error" or "compensating". `attributes`
    are the seed's (`agent.saga.*`, `agent.did`, `session.id`), all strings. `trace_id` has 32 hex, `span_id` and
    `parent_span_id` 16; a saga's span has no parent. `causal_trace_id` is that of the event that opened it, as it
    was written, "" where there was none; nobody exports that span. `error_type` is the kind of an error as its
    event has it (`error_type`), "" where it has none.
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
    causal_trace_id: str = ""
    error_type: str = ""
    events: tuple[SpanEvent, ...] = ()

    @property
    def duration_seconds(self) -> float:
        """The span's length; 0 where only one end of it was seen."""
        return self.end_time - self.start_time


@public
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
