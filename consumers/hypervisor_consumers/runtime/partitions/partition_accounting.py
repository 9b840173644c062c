"""The account of an assigned partition as committed, held against what Kafka says of the group."""

from __future__ import annotations

import threading
from collections import deque

from hypervisor_consumers.runtime.partitions.offset_accounting import Account

__all__ = ["PartitionAccounting"]

_REMEMBERED_COMMITS = 1000
"""Kafka is asked every few seconds, commits are many times as frequent: its answer is one of the last so many."""


class PartitionAccounting:
    """The account of one partition as committed, held against what Kafka says of the group. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commits: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED_COMMITS)
        """The offset of each commit, and how many offsets were accounted for by then."""
        self.restore_again()
        self.log_end: int | None = None
        """The end of the log when Kafka was asked last."""

    def restore_again(self) -> None:
        """Forget the account: the partition is being restored once more."""
        with self._lock:
            self._commits.clear()
            self.account: Account | None = None
            self.is_restored = False
            self.log_end = None
            self.behind_since: float | None = None
            """The time since which the log is known to be longer than the account, in seconds since 1970."""
            self.distance: int | None = None
            """The distance in offsets that the group has come since the account began, as Kafka tells it."""
            self.difference = 0
            """The distance less what is accounted for up to the same offset."""

    def restored(self, account: Account) -> None:
        """Take the account that was restored."""
        with self._lock:
            self._commits.clear()
            self._take(account)
            self.is_restored = True

    def committed(self, account: Account) -> None:
        """Take the account after a commit."""
        with self._lock:
            self._take(account)

    def _take(self, account: Account) -> None:
        self.account = account
        self._commits.append((account.next_offset, sum(account.results.values())))

    def saw_end(self, end: int, now: float) -> None:
        """Take the end of the log; `now`: seconds since 1970."""
        with self._lock:
            self.log_end = end
            is_behind = self.account is not None and self.account.next_offset < end
            if not is_behind:
                self.behind_since = None
            elif self.behind_since is None:
                self.behind_since = now

    def is_at_end(self, offset: int) -> bool:
        """Whether the log ends at `offset`, uncommitted records counted, as far as Kafka has told.

        A reader of committed records is told an end also where an open transaction begins: more may come there that
        was published long ago.
        """
        return self.log_end is None or self.log_end <= offset

    def compare(self, committed: int) -> None:
        """Hold the account against the group's offset in Kafka."""
        with self._lock:
            if self.account is None:
                return
            accounted = next((count for offset, count in reversed(self._commits) if offset == committed), None)
            if accounted is not None:
                self.distance = committed - self.account.first_offset
                self.difference = self.distance - accounted
