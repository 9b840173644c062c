"""The times to commit, and whether the commits of late have come as far as what was read."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.backoff import Backoff

__all__ = ["CommitSchedule"]


class CommitSchedule:
    """The times to commit: at an interval, and while commits fail, after ever longer waits.

    Args:
        interval: Seconds between two commits.
        clock: Seconds, by a monotonic clock.
        chance: Numbers from 0 to 1, so that copies that wait for the same thing don't try together.
    """

    def __init__(
        self,
        interval: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.interval = interval
        self.next_commit = 0.0
        self._clock = clock
        self._chance = chance
        self._wait: Backoff | None = None
        self._goals: dict[TopicPartition, int] = {}
        self.is_held = False
        """Whether reading waits for a commit."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to look at commits."""
        return self._clock() >= self.next_commit

    @property
    def is_failing(self) -> bool:
        """Whether no commit has gone through yet that covers what was rolled back."""
        return self._wait is not None

    @property
    def is_waiting(self) -> bool:
        """Whether it is too early to try a commit that failed again."""
        return self.is_held and self._wait is not None and self._clock() < self._wait.until

    def begin(self) -> None:
        """A commit is tried now."""
        self.next_commit = self._clock() + self.interval

    def hold(self, at_least: float) -> bool:
        """Note that the commit failed. Returns whether reading went on until now."""
        now, was_reading = self._clock(), not self.is_held
        if self._wait is None:
            self._wait = Backoff(now)
        self._wait.again(now, at_least=at_least, spread=self._chance())
        self.is_held = True
        return was_reading

    def rolled_back(self, positions: Mapping[TopicPartition, int]) -> None:
        """Note what was read and is to be read again: a commit has to come as far before all is well."""
        self._goals |= {name: max(position, self._goals.get(name, 0)) for name, position in positions.items()}

    def committed(self, positions: Mapping[TopicPartition, int]) -> bool:
        """Note a commit that went through, maybe of nothing; `positions`: of all partitions that this copy has.

        Reading goes on. The wait before the next try stays as long as it was until what was rolled back is covered.
        Returns whether it is.
        """
        self.is_held = False
        self._goals = {name: goal for name, goal in self._goals.items() if positions.get(name, goal) < goal}
        if not self._goals:
            self._wait = None
        return not self._goals
