"""Sinks of other packages, by the entry-point group `hypervisor_telemetry.span_sinks`.

An entry point names a factory. It takes the text behind the colon of `--sink NAME:TEXT` ("" without one) and
returns an object with `record_span`, like an in-process sink. If the object has `record_saga_span`, it gets the
whole record instead, ids and parent included. If it has `close`, that is called at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.sink_adapter import hand_over
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord, SpanSink
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["GROUP", "EntryPointSink", "installed_sink", "installed_sinks"]

log = logging.getLogger(__name__)

GROUP = "hypervisor_telemetry.span_sinks"


def installed_sinks() -> list[str]:
    """The names of the sinks that installed packages bring."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def installed_sink(setting: str, name: str, text: str) -> EntryPointSink:
    """The sink of this entry point, which is installed.

    Raises:
        SettingError: It can't be loaded or made, or has no `record_span`.
    """
    entry = next(iter(entry_points(group=GROUP, name=name)))
    try:
        sink = entry.load()(text)
    except SettingError:
        raise
    except Exception as error:
        # Its words may repeat the text, which may be a password: they are logged at debug only.
        log.debug("The sink %s can't be made", name, exc_info=error)
        raise SettingError(
            setting,
            f"names {name}, an entry point of another package ({entry.value}) that can't be made: it raised "
            f"{type(error).__name__}. TELEMETRY_LOG_LEVEL=debug shows where.",
        ) from None
    if not isinstance(sink, SpanSink):
        raise SettingError(
            setting, f"names {name}, an entry point of another package ({entry.value}) without record_span."
        )
    return EntryPointSink(name, sink)


class EntryPointSink:
    """Hands spans over one by one. An error of the sink means: try again."""

    def __init__(self, name: str, sink: SpanSink) -> None:
        self._name = name
        self._sink = sink
        self._limited = RateLimitedLog(log)

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Hand over all.

        Raises:
            OutputUnavailable: It failed at a span; all come again, those before it too.
        """
        for span in outputs:
            try:
                hand_over(self._sink, span)
            except OutputUnavailable:
                raise
            except Exception as error:  # noqa: BLE001 - a stranger's code
                self._limited.log(logging.WARNING, "failed", "The sink %s failed.", self._name, error=error)
                # `/readyz` shows this to everybody: no words of a stranger's error there.
                raise OutputUnavailable(
                    f"The sink {self._name} failed with {type(error).__name__}; the log says where."
                ) from None
        return ()

    def close(self) -> None:
        """Call its `close`, if it has one."""
        close: Any = getattr(self._sink, "close", None)
        if callable(close):
            close()
