"""How old an answer is: which offsets of the log it includes, and how much of the log is behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypervisor_consumers.runtime.account import Account
from hypervisor_consumers.runtime.metrics import Ledger
from hypervisor_consumers.runtime.processor import Place

__all__ = ["Freshness", "IndexFreshness"]


@dataclass(frozen=True, slots=True)
class Freshness:
    """Of answers from the partitions of one topic."""

    topic: str
    ledger: Ledger
    now: Callable[[], float]

    def of(self, accounts: Mapping[int, Account]) -> dict[str, Any]:
        """What an answer says of its age, as JSON.

        `includes`: per partition that this copy answers for, the offset up to which the log is included.
        `lag_records`: offsets behind those. `lag_seconds`: the age of the last record included of the partition
        that is furthest behind, 0 where nothing is behind. Null where it isn't known: Kafka hasn't told the end
        of one of them, or when its last record was published.
        """
        read = {
            Place(self.topic, partition): (one.next_offset, one.published) for partition, one in accounts.items()
        }
        return {
            "topic": self.topic,
            "includes": {str(partition): account.next_offset for partition, account in sorted(accounts.items())},
            **_lag(read, self.ledger, self.now()),
        }


@dataclass(frozen=True, slots=True)
class IndexFreshness:
    """Of answers from a database that all partitions of several topics go to, whichever copies write them."""

    ledger: Ledger
    now: Callable[[], float]

    def of(self, includes: Mapping[Place, int]) -> dict[str, Any]:
        """What an answer says of its age, as JSON, from the next offsets in the database.

        `freshness` is as above, `includes` by topic; of what other copies write the lag isn't known here.
        `is_partial`: a partition of this copy isn't in the database yet, or it has none and can't know.
        """
        accounts = self.ledger.accounts()
        by_topic: dict[str, dict[str, int]] = {}
        read: dict[Place, tuple[int, int]] = {}
        for place, offset in sorted(includes.items()):
            by_topic.setdefault(place.topic, {})[str(place.partition)] = offset
            account = accounts.get(place)
            read[place] = offset, account.published if account else 0
        return {
            "freshness": {"includes": by_topic, **_lag(read, self.ledger, self.now())},
            "is_partial": not accounts or not accounts.keys() <= includes.keys(),
        }


def _lag(read: Mapping[Place, tuple[int, int]], ledger: Ledger, now: float) -> dict[str, Any]:
    """The lag of partitions of which each is read up to an offset, its last record published at (ms)."""
    lag = 0
    seconds: float | None = 0.0
    for place, (offset, published) in read.items():
        end = ledger.end_of(place)
        if end is None:
            return {"lag_records": None, "lag_seconds": None}
        behind = max(0, end - offset)
        lag += behind
        if behind and seconds is not None:
            seconds = max(seconds, now - published / 1000) if published else None
    return {"lag_records": lag, "lag_seconds": seconds if seconds is None else round(seconds, 3)}
