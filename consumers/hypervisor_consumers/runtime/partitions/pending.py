"""A partition's share of the next commit, beside the changes of its state. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.records import OutputBatch
from hypervisor_schemas.dead_letters import DeadLetter

__all__ = ["Outputs", "Pending", "Rewrite"]

O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols


class Outputs(Generic[O]):
    """The outputs of one partition since its last commit, and what became of them."""

    def __init__(self) -> None:
        self._all: list[tuple[int, O]] = []
        self._done = 0
        self._refused: list[tuple[int, O, str]] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, outputs: Sequence[tuple[int, O]]) -> None:
        """Add outputs, each with the offset that it came out of."""
        self._all += outputs

    @property
    def waiting(self) -> int:
        """The number of those that are neither delivered nor refused."""
        return len(self._all) - self._done

    def next(self, count: int) -> list[O]:
        """The first of those that wait."""
        return [output for _, output in self._all[self._done : self._done + count]]

    def passed(self, count: int, refused: dict[int, str]) -> None:
        """Let the first of those that wait pass; `refused`: the reasons, by index, of those that nobody takes."""
        for index, reason in sorted(refused.items()):
            self._refused.append((*self._all[self._done + index], reason))
        self._done += count

    def refused(self) -> Iterator[tuple[int, O, str]]:
        """The refused ones that were not given here yet: offset, output, reason."""
        refused, self._refused = self._refused, []
        yield from refused

    def clear(self) -> None:
        """Forget them: they are committed, or their events will be read again."""
        self._all, self._done, self._refused = [], 0, []


@dataclass(slots=True)
class Pending(Generic[O]):
    """The dead letters and outputs of the next commit; after an abort their records are read again."""

    dead_letters: list[DeadLetter] = field(default_factory=list)
    outputs: Outputs[O] = field(default_factory=Outputs)
    published_ms: Counter[int] = field(default_factory=Counter)
    """The number of records that were published at each time, in milliseconds since 1970."""

    def clear(self) -> None:
        """Forget it."""
        self.dead_letters.clear()
        self.outputs.clear()
        self.published_ms.clear()


class Rewrite:
    """The records of the last commit, written once more after an abort: the abort may have undone that commit.

    `kafka.hanging_transactions` tells why. Of the rows of compacted topics only the last record of each key is
    written, so it is bounded by what there is, however many aborts come. Rows are the same when they are written
    twice; a dead letter would be there twice, so those are written once more only if there is a reason to.
    """

    def __init__(self) -> None:
        self._committed: Sequence[OutputBatch] = ()
        self._in_flight: Sequence[OutputBatch] = ()
        self._again: Sequence[OutputBatch] = ()

    def with_earlier(self, batches: Sequence[OutputBatch]) -> Sequence[OutputBatch]:
        """These batches of the next commit, and before them what is written once more."""
        self._in_flight = [*_not_in(self._again, batches), *batches] if self._again else batches
        return self._in_flight

    def committed(self) -> None:
        """Remember the batches: their commit went through."""
        self._committed, self._in_flight, self._again = self._in_flight, (), ()

    def aborted(self, *, without_topic: str | None = None) -> None:
        """Write the batches of the last commit once more, but for those of this topic."""
        self._in_flight = ()
        self._again = [batch for batch in self._committed if batch.topic_partition.topic != without_topic]


def _not_in(earlier: Sequence[OutputBatch], later: Sequence[OutputBatch]) -> Iterator[OutputBatch]:
    """The earlier records that no later one of the same key replaces; a record without a key is never replaced."""
    written = {
        (topic_partition, key)
        for topic_partition, records in later
        for key, _, headers in records
        if key is not None and headers is None
    }
    for topic_partition, records in earlier:
        left = [record for record in records if (topic_partition, record[0]) not in written]
        if left:
            yield OutputBatch(topic_partition, left)
