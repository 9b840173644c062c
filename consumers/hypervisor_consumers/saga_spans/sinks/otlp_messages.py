"""OTLP's messages: spans to requests by OpenTelemetry's encoder, answers to what they say. Pure."""

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
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import NotAll
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["REQUEST_BYTES", "REQUEST_SPANS", "TOO_LARGE", "delay_of", "partial_success", "request_of", "status_in"]

REQUEST_SPANS = 512
REQUEST_BYTES = 2 * 1024 * 1024
"""Half of what gRPC's servers take by default."""

TOO_LARGE = NotAll("The request is larger than 2 MiB.")
"""Our own answer: send halves. A span that is too large alone is sent all the same; the receiver decides."""


def request_of(spans: Sequence[SagaSpanRecord], resource: Resource) -> bytes:
    """An ExportTraceServiceRequest, which on the wire is a TracesData, too."""
    return encode_spans([readable_span(span, resource) for span in spans]).SerializeToString()


def partial_success(body: bytes) -> ExportTracePartialSuccess | None:
    """What a receiver that took the request has to say besides; None where the body is no answer of OTLP."""
    try:
        return ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:
        return None


def status_in(body: bytes) -> Status | None:
    """The google.rpc.Status of an answer that refuses; None where the body is none."""
    try:
        return Status.FromString(body)
    except DecodeError:
        return None


def delay_of(status: Status) -> float | None:
    """The seconds that a google.rpc.RetryInfo in it asks for."""
    for detail in status.details:
        info = RetryInfo()
        if detail.Is(RetryInfo.DESCRIPTOR) and detail.Unpack(info):
            return max(float(info.retry_delay.ToTimedelta().total_seconds()), 0.0)
    return None
