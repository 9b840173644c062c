"""Faults of recording: counted by reason and logged at a limited rate, so that GovernanceMetrics never raises."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType

from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["GOVERNANCE_OVERFLOW", "GOVERNANCE_TROUBLES", "TROUBLES", "TroubleCounts"]

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
"""The reasons for which something is not recorded, or not in every output."""

GOVERNANCE_TROUBLES = (
    "hypervisor_governance_troubles",
    "What governance metrics could not record, by reason.",
)
GOVERNANCE_OVERFLOW = (
    "hypervisor_governance_overflow",
    "Decisions that were counted in the overflow series, and trust scores that are not shown.",
)
"""Name (without `_total`) and help text of the two counters that show these counts."""


class TroubleCounts:
    """Counts and logs what could not be recorded. Thread-safe.

    `clock` gives seconds; only the rate of log lines depends on it.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._limited = RateLimitedLog(_log, clock=clock)
        self.start_over()

    def start_over(self) -> None:
        """Set all counts to 0 and take a fresh lock: at the beginning, and in a forked child."""
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(TROUBLES, 0)
        self._overflowed = 0

    def report(self, reason: str, message: str, *args: object, error: BaseException | None = None) -> None:
        """Count one fault under `reason`, and log `message % args`: each message at most once per minute."""
        with self._lock:
            self._counts[reason] += 1
        self._limited.log(logging.WARNING, reason + message, message, *args, error=error)

    def overflow(self, consequence: str) -> None:
        """Count something that got no series of its own, and log the `consequence`."""
        with self._lock:
            self._overflowed += 1
        self._limited.log(
            logging.WARNING,
            f"overflow {consequence}",
            "There are more series than max_series, so %s; raise it, or put labels together.",
            consequence,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts by reason; every reason is there."""
        return MappingProxyType(self._counts.copy())

    @property
    def overflowed(self) -> int:
        """The number of times that something got no series of its own."""
        return self._overflowed
