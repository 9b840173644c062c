"""Finished spans of sagas, and the protocol of the sinks that take them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from hypervisor_schemas.public import public

__all__ = ["SagaSpanRecord", "SpanEvent", "SpanSink"]


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """A moment within a span: a checkpoint. `time` is in seconds since 1970."""

    name: str
    time: float
    attributes: dict[str, str] = field(default_factory=dict)


@public
@dataclass(frozen=True, slots=True)
class SagaSpanRecord:
    """One finished span: a saga, one of its steps, a fan-out or a compensation.

    Times are the events' own, in seconds since 1970. `status` is "ok", "error" or "compensating". `attributes` are
    the seed's (`agent.saga.*`, `agent.did`, `session.id`), all strings. `trace_id` has 32 hexadecimal digits,
    `span_id` and `parent_span_id` have 16; a saga's span has no parent. `causal_trace_id` is copied from the event
    that opened the span, "" if it has none; nobody exports the causal span. `error_type` is the kind of an error as
    the event gives it (`error_type`), "" if it gives none.
    """

    # size: the fields are those of the package and of OpenTelemetry; users read them by name.

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
        """The span's length; 0 if only one end of it was seen."""
        return self.end_time - self.start_time


@public
@runtime_checkable
class SpanSink(Protocol):
    """Anything that takes spans as they finish, in the process of the agent."""

    def record_span(
        self, name: str, start_time: float, end_time: float, attributes: dict[str, Any], status: str
    ) -> None:
        """Take one span. Called by keyword, on a thread that emits; `attributes` is the sink's own copy.

        Errors are logged and counted, and reach neither the exporter nor the emitter. The sink may emit events.
        """
        ...
