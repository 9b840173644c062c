"""Maps span records to OpenTelemetry spans. Pure: a span follows from its record alone.

- Ids, parent, name and times are the record's. OpenTelemetry counts nanoseconds from 1970 to 2262; a time outside
  becomes the nearest one inside.
- Kind is INTERNAL: sagas and steps happen inside the fleet; they are no request of one service to another.
- Status "ok" is OK: the agents themselves say that the step or saga succeeded. "error" is ERROR, described by
  `agent.saga.error`, else `agent.saga.reason`. "compensating" is UNSET: its event says that a compensation began,
  not how it ended, so neither OK nor ERROR would be true.
- The causal span becomes a link and the attribute `agent.causal_trace_id`, as it was written. Nobody exports it:
  as a parent it would leave every trace without a root.
- Attributes are the record's, under the seed's names. Some stand there a second time under OpenTelemetry's own
  names: `ADDED_NAMES`, version `MAPPING_VERSION`. A span with the status "error" also has `error.type`.
- A lone surrogate, which is no Unicode, becomes `?`: the encoder would leave the whole text out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.version import our_version

__all__ = [
    "ADDED_NAMES",
    "CAUSAL_TRACE_ID",
    "ERROR_TYPE",
    "KIND",
    "MAPPING_VERSION",
    "MAPPING_VERSION_ATTRIBUTE",
    "SCHEMA_URL",
    "SCOPE_NAME",
    "attributes_of",
    "events_of",
    "links_of",
    "nanoseconds",
    "readable_span",
    "span_context",
    "status_of",
    "unicode_of",
]

MAPPING_VERSION = 1
"""The version of the mapping: it goes up with every change of `ADDED_NAMES` or of a rule of this module."""

ADDED_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"agent.did": ("gen_ai.agent.id",), "session.id": ("gen_ai.conversation.id",)}
)
"""OpenTelemetry's names, by the seed's. `session.id` is OpenTelemetry's name, too."""

SCHEMA_URL = "https://opentelemetry.io/schemas/1.40.0"
"""The semantic conventions that have these names; later ones moved `gen_ai.*` to a repository of its own."""

SCOPE_NAME = "hypervisor_telemetry.saga_spans"
MAPPING_VERSION_ATTRIBUTE = "hypervisor_telemetry.mapping_version"
CAUSAL_TRACE_ID = "agent.causal_trace_id"
ERROR_TYPE = "error.type"
KIND = SpanKind.INTERNAL

_OTHER_ERROR = "_OTHER"
_LATEST = 2**63 - 1
"""The largest time: readers take the unsigned 64 bits of the wire for signed ones."""


def readable_span(record: SagaSpanRecord, resource: Resource) -> ReadableSpan:
    """The record as a span of the OpenTelemetry SDK, of this resource.

    Raises:
        ValueError: The record's ids are not 32 and 16 hexadecimal digits; a fold's always are.
    """
    parent = record.parent_span_id
    return ReadableSpan(
        name=unicode_of(record.name),
        context=span_context(record.trace_id, record.span_id),
        parent=None if parent is None else span_context(record.trace_id, parent),
        resource=resource,
        attributes=attributes_of(record),
        events=events_of(record),
        links=links_of(record),
        kind=KIND,
        status=status_of(record),
        start_time=nanoseconds(record.start_time),
        end_time=nanoseconds(record.end_time),
        instrumentation_scope=_scope(),
    )


@cache
def _scope() -> InstrumentationScope:
    return InstrumentationScope(SCOPE_NAME, our_version(), SCHEMA_URL, {MAPPING_VERSION_ATTRIBUTE: MAPPING_VERSION})


def span_context(
    trace_id: str, span_id: str, *, is_remote: bool = False, flags: int = TraceFlags.SAMPLED
) -> SpanContext:
    """The context of a span with these hexadecimal ids."""
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote, TraceFlags(flags))


def attributes_of(record: SagaSpanRecord) -> dict[str, str]:
    """The record's attributes, under the seed's names and under OpenTelemetry's."""
    attributes = {unicode_of(name): unicode_of(str(value)) for name, value in record.attributes.items()}
    for name, others in ADDED_NAMES.items():
        if name in attributes:
            attributes.update(dict.fromkeys(others, attributes[name]))
    if record.causal_trace_id:
        attributes[CAUSAL_TRACE_ID] = unicode_of(record.causal_trace_id)
    if record.status == "error":
        attributes[ERROR_TYPE] = _error_type(record)
    return attributes


_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.:$-]{0,63}")


def _error_type(record: SagaSpanRecord) -> str:
    """The kind of the error. There should be few kinds: a sentence that names a host is none."""
    if record.error_type:
        return unicode_of(record.error_type)
    error = str(record.attributes.get("agent.saga.error", ""))
    return error if _IDENTIFIER.fullmatch(error) else _OTHER_ERROR


def status_of(record: SagaSpanRecord) -> Status:
    """The span's status: OK, ERROR with a description, or UNSET."""
    if record.status == "error":
        description = record.attributes.get("agent.saga.error") or record.attributes.get("agent.saga.reason")
        return Status(StatusCode.ERROR, unicode_of(str(description)) if description else None)
    return Status(StatusCode.OK if record.status == "ok" else StatusCode.UNSET)


def links_of(record: SagaSpanRecord) -> Sequence[Link]:
    """A link to the causal span, if the causal trace id names one."""
    try:
        causal = CausalTraceId.from_string(record.causal_trace_id).to_w3c()
    except ValueError:
        return ()
    context = span_context(causal.trace_id, causal.span_id, is_remote=True)
    return (Link(context, {CAUSAL_TRACE_ID: unicode_of(record.causal_trace_id)}),)


def events_of(record: SagaSpanRecord) -> Sequence[Event]:
    """The events within the span."""
    return [
        Event(
            unicode_of(event.name),
            {unicode_of(name): unicode_of(str(value)) for name, value in event.attributes.items()},
            nanoseconds(event.time),
        )
        for event in record.events
    ]


def nanoseconds(seconds: float) -> int:
    """Nanoseconds since 1970, exact to the microsecond, as events are."""
    return min(max(round(seconds * 1_000_000) * 1000, 0), _LATEST)


def unicode_of(text: str) -> str:
    """`text` with `?` for every lone surrogate."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
