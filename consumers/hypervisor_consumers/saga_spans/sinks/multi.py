"""Several sinks as one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hypervisor_consumers.runtime.protocols import Output, Refused
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["MultiSink"]

_SpanIdentity: TypeAlias = tuple[str, str, str, float]
_Verdict: TypeAlias = tuple[SagaSpanRecord, str | None]
"""A span, and the reason for which a sink refused it; None: taken."""


@dataclass(slots=True)
class _Sink:
    name: str
    output: Output[SagaSpanRecord]
    verdicts: dict[_SpanIdentity, _Verdict] = field(default_factory=dict)
    """This sink's verdicts on spans that have to come again for another sink's sake."""


class MultiSink:
    """Gives every span to all of its sinks.

    When one sink can't take a batch now, the whole batch comes again; then it goes only to the sinks that have not
    taken it yet. After a crash nobody knows that any more, and it goes to all. A span that one sink refuses is
    refused, with the sink's name; the others have it.

    Args:
        sinks: The sinks, with names for people.
    """

    def __init__(self, sinks: Iterable[tuple[str, Output[SagaSpanRecord]]]) -> None:
        self._sinks = [_Sink(name, output) for name, output in sinks]

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Hand over to each sink, also after one that can't take them now.

        Raises:
            OutputUnavailable: At least one can't; the error names all that can't, and has the longest wait.
        """
        reasons_by_sink = []
        failures: list[str] = []
        waits: list[float] = []
        for sink in self._sinks:
            try:
                reasons_by_sink.append(_deliver(sink, outputs))
            except (OSError, OutputUnavailable) as error:
                failures.append(f"{sink.name}: {str(error).rstrip('.')}")
                if isinstance(error, OutputUnavailable) and error.retry_after is not None:
                    waits.append(error.retry_after)
        if failures:
            raise OutputUnavailable(f"{'; '.join(failures)}.", retry_after=max(waits, default=None))
        for sink in self._sinks:
            sink.verdicts = {}
        return [
            Refused(index, "; ".join(reasons))
            for index, of_span in enumerate(zip(*reasons_by_sink, strict=True))
            if (reasons := [reason for reason in of_span if reason is not None])
        ]

    def close(self) -> None:
        """Close all, also after one that raises an error."""
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.output.close)


def _deliver(sink: _Sink, outputs: Sequence[SagaSpanRecord]) -> list[str | None]:
    """The sink's reason for refusing each span, now or the last time; None where it took it."""
    known = [_verdict(sink, span) for span in outputs]
    new = [index for index, verdict in enumerate(known) if verdict is None]
    reasons: list[str | None] = [None if verdict is None else verdict[1] for verdict in known]
    if new:
        for refused in sink.output.deliver([outputs[index] for index in new]):
            reasons[new[refused.at]] = f"{sink.name}: {refused.reason}"
    sink.verdicts = {_identity(span): (span, reason) for span, reason in zip(outputs, reasons, strict=True)}
    return reasons


def _verdict(sink: _Sink, span: SagaSpanRecord) -> _Verdict | None:
    verdict = sink.verdicts.get(_identity(span))
    return verdict if verdict is not None and verdict[0] == span else None


def _identity(span: SagaSpanRecord) -> _SpanIdentity:
    return span.trace_id, span.span_id, span.name, span.end_time
