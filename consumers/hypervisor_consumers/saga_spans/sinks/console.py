"""A sink that writes lines for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TextIO

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["ConsoleSink"]


class ConsoleSink:
    """Writes one line per span, for people. Spans are as safe as the stream is; it stays open."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Write and flush."""
        text = "".join(_line(span) for span in outputs)
        # A terminal shows characters that its encoding lacks as escapes; they must not stop the service.
        self._stream.write(text.encode(self._encoding, "backslashreplace").decode(self._encoding))
        self._stream.flush()
        return ()

    def close(self) -> None:
        """Nothing is held back, and the stream belongs to whoever gave it."""


_LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def _line(span: SagaSpanRecord) -> str:
    shown = {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id or "-",
        **span.attributes,
    }
    # The last microsecond of the year 9999, as a float of seconds, is the first of a year that has no datetime.
    start = datetime.fromtimestamp(min(span.start_time, _LAST_SECOND), UTC).isoformat(timespec="milliseconds")
    fields = " ".join(f"{_plain(name)}={_plain(str(value))}" for name, value in shown.items())
    return f"{start} {span.duration_seconds:9.3f}s {span.status:<12} {_plain(span.name)} {fields}\n"


def _plain(text: str) -> str:
    """`text` without spaces or control characters, quoted as JSON where it has some."""
    return text if text and text.isprintable() and not set(' "=') & set(text) else json.dumps(text)
