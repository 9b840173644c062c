"""The causal tree of a trace: its spans below their parents, with the failures marked. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.events import EventType, HypervisorEvent

__all__ = ["causal_tree", "has_failed"]

_FAILURES = frozenset(
    {EventType.SAGA_STEP_FAILED, EventType.SAGA_ESCALATED, EventType.RING_BREACH_DETECTED, EventType.AGENT_KILLED}
)


def has_failed(event: HypervisorEvent) -> bool:
    """Whether the event reports a failure: by its type, an `error`, or a policy that isn't satisfied."""
    payload = event.payload
    return event.event_type in _FAILURES or bool(payload.get("error")) or payload.get("policy_satisfied") is False


@dataclass(slots=True)
class _Span:
    span_id: str | None
    """None for the events whose causal trace id has no span."""
    parent: str | None = None
    events: list[HypervisorEvent] = field(default_factory=list)
    children: list[_Span] = field(default_factory=list)
    failed_below: bool = False


def causal_tree(oldest_first: Iterable[HypervisorEvent]) -> list[dict[str, Any]]:
    """The spans of the events of one trace, each after its parent. It is a list because a tree may be of any depth.

    A span's parent is the one that its causal trace id names. If that names none, it is the span of the event that
    is its first event's `parent_event_id`. A parent without events is a span with no events. A cycle of ids is cut
    at the span that came first.
    """
    spans = _spans(oldest_first)
    roots = []
    for span in spans.values():
        parent = None if span.parent is None else spans.get(span.parent)
        if parent is None or parent is span:
            roots.append(span)
        else:
            parent.children.append(span)
    found: list[tuple[_Span, int]] = []
    seen: set[int] = set()
    _walk(roots, found, seen)
    # Spans that no root leads to are in a cycle.
    for span in sorted(spans.values(), key=_order):
        if id(span) not in seen:
            _walk([span], found, seen)
    for span, _ in reversed(found):
        span.failed_below = any(child.failed_below or any(map(has_failed, child.events)) for child in span.children)
    return [_span_document(span, depth) for span, depth in found]


def _spans(oldest_first: Iterable[HypervisorEvent]) -> dict[str | None, _Span]:
    spans: dict[str | None, _Span] = {}
    span_of_event: dict[str, str | None] = {}
    for event in oldest_first:
        try:
            trace = CausalTraceId.from_string(event.causal_trace_id or "")
            span_id, parent = trace.span_id, trace.parent_span_id
        except ValueError:
            span_id, parent = None, None
        span = spans.setdefault(span_id, _Span(span_id))
        span.parent = span.parent or parent
        span.events.append(event)
        span_of_event[event.event_id] = span_id
    for span in list(spans.values()):
        if span.parent is None:
            parent = span_of_event.get(span.events[0].parent_event_id or "")
            span.parent = None if parent == span.span_id else parent
        elif span.parent not in spans:
            spans[span.parent] = _Span(span.parent)
    return spans


def _walk(roots: list[_Span], found: list[tuple[_Span, int]], seen: set[int]) -> None:
    """Append each span and the spans below it to `found`, depth first, the first child first."""
    pending = [(span, 0) for span in sorted(roots, key=_order, reverse=True)]
    while pending:
        span, depth = pending.pop()
        if id(span) in seen:
            continue
        seen.add(id(span))
        found.append((span, depth))
        pending += [(child, depth + 1) for child in sorted(span.children, key=_order, reverse=True)]


def _order(span: _Span) -> tuple[float, str]:
    return span.events[0].timestamp.timestamp() if span.events else float("-inf"), span.span_id or ""


def _span_document(span: _Span, depth: int) -> dict[str, Any]:
    return {
        "span_id": span.span_id,
        "parent_span_id": span.parent,
        "depth": depth,
        "agents": sorted({event.agent_did for event in span.events if event.agent_did is not None}),
        "sessions": sorted({event.session_id for event in span.events if event.session_id is not None}),
        "failed": any(map(has_failed, span.events)),
        "failed_below": span.failed_below,
        "events": [{**event.to_dict(), "failed": has_failed(event)} for event in span.events],
    }
