"""Which causal trace ids of a trace are of one span and of the spans below it. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from hypervisor_schemas.causal_trace import CausalTraceId

__all__ = ["MAX_SPANS", "TooManySpans", "subtree_of"]

MAX_SPANS = 5000


class TooManySpans(ValueError):
    """More spans than can be looked through for one answer."""

    def __init__(self) -> None:
        super().__init__(
            f"This trace has more than {MAX_SPANS} spans; ask without a subtree, by session, by agent or by time."
        )


def subtree_of(span_id: str, ids: Iterable[str], caused: Iterable[tuple[str, str]]) -> list[str]:
    """The causal trace ids of this span, and of all that are below it, sorted.

    A span's parent is the one that a causal trace id of it names; where none does, the span of an event that is the
    `parent_event_id` of one of its events. An id without a span is below none.

    Args:
        span_id: The span.
        ids: The causal trace ids of one trace.
        caused: Of events of it, and of those that their `parent_event_id` names: (theirs, the causing one's).
    """
    texts: dict[str, list[str]] = {}
    parents: dict[str, set[str]] = {}
    for text in ids:
        if trace := _read(text):
            texts.setdefault(trace.span_id, []).append(text)
            if trace.parent_span_id:
                parents.setdefault(trace.span_id, set()).add(trace.parent_span_id)
    named = frozenset(parents)
    for text, cause in caused:
        its, above = _read(text), _read(cause)
        if its and above and its.span_id not in named:
            parents.setdefault(its.span_id, set()).add(above.span_id)
    children: dict[str, list[str]] = {}
    for child, above_it in parents.items():
        for parent in above_it:
            children.setdefault(parent, []).append(child)
    found = {span_id}
    waiting = [span_id]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return sorted(text for span in found for text in texts.get(span, ()))


def _read(text: str) -> CausalTraceId | None:
    try:
        return CausalTraceId.from_string(text)
    except ValueError:
        return None
