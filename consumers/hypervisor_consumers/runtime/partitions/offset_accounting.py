"""The account of a partition: what became of every one of its offsets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

__all__ = ["AGED_OUT", "WITHOUT_RECORD", "Account", "Tally"]

WITHOUT_RECORD = "without_record"
"""Offsets that hold no record for anybody: transaction markers, records of aborted transactions."""

AGED_OUT = "aged_out"
"""Offsets that retention deleted before they were read."""


class Account(msgspec.Struct, frozen=True, array_like=True):
    """The results of every offset from `first_offset` to just before `next_offset`."""

    first_offset: int
    next_offset: int
    results: dict[str, int]
    published_ms: int = 0
    """The time when the last record was published, in milliseconds since 1970; 0: there was none."""

    @property
    def difference(self) -> int:
        """The distance in offsets less what is accounted for: 0, or something is wrong."""
        return self.next_offset - self.first_offset - sum(self.results.values())


class Tally:
    """The results since an account was drawn up; `account` draws up the next."""

    def __init__(self, since: Account) -> None:
        self._since = since
        self._results: Counter[str] = Counter()
        self._published = since.published_ms
        self.next_offset = since.next_offset

    def passed(self, offset: int, result: str) -> None:
        """The record at `offset` ended so; offsets before it that were not named hold none."""
        if offset != self.next_offset:
            self.advance(offset)
        self._results[result] += 1
        self.next_offset = offset + 1

    def passed_all(self, first_offset: int, results: Mapping[str, int]) -> None:
        """So many records, at consecutive offsets, ended so."""
        if first_offset != self.next_offset:
            self.advance(first_offset)
        self._results.update({result: count for result, count in results.items() if count})
        self.next_offset += sum(results.values())

    def advance(self, next_offset: int) -> None:
        """The log goes on at `next_offset`; between here and there is no record."""
        self._skip(next_offset, WITHOUT_RECORD)

    def lose(self, next_offset: int) -> None:
        """Retention has deleted what would come next, up to `next_offset`."""
        self._skip(next_offset, AGED_OUT)

    def _skip(self, next_offset: int, result: str) -> None:
        if next_offset > self.next_offset:
            self._results[result] += next_offset - self.next_offset
            self.next_offset = next_offset

    def seen(self, published_ms: int) -> None:
        """The time of publishing of the record that was passed last, in milliseconds since 1970."""
        self._published = published_ms

    def account(self) -> Account:
        """The account up to here."""
        results = Counter(self._since.results)
        results.update(self._results)
        return Account(self._since.first_offset, self.next_offset, dict(results), self._published)
