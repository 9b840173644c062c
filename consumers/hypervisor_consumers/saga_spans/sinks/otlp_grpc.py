"""A sink that sends OTLP over gRPC: one call at a time, every answer read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import grpc
from google.rpc.status_pb2 import Status
from opentelemetry.sdk.resources import Resource

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection, send_bisecting
from hypervisor_consumers.saga_spans.sinks.http_post import tls_context
from hypervisor_consumers.saga_spans.sinks.otlp_answers import partial_rejection
from hypervisor_consumers.saga_spans.sinks.otlp_messages import (
    MAX_REQUEST_BYTES,
    MAX_REQUEST_SPANS,
    TOO_LARGE,
    encode_request,
    parse_status,
    retry_delay_seconds,
)
from hypervisor_consumers.saga_spans.sinks.otlp_settings import OtlpSettings
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.printable import printable
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.version import user_agent

__all__ = ["OtlpGrpcSink"]

log = logging.getLogger(__name__)

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_OPTIONS = (
    # The runtime waits and tries again. By default a channel looks for a lost receiver every two minutes.
    ("grpc.enable_retries", 0),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.primary_user_agent", user_agent()),
)

_TO_BE_SET = {
    grpc.StatusCode.UNAUTHENTICATED: "it wants to know who asks: set OTEL_EXPORTER_OTLP_HEADERS",
    grpc.StatusCode.PERMISSION_DENIED: "it doesn't allow this: check OTEL_EXPORTER_OTLP_HEADERS",
    grpc.StatusCode.UNIMPLEMENTED: "it is no receiver of spans: check OTEL_EXPORTER_OTLP_ENDPOINT",
}
_ABOUT_THE_SPANS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
}


class OtlpGrpcSink:
    """Sends spans to a receiver of OTLP/gRPC; the receiver has them when `deliver` returns.

    Raises:
        SettingError: A certificate or key can't be read.
    """

    def __init__(self, settings: OtlpSettings, resource: Resource) -> None:
        self._receiver = f"The OTLP receiver at {settings.redacted_url}"
        self._resource = resource
        self._timeout_seconds = settings.timeout_seconds
        self._metadata = tuple(
            (name, value.encode() if name.endswith("-bin") else value) for name, value in settings.headers.items()
        )
        self._compression = grpc.Compression.Gzip if settings.is_compressed else grpc.Compression.NoCompression
        self._channel = _channel(settings)
        # Bytes in, bytes out: the messages are made and read elsewhere.
        self._export = self._channel.unary_unary(_METHOD)
        self._limited = RateLimitedLog(log)

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Send, in requests of at most 512 spans and 2 MiB, and in halves where some are refused.

        Raises:
            OutputUnavailable: The receiver can't be reached or takes nothing now.
        """
        return send_bisecting(outputs, self._send, MAX_REQUEST_SPANS)

    def _send(self, spans: Sequence[SagaSpanRecord]) -> Rejection | None:
        request = encode_request(spans, self._resource)
        if len(request) > MAX_REQUEST_BYTES and len(spans) > 1:
            return TOO_LARGE
        try:
            answer = self._export(
                request, timeout=self._timeout_seconds, metadata=self._metadata, compression=self._compression
            )
        except grpc.RpcError as error:
            return self._rejection_of(error)
        return partial_rejection(answer, self._receiver, self._limited)

    def _rejection_of(self, error: Any) -> Rejection:
        code: grpc.StatusCode = error.code()
        details = error.details() or ""
        status = _status_of(error)
        sentence = f"{self._receiver} answers {code.name}"
        wait = None if status is None else retry_delay_seconds(status)
        if advice := _TO_BE_SET.get(code):
            # The receiver's words are left out: they may repeat the credentials.
            raise OutputUnavailable(f"{sentence}; {advice}.", retry_after=wait)
        reason = printable((status.message if status is not None else "") or details, 300, as_line=True)
        sentence = (f"{sentence}: {reason}" if reason else sentence).rstrip(".") + "."
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _is_about_size(details):
            return Rejection(sentence)
        if code in _ABOUT_THE_SPANS:
            return Rejection(sentence, is_doubtful=True)
        raise OutputUnavailable(sentence, retry_after=wait)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def _channel(settings: OtlpSettings) -> Any:
    if not settings.is_secure:
        return grpc.insecure_channel(settings.url, _OPTIONS)
    # gRPC takes any bytes for a certificate, and then can't connect without saying why.
    tls_context(settings.tls)
    files = settings.tls.readable()
    credentials = grpc.ssl_channel_credentials(
        files.get("certificate"), files.get("client_key"), files.get("client_certificate")
    )
    return grpc.secure_channel(settings.url, credentials, _OPTIONS)


def _is_about_size(details: str) -> bool:
    """Whether a receiver found the request too large: the same code also means that it has too much to do.

    These are the words of Go, C++ and Java. The client's own, for an answer that is too large, are another matter.
    """
    text = details.lower()
    return ("larger than max" in text or "exceeds maximum" in text) and not text.startswith("client:")


def _status_of(error: Any) -> Status | None:
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            return parse_status(value)
    return None
