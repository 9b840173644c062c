"""A sink that sends OTLP over HTTP: protobuf, one request at a time, every answer read."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Sequence

from opentelemetry.sdk.resources import Resource

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection, send_bisecting
from hypervisor_consumers.saga_spans.sinks.http_answers import rejection_of
from hypervisor_consumers.saga_spans.sinks.http_post import HttpPoster, tls_context
from hypervisor_consumers.saga_spans.sinks.otlp_answers import partial_rejection
from hypervisor_consumers.saga_spans.sinks.otlp_messages import (
    MAX_REQUEST_BYTES,
    MAX_REQUEST_SPANS,
    TOO_LARGE,
    encode_request,
    parse_status,
)
from hypervisor_consumers.saga_spans.sinks.otlp_settings import OtlpSettings
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.http_client import HttpAnswer
from hypervisor_schemas.printable import printable
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["OtlpHttpSink"]

log = logging.getLogger(__name__)

_PROTOBUF = "application/x-protobuf"


class OtlpHttpSink:
    """Sends spans to a receiver of OTLP/HTTP; the receiver has them when `deliver` returns.

    Raises:
        SettingError: A certificate or key can't be used.
    """

    def __init__(self, settings: OtlpSettings, resource: Resource) -> None:
        self._receiver = f"The OTLP receiver at {settings.redacted_url}"
        self._resource = resource
        self._is_compressed = settings.is_compressed
        self._http = HttpPoster(
            settings.url,
            receiver=self._receiver,
            headers=settings.headers,
            timeout_seconds=settings.timeout_seconds,
            tls=tls_context(settings.tls) if settings.is_secure else None,
        )
        self._limited = RateLimitedLog(log)

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Send, in requests of at most 512 spans and 2 MiB, and in halves where some are refused.

        Raises:
            OutputUnavailable: The receiver can't be reached or takes nothing now.
        """
        return send_bisecting(outputs, self._send, MAX_REQUEST_SPANS)

    def _send(self, spans: Sequence[SagaSpanRecord]) -> Rejection | None:
        body = encode_request(spans, self._resource)
        if len(body) > MAX_REQUEST_BYTES and len(spans) > 1:
            return TOO_LARGE
        headers = {"content-type": _PROTOBUF}
        if self._is_compressed:
            body = gzip.compress(body, compresslevel=6, mtime=0)
            headers["content-encoding"] = "gzip"
        answer = self._http.post(body, headers)
        rejection = rejection_of(
            answer,
            receiver=self._receiver,
            endpoint="OTEL_EXPORTER_OTLP_ENDPOINT",
            credentials="OTEL_EXPORTER_OTLP_HEADERS",
            reason=_reason(answer),
        )
        return rejection if rejection is not None else partial_rejection(answer.body, self._receiver, self._limited)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _reason(answer: HttpAnswer) -> str:
    """The reason in the body: by the specification a google.rpc.Status; a proxy writes text."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _PROTOBUF:
        status = parse_status(answer.body)
        return "" if status is None else printable(status.message, 300, as_line=True)
    return (
        printable(answer.body, 300, as_line=True) if kind.startswith("text/plain") or kind.endswith("json") else ""
    )
