"""OTLP over HTTP: protobuf, one request at a time, every answer read."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Sequence

from opentelemetry.sdk.resources import Resource

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import NotAll, send_in_parts
from hypervisor_consumers.saga_spans.sinks.http_answers import refusal
from hypervisor_consumers.saga_spans.sinks.http_post import Answer, HttpPoster, tls_context
from hypervisor_consumers.saga_spans.sinks.otlp_answers import partly
from hypervisor_consumers.saga_spans.sinks.otlp_messages import (
    REQUEST_BYTES,
    REQUEST_SPANS,
    TOO_LARGE,
    request_of,
    status_in,
)
from hypervisor_consumers.saga_spans.sinks.otlp_settings import OtlpSettings
from hypervisor_consumers.saga_spans.sinks.sanitize import in_one_line
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["OtlpHttpSink"]

log = logging.getLogger(__name__)

_PROTOBUF = "application/x-protobuf"


class OtlpHttpSink:
    """Sends spans to a receiver of OTLP/HTTP; they are the receiver's when `deliver` returns.

    Raises:
        SettingError: A certificate or key can't be used.
    """

    def __init__(self, settings: OtlpSettings, resource: Resource) -> None:
        self._receiver = f"The OTLP receiver at {settings.shown}"
        self._resource = resource
        self._is_compressed = settings.is_compressed
        self._http = HttpPoster(
            settings.url,
            shown=self._receiver,
            headers=settings.headers,
            timeout=settings.timeout,
            context=tls_context(settings.tls) if settings.is_secure else None,
        )
        self._limited = RateLimitedLog(log)

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Send, in requests of at most 512 spans and 2 MiB, and in halves where some are refused.

        Raises:
            OutputUnavailable: The receiver can't be reached or takes nothing now.
        """
        return send_in_parts(outputs, self._send, REQUEST_SPANS)

    def _send(self, spans: Sequence[SagaSpanRecord]) -> NotAll | None:
        body = request_of(spans, self._resource)
        if len(body) > REQUEST_BYTES and len(spans) > 1:
            return TOO_LARGE
        headers = {"content-type": _PROTOBUF}
        if self._is_compressed:
            body = gzip.compress(body, compresslevel=6, mtime=0)
            headers["content-encoding"] = "gzip"
        answer = self._http.post(body, headers)
        refused = refusal(
            answer,
            receiver=self._receiver,
            endpoint="OTEL_EXPORTER_OTLP_ENDPOINT",
            credentials="OTEL_EXPORTER_OTLP_HEADERS",
            reason=_reason(answer),
            now=time.time(),
        )
        return refused if refused is not None else partly(answer.body, self._receiver, self._limited)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _reason(answer: Answer) -> str:
    """What the body says: by the specification a google.rpc.Status; a proxy writes text."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _PROTOBUF:
        status = status_in(answer.body)
        return "" if status is None else in_one_line(status.message)
    return in_one_line(answer.body) if kind.startswith("text/plain") or kind.endswith("json") else ""
