"""A sink that sends Zipkin's JSON, version 2, over HTTP, as OpenTelemetry's specification maps spans to it.

Tags and annotations are strings. A duration is at least 1 µs, because Zipkin takes 0 for unknown. A span with an
error has the tag `error`, which Zipkin shows in red. Zipkin has no links: the causal span is the tag `otel.links`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.otel import readable_span
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection, send_bisecting
from hypervisor_consumers.saga_spans.sinks.endpoints import parse_endpoint
from hypervisor_consumers.saga_spans.sinks.http_answers import rejection_of
from hypervisor_consumers.saga_spans.sinks.http_post import HttpPoster, tls_context
from hypervisor_consumers.saga_spans.sinks.otel_environment import SERVICE_NAME, resource_of
from hypervisor_consumers.saga_spans.sinks.otlp_settings import TlsFiles, timeout_seconds_of
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.printable import printable

__all__ = ["ZipkinSink", "zipkin_sink", "zipkin_span"]

_ENDPOINT = "OTEL_EXPORTER_ZIPKIN_ENDPOINT"
_TIMEOUT = "OTEL_EXPORTER_ZIPKIN_TIMEOUT"
_DEFAULT = "http://127.0.0.1:9411/api/v2/spans"
_MAX_REQUEST_SPANS = 512
_MAX_REQUEST_BYTES = 2 * 1024 * 1024
_TOO_LARGE = Rejection("The request is larger than 2 MiB.")


def zipkin_sink(environ: Mapping[str, str], endpoint: str = "") -> ZipkinSink:
    """The sink at `endpoint`, else at `OTEL_EXPORTER_ZIPKIN_ENDPOINT`, else on this machine.

    Raises:
        SettingError: A setting can't be used.
    """
    variable, text = (
        ("--sink zipkin:URL", endpoint) if endpoint else (_ENDPOINT, environ.get(_ENDPOINT, "").strip())
    )
    parsed = parse_endpoint(variable, text or _DEFAULT)
    receiver = f"Zipkin at {parsed.redacted_url}"
    headers = {} if parsed.authorization is None else {"authorization": parsed.authorization}
    http = HttpPoster(
        parsed.url,
        receiver=receiver,
        headers=headers,
        timeout_seconds=timeout_seconds_of(_TIMEOUT, environ.get(_TIMEOUT, "").strip()),
        tls=tls_context(TlsFiles()) if parsed.url.startswith("https:") else None,
    )
    return ZipkinSink(http, receiver, resource_of(environ))


class ZipkinSink:
    """Sends spans to a server that takes Zipkin's format; the server has them when `deliver` returns."""

    def __init__(self, http: HttpPoster, receiver: str, resource: Resource) -> None:
        self._http = http
        self._receiver = receiver
        self._resource = resource

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Send, in requests of at most 512 spans and 2 MiB, and in halves where some are refused.

        Raises:
            OutputUnavailable: Zipkin can't be reached or takes nothing now.
        """
        return send_bisecting(outputs, self._send, _MAX_REQUEST_SPANS)

    def _send(self, spans: Sequence[SagaSpanRecord]) -> Rejection | None:
        objects = [zipkin_span(readable_span(span, self._resource)) for span in spans]
        body = json.dumps(objects, separators=(",", ":")).encode()
        if len(body) > _MAX_REQUEST_BYTES and len(spans) > 1:
            return _TOO_LARGE
        answer = self._http.post(body, {"content-type": "application/json"})
        return rejection_of(
            answer,
            receiver=self._receiver,
            endpoint=_ENDPOINT,
            credentials=f"user and password in {_ENDPOINT}",
            reason=printable(answer.body, 300, as_line=True),
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def zipkin_span(span: ReadableSpan) -> dict[str, Any]:
    """One span as an object of Zipkin's JSON. Pure."""
    context, parent = span.context, span.parent
    start, end = (span.start_time or 0) // 1000, (span.end_time or 0) // 1000
    tags = {name: str(value) for name, value in span.resource.attributes.items()}
    service = tags.pop(SERVICE_NAME)
    tags |= {name: str(value) for name, value in (span.attributes or {}).items()}
    scope = span.instrumentation_scope
    if scope is not None:
        tags |= {"otel.scope.name": scope.name, "otel.scope.version": scope.version or ""}
        tags |= {name: str(value) for name, value in (scope.attributes or {}).items()}
    if span.status.status_code is not StatusCode.UNSET:
        tags["otel.status_code"] = span.status.status_code.name
    if span.status.status_code is StatusCode.ERROR:
        tags["error"] = span.status.description or ""
    if span.links:
        ids = [_ids(link.context.trace_id, link.context.span_id) for link in span.links]
        tags["otel.links"] = json.dumps(ids, separators=(",", ":"))
    fields = {
        "traceId": format_trace_id(context.trace_id),
        "id": format_span_id(context.span_id),
        "name": span.name,
        "timestamp": max(start, 1),
        "duration": max(end - start, 1),
        "localEndpoint": {"serviceName": service},
        "tags": tags,
    }
    if parent is not None:
        fields["parentId"] = format_span_id(parent.span_id)
    if span.events:
        fields["annotations"] = [_annotation(event) for event in span.events]
    return fields


def _ids(trace_id: int, span_id: int) -> dict[str, str]:
    return {"trace_id": format_trace_id(trace_id), "span_id": format_span_id(span_id)}


def _annotation(event: Event) -> dict[str, Any]:
    attributes = dict(event.attributes or {})
    value = f"{json.dumps(event.name)}: {json.dumps(attributes)}" if attributes else event.name
    return {"timestamp": max(event.timestamp // 1000, 1), "value": value}
