"""Encodes spans that nobody takes, for dead letters, and decodes them. Pure."""

from __future__ import annotations

import msgspec

from hypervisor_consumers.runtime.protocols import OutputCodec
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import UndecodableRecord

__all__ = ["SpanCodec"]

_decode = msgspec.json.Decoder(SagaSpanRecord).decode


class SpanCodec(OutputCodec[SagaSpanRecord]):
    """A span as a JSON object, its fields by name."""

    def name(self, output: SagaSpanRecord) -> str:
        """The span's trace id and span id."""
        return f"{output.trace_id}/{output.span_id}"

    def write(self, output: SagaSpanRecord) -> bytes:
        """The whole span as JSON."""
        return msgspec.json.encode(output)

    def read(self, data: bytes) -> SagaSpanRecord:
        """The span in `data`.

        Raises:
            UndecodableRecord: It is no span.
        """
        try:
            return _decode(data)
        except msgspec.MsgspecError as error:
            raise UndecodableRecord(f"It is no span: {error}.") from None
