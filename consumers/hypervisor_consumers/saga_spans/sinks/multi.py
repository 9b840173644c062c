"""Several sinks at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hypervisor_consumers.runtime.protocols import Output, Refused
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["SeveralSinks"]

_Identity: TypeAlias = tuple[str, str, str, float]


@dataclass(slots=True)
class _Sink:
    name: str
    output: Output[SagaSpanRecord]
    answered: dict[_Identity, tuple[SagaSpanRecord, str | None]] = field(default_factory=dict)
    """Of spans that have to come again for another sink's sake: what this one said. None: taken."""


class SeveralSinks:
    """Gives every span to all of them.

    When one can't take a batch now, the whole of it comes again; then it goes only to those that have not taken it
    yet. After a crash that isn't known any more, and it goes to all. What one refuses is refused, with the sink's
    name; the others have it.

    Args:
        sinks: By names for people.
    """

    def __init__(self, sinks: Iterable[tuple[str, Output[SagaSpanRecord]]]) -> None:
        self._sinks = [_Sink(name, output) for name, output in sinks]

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Hand over to each, also when one before it can't take it now.

        Raises:
            OutputUnavailable: One or more can't; it says which, and waits for the one that asks for most.
        """
        answers = []
        failed: list[str] = []
        waits: list[float] = []
        for sink in self._sinks:
            try:
                answers.append(_deliver(sink, outputs))
            except (OSError, OutputUnavailable) as error:
                failed.append(f"{sink.name}: {str(error).rstrip('.')}")
                if isinstance(error, OutputUnavailable) and error.retry_after is not None:
                    waits.append(error.retry_after)
        if failed:
            raise OutputUnavailable(f"{'; '.join(failed)}.", retry_after=max(waits, default=None))
        for sink in self._sinks:
            sink.answered = {}
        return [
            Refused(index, "; ".join(reasons))
            for index, said in enumerate(zip(*answers, strict=True))
            if (reasons := [reason for reason in said if reason is not None])
        ]

    def close(self) -> None:
        """Close all, whatever one says to it."""
        with contextlib.ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.output.close)


def _deliver(sink: _Sink, outputs: Sequence[SagaSpanRecord]) -> list[str | None]:
    """What the sink says to each, now or the last time."""
    known = [_known(sink, span) for span in outputs]
    new = [index for index, said in enumerate(known) if said is None]
    said: list[str | None] = [None if answer is None else answer[1] for answer in known]
    if new:
        for refused in sink.output.deliver([outputs[index] for index in new]):
            said[new[refused.at]] = f"{sink.name}: {refused.reason}"
    sink.answered = {_identity(span): (span, reason) for span, reason in zip(outputs, said, strict=True)}
    return said


def _known(sink: _Sink, span: SagaSpanRecord) -> tuple[SagaSpanRecord, str | None] | None:
    answered = sink.answered.get(_identity(span))
    return answered if answered is not None and answered[0] == span else None


def _identity(span: SagaSpanRecord) -> _Identity:
    return span.trace_id, span.span_id, span.name, span.end_time
