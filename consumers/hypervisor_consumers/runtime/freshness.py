"""How old an answer is: which offsets of the log it includes, and how much of the log is behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypervisor_consumers.runtime.account import Account
from hypervisor_consumers.runtime.metrics import Ledger
from hypervisor_consumers.runtime.processor import Place

__all__ = ["Freshness"]


@dataclass(frozen=True, slots=True)
class Freshness:
    """Of answers from the partitions of one topic."""

    topic: str
    ledger: Ledger
    now: Callable[[], float]

    def of(self, accounts: Mapping[int, Account]) -> dict[str, Any]:
        """What an answer says of its age, as JSON.

        `includes`: per partition that this copy answers for, the offset up to which the log is included.
        `lag_records`: offsets behind those, null while Kafka hasn't told the end of one of them.
        `lag_seconds`: the age of the last record included of the partition that is furthest behind, 0 where
        nothing is behind.
        """
        lag, seconds = 0, 0.0
        is_known = True
        for partition, account in accounts.items():
            end = self.ledger.end_of(Place(self.topic, partition))
            if end is None:
                is_known = False
                continue
            behind = max(0, end - account.next_offset)
            lag += behind
            if behind and account.published:
                seconds = max(seconds, self.now() - account.published / 1000)
        return {
            "topic": self.topic,
            "includes": {str(partition): account.next_offset for partition, account in sorted(accounts.items())},
            "lag_records": lag if is_known else None,
            "lag_seconds": round(seconds, 3),
        }
