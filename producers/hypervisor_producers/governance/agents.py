"""The agents of this process under governance: who is registered, and how much each is trusted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from hypervisor_producers.governance.errors import TroubleCounts
from hypervisor_producers.governance.inputs import read_count, read_scores

__all__ = ["GovernedAgents"]

_MAX_AGENTS = 1_000_000
_NOT_SHOWN = "the trust scores of the last ones are not shown"


class GovernedAgents:
    """The agents behind the two gauges, with their trust scores.

    Thread-safe. Callbacks run on the thread that reads a gauge, outside the lock.
    """

    def __init__(self, max_scores: int, troubles: TroubleCounts) -> None:
        self._max_scores = max_scores
        self._troubles = troubles
        self._scores_callback: Callable[[], Any] | None = None
        self._active_callback: Callable[[], Any] | None = None
        self.start_over()

    def start_over(self) -> None:
        """Forget all agents and take a fresh lock: at the beginning, and in a forked child. Callbacks stay."""
        # Reentrant: a signal handler may register while its own thread is inside.
        self._lock = threading.RLock()
        self._registered: set[str] = set()
        self._scores: dict[str, float] = {}

    def register(self, agent_id: str) -> None:
        """Add an agent. Adding it again changes nothing.

        Raises:
            ValueError: A million agents are registered already.
        """
        with self._lock:
            if len(self._registered) >= _MAX_AGENTS and agent_id not in self._registered:
                raise ValueError(f"{_MAX_AGENTS:,} agents are registered; deregister those that have ended.")
            self._registered.add(agent_id)

    def deregister(self, agent_id: str) -> None:
        """Remove an agent: it is no longer active, and its score is no longer shown."""
        with self._lock:
            self._registered.discard(agent_id)
            self._scores.pop(agent_id, None)

    def set_score(self, agent_id: str, score: float) -> None:
        """Show this score for the agent, unless the limit of scores is reached."""
        with self._lock:
            is_shown = agent_id in self._scores or len(self._scores) < self._max_scores
            if is_shown:
                self._scores[agent_id] = score
        if not is_shown:
            self._troubles.overflow(_NOT_SHOWN)

    def set_scores_callback(self, callback: Callable[[], Any]) -> None:
        """Call `callback` at each scrape too, from now on."""
        self._scores_callback = callback

    def set_active_callback(self, callback: Callable[[], Any]) -> None:
        """Call `callback` at each scrape instead of counting, from now on."""
        self._active_callback = callback

    def scores(self) -> Mapping[str, float]:
        """The score of each agent, `max_scores` at most. The callback's scores win over those that were set."""
        with self._lock:
            scores = self._scores.copy()
        if self._scores_callback is None:
            return scores
        try:
            for entry in read_scores(self._scores_callback()):
                if isinstance(entry, ValueError):
                    self._troubles.report("gauge", "A trust score is not shown: %s", entry)
                elif entry[0] in scores or len(scores) < self._max_scores:
                    scores[entry[0]] = entry[1]
                else:
                    # Read no further: the callback's answer may never end.
                    self._troubles.overflow(_NOT_SHOWN)
                    break
        except Exception as error:  # noqa: BLE001 - code of the agent; the other metrics must still be scraped
            self._troubles.report("gauge", "The callback of the trust scores failed.", error=error)
        return scores

    def active(self) -> float | None:
        """The number of active agents; None if the callback failed, since any number would be wrong."""
        if self._active_callback is None:
            return len(self._registered)
        try:
            return read_count(self._active_callback())
        except Exception as error:  # noqa: BLE001 - code of the agent; the other metrics must still be scraped
            self._troubles.report("gauge", "The callback of the active agents failed.", error=error)
            return None
