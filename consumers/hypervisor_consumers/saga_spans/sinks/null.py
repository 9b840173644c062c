"""A sink that keeps nothing."""

from __future__ import annotations

from collections.abc import Sequence

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord

__all__ = ["NullSink"]


class NullSink:
    """Takes every span and keeps none."""

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:  # noqa: ARG002 - gone
        """Do nothing."""
        return ()

    def close(self) -> None:
        """Do nothing."""
