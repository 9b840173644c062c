"""Hands a span to a sink: whole to a sink that takes records, in the protocol's parts to any other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanSink

__all__ = ["hand_over"]


def hand_over(sink: SpanSink, span: SagaSpanRecord) -> None:
    """Call `sink.record_saga_span(span)` where there is one, else `sink.record_span(…)`.

    `record_span` is the package's protocol, without ids, parent and events. Attributes are a copy: a sink that adds
    its own must not change the record.
    """
    record_whole: Any = getattr(sink, "record_saga_span", None)
    if record_whole is not None:
        record_whole(replace(span, attributes=dict(span.attributes)))
        return
    sink.record_span(
        name=span.name,
        start_time=span.start_time,
        end_time=span.end_time,
        attributes=dict(span.attributes),
        status=span.status,
    )
