"""The ids of saga spans, computed from the events alone: a span that is sent again after a crash has the same ids.

Other languages can compute the same; `hypervisor_schemas/examples/span_identity.json` has golden vectors.

- An absent session is the empty string. `fields(a, b, …)` is every part as its length in UTF-8 bytes (decimal),
  a colon and the part itself, one after the other: `fields("a", "b:c")` is `1:a3:b:c`. Two different lists of
  parts never give the same text.
- **Trace id** of a saga whose first event has a causal trace id: the W3C form (`causal_trace.w3c_trace_id`) of
  the part before its first slash, or of the whole if it is not `trace/span[/parent]`. Else the first 32 hex
  digits of SHA-256 of `fields("saga-trace", session, saga id)`.
- **Span id of a saga**: the first 16 hex digits of SHA-256 of `fields("saga-span", trace id, session, saga id)`.
  Any event that names the saga is enough, so the id is known if `saga.created` is late or missing; a saga that
  runs again under the same ids has the same one.
- **Span id of a step or a compensation**: the W3C form (`causal_trace.w3c_span_id`) of the `event_id` that opens
  it: the start, the end if there was no start, the compensating event. An `event_id` of 16 lower-case hexadecimal
  digits is kept as it is, so a span leads to its event. A retried step is a new span.
- **Span id of a fan-out**: the first 16 hex digits of SHA-256 of `fields("fanout-span", trace id, session, saga id,
  fan-out id)`, so that its branches know it before the fan-out starts. A fan-out without an id goes by the event
  that starts it, as a step does; so does one that is resolved without a start.

Trace ids have 32 lower-case hexadecimal digits, span ids 16; an `event_id` or trace part of zeros only, which W3C
Trace Context calls invalid as an id, is hashed.
"""

from __future__ import annotations

from hypervisor_schemas.causal_trace import CausalTraceId, w3c_span_id, w3c_trace_id

__all__ = ["fan_out_span_id", "saga_span_id", "saga_trace_id", "step_span_id"]


def saga_trace_id(causal_trace_id: str | None, session_id: str, saga_id: str) -> str:
    """The trace id of a saga, from fields of its first event; an empty `causal_trace_id` counts as absent."""
    if not causal_trace_id:
        return w3c_trace_id(_fields("saga-trace", session_id, saga_id))
    try:
        return w3c_trace_id(CausalTraceId.from_string(causal_trace_id).trace_id)
    except ValueError:
        return w3c_trace_id(causal_trace_id)


def saga_span_id(trace_id: str, session_id: str, saga_id: str) -> str:
    """The span id of a saga in its trace."""
    return w3c_span_id(_fields("saga-span", trace_id, session_id, saga_id))


def fan_out_span_id(trace_id: str, session_id: str, saga_id: str, fan_out_id: str) -> str:
    """The span id of a fan-out that has an id."""
    return w3c_span_id(_fields("fanout-span", trace_id, session_id, saga_id, fan_out_id))


def step_span_id(event_id: str) -> str:
    """The span id of the step or compensation that this event opens."""
    return w3c_span_id(event_id)


def _fields(*parts: str) -> str:
    # With its colons this text is no hexadecimal number, so the W3C form of it is its hash.
    return "".join(f"{len(part.encode('utf-8', 'surrogatepass'))}:{part}" for part in parts)
