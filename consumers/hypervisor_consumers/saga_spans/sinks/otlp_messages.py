"""OTLP's messages: spans are encoded by OpenTelemetry's encoder, answers are decoded. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource

from hypervisor_consumers.saga_spans.otel import readable_span
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = [
    "MAX_REQUEST_BYTES",
    "MAX_REQUEST_SPANS",
    "TOO_LARGE",
    "encode_request",
    "parse_partial_success",
    "parse_status",
    "retry_delay_seconds",
]

MAX_REQUEST_SPANS = 512
MAX_REQUEST_BYTES = 2 * 1024 * 1024
"""Half of the limit that gRPC servers have by default."""

TOO_LARGE = Rejection("The request is larger than 2 MiB.")
"""Our own answer, so that halves are sent. A single span that is too large is sent; the receiver decides."""


def encode_request(spans: Sequence[SagaSpanRecord], resource: Resource) -> bytes:
    """The spans as an ExportTraceServiceRequest, which on the wire is a TracesData, too."""
    return encode_spans([readable_span(span, resource) for span in spans]).SerializeToString()


def parse_partial_success(body: bytes) -> ExportTracePartialSuccess | None:
    """The remarks of a receiver that took the request; None where the body is no answer of OTLP."""
    try:
        return ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:
        return None


def parse_status(body: bytes) -> Status | None:
    """The google.rpc.Status of an answer that refuses; None where the body holds none."""
    try:
        return Status.FromString(body)
    except DecodeError:
        return None


def retry_delay_seconds(status: Status) -> float | None:
    """The seconds to wait by the status's google.rpc.RetryInfo; None without one."""
    for detail in status.details:
        info = RetryInfo()
        if detail.Is(RetryInfo.DESCRIPTOR) and detail.Unpack(info):
            return max(float(info.retry_delay.ToTimedelta().total_seconds()), 0.0)
    return None
