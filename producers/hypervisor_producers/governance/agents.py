"""The agents of this process under governance: who is registered, and how much each is trusted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from hypervisor_producers.governance.errors import Troubles
from hypervisor_producers.governance.inputs import read_count, read_scores

__all__ = ["GovernedAgents"]

_MOST_AGENTS = 1_000_000
_NOT_SHOWN = "the trust scores of the last ones are not shown"


class GovernedAgents:
    """What the two gauges show. Thread-safe; callbacks are called by whoever asks, and outside the lock."""

    def __init__(self, max_scores: int, troubles: Troubles) -> None:
        self._max_scores = max_scores
        self._troubles = troubles
        self._ask_scores: Callable[[], Any] | None = None
        self._ask_active: Callable[[], Any] | None = None
        self.start_over()

    def start_over(self) -> None:
        """No agents, and a fresh lock: at the beginning, and in a forked child. Callbacks stay."""
        # Reentrant: a signal handler may register while its own thread is inside.
        self._lock = threading.RLock()
        self._registered: set[str] = set()
        self._scores: dict[str, float] = {}

    def register(self, agent_id: str) -> None:
        """Once more is the same as once.

        Raises:
            ValueError: There are a million already.
        """
        with self._lock:
            if len(self._registered) >= _MOST_AGENTS and agent_id not in self._registered:
                raise ValueError(f"{_MOST_AGENTS:,} agents are registered; deregister those that have ended.")
            self._registered.add(agent_id)

    def deregister(self, agent_id: str) -> None:
        """It is not active any more, and its score isn't shown any more."""
        with self._lock:
            self._registered.discard(agent_id)
            self._scores.pop(agent_id, None)

    def set_score(self, agent_id: str, score: float) -> None:
        """Show this one for the agent, if there is room."""
        with self._lock:
            has_room = agent_id in self._scores or len(self._scores) < self._max_scores
            if has_room:
                self._scores[agent_id] = score
        if not has_room:
            self._troubles.overflow(_NOT_SHOWN)

    def ask_for_scores(self, callback: Callable[[], Any]) -> None:
        """From now on, `callback` is asked at each scrape as well."""
        self._ask_scores = callback

    def ask_for_active(self, callback: Callable[[], Any]) -> None:
        """From now on, `callback` is asked at each scrape instead of counting."""
        self._ask_active = callback

    def scores(self) -> Mapping[str, float]:
        """Agent to score, `max_scores` at most: what was set, and what the callback says, whose word counts."""
        with self._lock:
            scores = self._scores.copy()
        if self._ask_scores is None:
            return scores
        try:
            for entry in read_scores(self._ask_scores()):
                if isinstance(entry, ValueError):
                    self._troubles.report("gauge", "A trust score is not shown: %s", entry)
                elif entry[0] in scores or len(scores) < self._max_scores:
                    scores[entry[0]] = entry[1]
                else:
                    # And no further: it may never end.
                    self._troubles.overflow(_NOT_SHOWN)
                    break
        except Exception as error:  # noqa: BLE001 - a stranger's code, and others are to be scraped
            self._troubles.report("gauge", "The callback of the trust scores failed.", error=error)
        return scores

    def active(self) -> float | None:
        """How many are active; None where the callback can't say, since any number would be wrong."""
        if self._ask_active is None:
            return len(self._registered)
        try:
            return read_count(self._ask_active())
        except Exception as error:  # noqa: BLE001 - a stranger's code, and others are to be scraped
            self._troubles.report("gauge", "The callback of the active agents failed.", error=error)
            return None
