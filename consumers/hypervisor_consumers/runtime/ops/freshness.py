"""The age of an answer: the offsets of the log that it includes, and how much of the log is behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["Freshness", "IndexFreshness"]


@dataclass(frozen=True, slots=True)
class Freshness:
    """The age of answers from the partitions of one topic."""

    topic: str
    runtime_metrics: RuntimeMetrics
    now: Callable[[], float]

    def of(self, accounts: Mapping[int, Account]) -> dict[str, Any]:
        """The age of an answer, as JSON.

        `includes`: per partition that this copy answers for, the offset up to which the log is included.
        `lag_records`: offsets behind those. `lag_seconds`: the age of the last record included of the partition
        that is furthest behind, 0 where nothing is behind. Null where it isn't known: Kafka hasn't told the end
        of one of them, or when its last record was published.
        """
        read = {
            TopicPartition(self.topic, partition): (one.next_offset, one.published_ms)
            for partition, one in accounts.items()
        }
        return {
            "topic": self.topic,
            "includes": {str(partition): account.next_offset for partition, account in sorted(accounts.items())},
            **_lag(read, self.runtime_metrics, self.now()),
        }


@dataclass(frozen=True, slots=True)
class IndexFreshness:
    """The age of answers from a database that all partitions of several topics go to, whoever writes them."""

    runtime_metrics: RuntimeMetrics
    now: Callable[[], float]

    def of(self, includes: Mapping[TopicPartition, int]) -> dict[str, Any]:
        """The age of an answer, as JSON, from the next offsets in the database.

        `includes`: as above, by topic. `lag_records`: offsets that are not included, of all partitions.
        `lag_seconds`: for how long one of those has been in the log, at most: Kafka is looked at every two seconds.
        Null where Kafka hasn't told, or not for long enough. `is_partial`: records of a partition are in the log
        and none of it in the database, or this copy can't know yet.
        """
        by_topic: dict[str, dict[str, int]] = {}
        for topic_partition, offset in sorted(includes.items()):
            by_topic.setdefault(topic_partition.topic, {})[str(topic_partition.partition)] = offset
        accounts, log_ends = self.runtime_metrics.accounts(), self.runtime_metrics.log_ends.ranges()
        missing = {
            topic_partition for topic_partition, (begin, end) in log_ends.items() if end > begin
        } | accounts.keys()
        return {
            "freshness": {"includes": by_topic, **self._lag(includes, accounts, log_ends)},
            "is_partial": not log_ends or not missing <= includes.keys(),
        }

    def _lag(
        self,
        includes: Mapping[TopicPartition, int],
        accounts: Mapping[TopicPartition, Account | None],
        log_ends: Mapping[TopicPartition, tuple[int, int]],
    ) -> dict[str, Any]:
        topics = {topic_partition.topic for topic_partition in log_ends}
        now = since = self.now()
        records, is_timed = 0, True
        for topic_partition in includes.keys() | log_ends.keys():
            if topic_partition not in log_ends:
                # Nothing is missing of a topic that doesn't exist any more.
                if not log_ends or topic_partition.topic in topics:
                    return {"lag_records": None, "lag_seconds": None}
                continue
            begin, end = log_ends[topic_partition]
            included = max(includes.get(topic_partition, begin), begin)
            if end <= included:
                continue
            records += end - included
            # The first that is missing came later than either.
            account = accounts.get(topic_partition)
            known = [
                time
                for time in (
                    self.runtime_metrics.log_ends.longer_since(topic_partition, included),
                    account.published_ms / 1000 if account is not None and account.published_ms else None,
                )
                if time is not None
            ]
            is_timed = is_timed and bool(known)
            since = min(since, max(known, default=since))
        return {"lag_records": records, "lag_seconds": round(now - since, 3) if is_timed else None}


def _lag(
    read: Mapping[TopicPartition, tuple[int, int]], runtime_metrics: RuntimeMetrics, now: float
) -> dict[str, Any]:
    """The lag of partitions of which each is read up to an offset, its last record published at (ms)."""
    lag = 0
    seconds: float | None = 0.0
    for topic_partition, (offset, published_ms) in read.items():
        end = runtime_metrics.end_of(topic_partition)
        if end is None:
            return {"lag_records": None, "lag_seconds": None}
        behind = max(0, end - offset)
        lag += behind
        if behind and seconds is not None:
            seconds = max(seconds, now - published_ms / 1000) if published_ms else None
    return {"lag_records": lag, "lag_seconds": seconds if seconds is None else round(seconds, 3)}
