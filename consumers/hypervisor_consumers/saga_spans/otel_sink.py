"""A sink that gives saga spans to the OpenTelemetry SDK of an agent's own process: its sampler and exporters."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    TraceFlags,
    get_tracer_provider,
    set_span_in_context,
)

from hypervisor_consumers.saga_spans.otel import (
    KIND,
    MAPPING_VERSION,
    MAPPING_VERSION_ATTRIBUTE,
    SCHEMA_URL,
    SCOPE_NAME,
    attributes_of,
    events_of,
    links_of,
    nanoseconds,
    span_context,
    status_of,
    unicode_of,
)
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.public import public
from hypervisor_schemas.version import our_version

__all__ = ["OTelSpanSink"]


@public
class OTelSpanSink:
    """A sink for `SagaSpanExporter` that gives every span to a tracer provider of the OpenTelemetry SDK.

    The spans have the ids, parents and times that their events give them, so the `saga-spans` service and any
    number of processes that get the same events make the same spans. They go through the provider's own processors
    and belong to its resource. Thread-safe.

    The provider's sampler decides for whole sagas: it is asked for the saga's span, by trace id, and again for each
    step, with that answer as the parent's. A sampler that looks at names gets the name "saga", since the end of the
    saga isn't known yet.

    Args:
        tracer_provider: The global one by default.

    Raises:
        ValueError: The provider is not the SDK's (none is set up yet, or it is another implementation), or the SDK
            is disabled.
    """

    def __init__(self, tracer_provider: Any = None) -> None:
        provider = get_tracer_provider() if tracer_provider is None else tracer_provider
        if not isinstance(provider, TracerProvider):
            raise ValueError(
                "OTelSpanSink needs a TracerProvider of the OpenTelemetry SDK (opentelemetry.sdk.trace), since "
                f"spans get ids of their own; {type(provider).__name__} is none. Set one up before, or give it."
            )
        tracer = provider.get_tracer(
            SCOPE_NAME, our_version(), SCHEMA_URL, {MAPPING_VERSION_ATTRIBUTE: MAPPING_VERSION}
        )
        if not isinstance(tracer, Tracer):
            raise ValueError("OTelSpanSink can do nothing while OTEL_SDK_DISABLED is true.")
        # The provider has one tracer for this scope, and it gets the one generator of this module.
        tracer.id_generator = _IDS
        self._tracer = tracer

    def record_saga_span(self, record: SagaSpanRecord) -> None:
        """Make the span, from start to end."""
        context, parent = Context(), record.parent_span_id
        if parent is not None:
            flags = TraceFlags.SAMPLED if self._is_sampled(record.trace_id) else TraceFlags.DEFAULT
            above = span_context(record.trace_id, parent, flags=flags)
            context = set_span_in_context(NonRecordingSpan(above), context)
        with _IDS.given(record):
            span = self._tracer.start_span(
                unicode_of(record.name),
                context=context,
                kind=KIND,
                attributes=attributes_of(record),
                links=links_of(record),
                start_time=nanoseconds(record.start_time),
            )
        for event in events_of(record):
            span.add_event(event.name, event.attributes, event.timestamp)
        span.set_status(status_of(record))
        span.end(nanoseconds(record.end_time))

    def _is_sampled(self, trace_id: str) -> bool:
        """Whether the sampler takes the saga's own span, which may not have ended yet."""
        result = self._tracer.sampler.should_sample(Context(), int(trace_id, 16), "saga", KIND)
        return result.decision is Decision.RECORD_AND_SAMPLE

    def record_span(
        self, name: str, start_time: float, end_time: float, attributes: Mapping[str, Any], status: str
    ) -> None:
        """Make a span in a trace of its own: the caller of this method knows no ids, so they are random.

        `SagaSpanExporter` calls `record_saga_span`; this method is for other exporters.
        """
        self.record_saga_span(
            SagaSpanRecord(
                name=name,
                saga_id=str(attributes.get("agent.saga.id", "")),
                step_id=str(attributes.get("agent.saga.step_id", "")),
                step_action=str(attributes.get("agent.saga.step_action", "")),
                start_time=start_time,
                end_time=end_time,
                status=status,
                attributes=dict(attributes),
                trace_id=f"{_RANDOM.generate_trace_id():032x}",
                span_id=f"{_RANDOM.generate_span_id():016x}",
            )
        )


_RANDOM = RandomIdGenerator()


class _GivenIds(IdGenerator):
    """Gives the ids of the record that this thread is making a span of; random ones otherwise."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    @contextmanager
    def given(self, record: SagaSpanRecord) -> Iterator[None]:
        before, self._of_thread.record = self._record(), record
        try:
            yield
        finally:
            self._of_thread.record = before

    def _record(self) -> SagaSpanRecord | None:
        return getattr(self._of_thread, "record", None)

    def generate_trace_id(self) -> int:
        record = self._record()
        return _RANDOM.generate_trace_id() if record is None else int(record.trace_id, 16)

    def generate_span_id(self) -> int:
        record = self._record()
        return _RANDOM.generate_span_id() if record is None else int(record.span_id, 16)


_IDS = _GivenIds()
