"""Selects the causal trace ids of one span and of the spans below it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hypervisor_schemas.causal_trace import CausalTraceId

__all__ = ["MAX_SPANS", "TooManySpans", "causal_trace_ids_below"]

MAX_SPANS = 5000


class TooManySpans(ValueError):
    """The trace has more spans than one query may examine."""

    def __init__(self) -> None:
        super().__init__(
            f"This trace has more than {MAX_SPANS} spans; ask without a subtree, by session, by agent or by time."
        )


def causal_trace_ids_below(span_id: str, ids: Iterable[str], links: Iterable[tuple[str, str]]) -> list[str]:
    """The causal trace ids of this span and of all spans below it, sorted.

    A span's parent is the one that a causal trace id of the span names. If none does, it is the span of an event
    that is the `parent_event_id` of one of the span's events. An id without a span is below none.

    Args:
        span_id: The span.
        ids: The causal trace ids of one trace.
        links: For events of the trace with a `parent_event_id`: the event's causal trace id, and that of the event
            it names.
    """
    texts: dict[str, list[str]] = {}
    parents: dict[str, set[str]] = {}
    for text in ids:
        if trace := _parsed(text):
            texts.setdefault(trace.span_id, []).append(text)
            if trace.parent_span_id:
                parents.setdefault(trace.span_id, set()).add(trace.parent_span_id)
    spans_with_parent = frozenset(parents)
    for text, cause_text in links:
        caused, cause = _parsed(text), _parsed(cause_text)
        if caused and cause and caused.span_id not in spans_with_parent:
            parents.setdefault(caused.span_id, set()).add(cause.span_id)
    children: dict[str, list[str]] = {}
    for child, its_parents in parents.items():
        for parent in its_parents:
            children.setdefault(parent, []).append(child)
    found = {span_id}
    pending = [span_id]
    while pending:
        for child in children.get(pending.pop(), ()):
            if child not in found:
                found.add(child)
                pending.append(child)
    return sorted(text for span in found for text in texts.get(span, ()))


def _parsed(text: str) -> CausalTraceId | None:
    try:
        return CausalTraceId.from_string(text)
    except ValueError:
        return None
