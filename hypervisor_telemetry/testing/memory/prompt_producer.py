"""A producer to a Kafka in memory for a client that serves it from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from hypervisor_telemetry.testing.memory.broker import Broker
from hypervisor_telemetry.testing.memory.producer import MemoryProducer

__all__ = ["PromptProducer"]

_LONGEST_POLL_SECONDS = 0.005
"""A client that closes waits for the end of a poll."""


class PromptProducer(MemoryProducer):
    """A producer that delivers each record at once, and whose `poll()` waits for delivery reports."""

    def __init__(self, broker: Broker, settings: Mapping[str, Any]) -> None:
        super().__init__(broker, settings)
        self._has_reports = threading.Event()

    def produce(self, *args: Any, **kwargs: Any) -> None:
        """Append a record to the log; its report is due at the next `poll()`. As `MemoryProducer.produce`."""
        super().produce(*args, **kwargs)
        with self._broker.lock:
            self.deliver()
        self._has_reports.set()

    def poll(self, timeout: float = -1) -> int:
        """Wait for reports, 5 ms at most, and call those that are due. Returns 0: the client rests after others."""
        self._has_reports.wait(_LONGEST_POLL_SECONDS if timeout < 0 else min(timeout, _LONGEST_POLL_SECONDS))
        self._has_reports.clear()
        super().poll(0)
        return 0
