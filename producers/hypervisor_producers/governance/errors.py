"""What GovernanceMetrics could not record: counted by reason, logged at a limited rate, never raised."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["GOVERNANCE_OVERFLOW", "GOVERNANCE_TROUBLES", "TROUBLES", "Troubles"]

_log = logging.getLogger(__name__)

TROUBLES: Mapping[str, str] = MappingProxyType(
    {
        "invalid": "A value can't be what it has to be: an empty agent id, a score above 1000, a latency below 0.",
        "undecided": "An evaluation ended without allow(), deny() or rate_limited().",
        "label": "A function that puts labels together raised, or returned no text.",
        "gauge": "The callback of a gauge raised, or returned what is no score or no number.",
        "output": "The bus or the meter raised.",
    }
)
"""Why something is not recorded, or not everywhere."""

GOVERNANCE_TROUBLES = (
    "hypervisor_governance_troubles",
    "What governance metrics could not record, by reason.",
)
GOVERNANCE_OVERFLOW = (
    "hypervisor_governance_overflow",
    "Decisions that were counted in the overflow series, and trust scores that are not shown.",
)
"""Name (without `_total`) and help text of the two counters that tell of this class."""


class Troubles:
    """Thread-safe. `clock` gives seconds, for the rate of reports only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._limited = RateLimitedLog(_log, clock=clock)
        self.start_over()

    def start_over(self) -> None:
        """Nothing has happened, and a fresh lock: at the beginning, and in a forked child."""
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(TROUBLES, 0)
        self._overflowed = 0

    def report(self, reason: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Count it under `reason`, and log `message % args`, at most one per minute of the same kind."""
        with self._lock:
            self._counts[reason] += 1
        self._limited.log(logging.WARNING, reason + message, message, *args, error=error)

    def overflow(self, what: str) -> None:
        """Count one that found no series of its own."""
        with self._lock:
            self._overflowed += 1
        self._limited.log(
            logging.WARNING,
            f"overflow {what}",
            "There are more series than max_series, so %s; raise it, or put labels together.",
            what,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """By reason; every reason is there."""
        return MappingProxyType(self._counts.copy())

    @property
    def overflowed(self) -> int:
        """How often something found no series of its own."""
        return self._overflowed
