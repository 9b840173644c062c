"""The logs that a service answers for, whichever copies read them: their ends, and how these have grown."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["LogEnds"]

_REMEMBERED = 256
"""Ends of each log; of more, every second one is forgotten, but for the latest quarter."""


@dataclass(slots=True)
class _Log:
    begin: int
    ends: list[int] = field(default_factory=list)
    """Ascending."""
    until: list[float] = field(default_factory=list)
    """The time when each of them was seen last."""


class LogEnds:
    """The ends of logs over time. Thread-safe; times are seconds since 1970."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: dict[TopicPartition, _Log] = {}

    def saw(self, ranges: Mapping[TopicPartition, tuple[int, int]], now: float) -> None:
        """Note where the log of each partition begins and ends at this time."""
        with self._lock:
            for topic_partition, (begin, end) in ranges.items():
                log = self._logs.get(topic_partition)
                if log is None or end < log.ends[-1]:  # a topic that was made anew
                    log = self._logs[topic_partition] = _Log(begin)
                log.begin = begin
                if log.ends and end == log.ends[-1]:
                    log.until[-1] = now
                    continue
                log.ends.append(end)
                log.until.append(now)
                if len(log.ends) > _REMEMBERED:
                    old = slice(0, _REMEMBERED * 3 // 4, 2)
                    del log.ends[old], log.until[old]

    def ranges(self) -> dict[TopicPartition, tuple[int, int]]:
        """The beginning and the end of each log, as seen last."""
        with self._lock:
            return {topic_partition: (log.begin, log.ends[-1]) for topic_partition, log in self._logs.items()}

    def longer_since(self, topic_partition: TopicPartition, offset: int) -> float | None:
        """The last time when the log was seen to end at `offset` or before: what is behind it came later.

        None: it was never seen so short.
        """
        with self._lock:
            log = self._logs.get(topic_partition)
            last = bisect_right(log.ends, offset) - 1 if log is not None else -1
            return None if log is None or last < 0 else log.until[last]
