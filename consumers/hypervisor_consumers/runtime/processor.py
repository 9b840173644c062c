"""What the consumer loop drives, and the processor that runs a fold.

A fold's state is rebuilt when a partition comes to this copy: its log is read again from the beginning, outputs
that were delivered before are not delivered again, and nothing of the partition is shown until its state
includes all that was in the log when it came. So a number shown here is never below one shown before, by this
copy or another.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

from hypervisor_consumers.runtime.contract import Fold, Output
from hypervisor_consumers.runtime.window import IdWindow
from hypervisor_schemas.errors import InvalidPayload
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["FoldProcessor", "Place", "Processor", "Result"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the contract


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Result(str, Enum):  # noqa: UP042 - alike to the event types
    """What became of a good record. A bad one is counted by its `RecordError.reason`."""

    APPLIED = "applied"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"


class Processor(Protocol):
    """The part of a service that the loop drives, from one thread."""

    def assigned(self, place: Place, committed: int | None, begin: int, end: int) -> int:
        """A partition came. Returns the offset to read from.

        `committed` is the group's committed offset; the log reaches from `begin` to just before `end`.

        Raises:
            OutputUnavailable: It can't be told now where to begin; the loop asks again.
        """
        ...

    def revoked(self, place: Place) -> None:
        """A partition went: whatever is held for it is dropped."""
        ...

    def apply(self, place: Place, offset: int, event: HypervisorEvent) -> Result:
        """Take one event, in the order of its partition.

        Raises:
            InvalidPayload: The event doesn't fit its type and was not taken.
        """
        ...

    def advanced(self, place: Place, next_offset: int) -> None:
        """All before `next_offset` was read; what was not given to `apply` could not be used or is no event."""
        ...

    def deliver(self) -> Mapping[Place, int]:
        """Make safe what was taken. Returns the offsets that may be committed, each after the last record.

        Raises:
            OSError, OutputUnavailable: Not now; the loop stops reading and calls again after a while.
        """
        ...

    def is_restored(self, place: Place) -> bool:
        """Whether the partition's state includes what was in the log when it came."""
        ...

    def close(self) -> None:
        """Called once, at the end."""
        ...


@dataclass(slots=True)
class _Partition(Generic[S]):
    state: S
    deliver_from: int
    """The group's committed offset: what outputs came of records before it are already delivered."""
    restored_at: int
    next_offset: int
    window: IdWindow


class FoldProcessor(Generic[S, O]):
    """Runs a fold, one state per partition, and hands its outputs to an output."""

    def __init__(
        self, fold: Fold[S, O], output: Output[O] | None = None, *, duplicate_window: int = 100_000
    ) -> None:
        self._fold = fold
        self._output = output
        self._duplicate_window = duplicate_window
        self._lock = threading.Lock()
        self._partitions: dict[Place, _Partition[S]] = {}
        self._undelivered: list[tuple[Place, O]] = []

    def assigned(self, place: Place, committed: int | None, begin: int, end: int) -> int:
        """Start over with an empty state, from the beginning of the log."""
        # A group that stands behind the end read another log: the topic was made anew.
        deliver_from = committed if committed is not None and committed <= end else begin
        with self._lock:
            self._partitions[place] = _Partition(
                self._fold.new_state(), deliver_from, end, begin, IdWindow(self._duplicate_window)
            )
        return begin

    def revoked(self, place: Place) -> None:
        """Forget the partition; its series leave `/metrics` with it."""
        with self._lock:
            self._partitions.pop(place, None)
            self._undelivered = [item for item in self._undelivered if item[0] != place]

    def apply(self, place: Place, offset: int, event: HypervisorEvent) -> Result:
        """Fold one event, unless its id was seen in the partition's window."""
        with self._lock:
            partition = self._partitions[place]
            if partition.window.is_repeated(offset, event.event_id):
                partition.next_offset = offset + 1
                return Result.DUPLICATE
            try:
                outputs = self._fold.apply(partition.state, event)
            except InvalidPayload:
                partition.window.forget(event.event_id)
                raise
            partition.next_offset = offset + 1
            if outputs and offset >= partition.deliver_from:
                self._undelivered.extend((place, output) for output in outputs)
        return Result.IGNORED if outputs is None else Result.APPLIED

    def advanced(self, place: Place, next_offset: int) -> None:
        """Count the offsets as read."""
        with self._lock:
            self._partitions[place].next_offset = next_offset

    def deliver(self) -> Mapping[Place, int]:
        """Hand the outputs over; the offsets behind them may be committed."""
        if self._undelivered and self._output is not None:
            self._output.deliver([output for _, output in self._undelivered])
        self._undelivered.clear()
        # A committed offset never goes back: while a partition is read again, the old one stands.
        return {
            place: partition.next_offset
            for place, partition in self._partitions.items()
            if partition.next_offset > partition.deliver_from
        }

    def is_restored(self, place: Place) -> bool:
        """Whether the state has caught up with what was in the log when the partition came."""
        partition = self._partitions.get(place)
        return partition is not None and partition.next_offset >= partition.restored_at

    @contextmanager
    def visible_states(self) -> Iterator[dict[int, S]]:
        """The states that may be shown, by partition number; they don't change inside the `with`."""
        with self._lock:
            yield {
                place.partition: partition.state
                for place, partition in self._partitions.items()
                if self.is_restored(place)
            }

    def close(self) -> None:
        """Close the output."""
        if self._output is not None:
            self._output.close()
