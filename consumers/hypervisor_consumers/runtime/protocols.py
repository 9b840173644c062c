"""The parts of a stateful service: a pure fold over the state of a partition, and the receivers of its results.

The runtime owns everything else: which partitions this copy has, restoring, transactions, offsets, threads, health.
A fold knows no Kafka; the same fold also runs in-process, fed by a bus. A service is

* a `Fold`: events to changes of a state; the state is a dataclass of `Table`s and nothing else;
* for a fold that takes many events in one step, a `BatchFold`;
* optionally an `Output` that takes the fold's outputs (spans) before the transaction of their events begins;
* optionally a `Publish` function: from a state's changes to records of a public topic, in the same transaction;
* optionally a `View`: a compacted public topic that every copy reads from its beginning, for what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.topics import partition_of

if TYPE_CHECKING:
    # Folds also run in an agent, whose install has no numpy.
    import numpy as np
    import numpy.typing as npt

    from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns

__all__ = [
    "BatchFold",
    "Fold",
    "FoldedBatch",
    "Home",
    "ImmediateBatches",
    "Output",
    "OutputCodec",
    "PendingBatches",
    "PublicRecord",
    "Publish",
    "Refused",
    "Table",
    "View",
]

K = TypeVar("K", bound=tuple[str, ...])
V = TypeVar("V")
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
O = TypeVar("O")  # noqa: E741 - O for output
O_co = TypeVar("O_co", covariant=True)
O_contra = TypeVar("O_contra", contravariant=True)


class Table(dict[K, "V | None"], Generic[K, V]):
    """One table of a state: keys are tuples of strings, values immutable and of one type that msgspec can write.

    `table[key]` is the value, or None if the key has none. A fold replaces values, it never changes one in place.
    A table that lies over a `base` holds the changes, None for a removed key, and reads everything else from the
    base (a key that has changed already costs one `dict` operation).

    Args:
        value_type: The type that values are decoded to when they come back from a changelog.
    """

    __slots__ = ("_added", "base", "value_type")

    def __init__(self, value_type: type[V]) -> None:
        super().__init__()
        self.value_type = value_type
        self.base: dict[K, V | None] | None = None
        self._added = 0

    def __missing__(self, key: K) -> V | None:
        base = self.base
        return None if base is None else base.get(key)

    def add(self, key: K, value: V) -> None:
        """Set a key that has no value yet. `size` counts it; it doesn't count a plain `table[key] = value`."""
        self[key] = value
        self._added += 1

    def remove(self, key: K) -> None:
        """Remove a key that has a value."""
        if self.base is None:
            del self[key]
        else:
            self[key] = None
        self._added -= 1

    @property
    def size(self) -> int:
        """The number of keys that have a value, provided that keys come by `add` and go by `remove`."""
        return len(self) if self.base is None else len(self.base) + self._added

    def present(self) -> Iterator[tuple[K, V]]:
        """Every key that has a value, with the value. A table over a base may be changed during the iteration."""
        for key, value in list(self.items()):
            if value is not None:
                yield key, value
        for key, value in (self.base or {}).items():
            if value is not None and key not in self:
                yield key, value

    def discard_changes(self) -> None:
        """Forget all changes; the table reads as its base again."""
        self.clear()
        self._added = 0

    def merge_changes(self) -> None:
        """Move the changes into the base."""
        base = self.base
        if base is None:
            return
        removed = [key for key, value in self.items() if value is None]
        base.update(self)  # hashes no key again
        for key in removed:
            del base[key]
        self.discard_changes()


class Fold(Protocol[S, O_co]):
    """Events to state and outputs, without I/O, clocks or randomness: the same events give the same result.

    One state belongs to one partition (or to one bus) and sees its events in order.
    """

    def new_state(self) -> S:
        """The state before the first event: a dataclass, every field a `Table`."""
        ...

    def apply(self, state: S, event: HypervisorEvent, seen_at_ms: int = 0) -> Sequence[O_co] | None:
        """Change `state` by one event. Returns the event's outputs (often none), or None if it is ignored.

        `event` may be of the package's own class: only attributes are read, the type by its `.value`. Idleness is
        counted from `seen_at_ms`, in milliseconds since 1970: the time of the record's publishing, or now if that
        is earlier.

        Raises:
            InvalidPayload: The payload doesn't fit the type; `state` is as it was.
        """
        ...

    def expire(self, state: S, now_ms: int) -> Sequence[O_co]:
        """Remove what has been idle too long at `now_ms`, in milliseconds since 1970. Returns the outputs of that.

        Called about once a minute per partition, between events.
        """
        ...


@runtime_checkable
class BatchFold(Protocol[S_contra, O_co]):
    """A `Fold` that also takes many events in one step, several times as fast as one by one."""

    def batches(self, state: S_contra) -> PendingBatches[O_co] | None:
        """The receiver of batches for `state`, which lies over a base; used for as long as that state exists.

        None if this fold, as it is configured, takes events only one by one.
        """
        ...


class PendingBatches(Protocol[O_co]):
    """Takes batches for one state. Everybody who reads or changes the state calls `settle` first."""

    def take(self, columns: EventColumns, seen_at_ms: npt.NDArray[np.int64]) -> FoldedBatch[O_co] | None:
        """Take events as `Fold.apply` would, one after another. The state may change now or in `settle`.

        None if nothing was taken: the events have to be applied one by one, for example because one may be wrong.
        """
        ...

    def settle(self) -> None:
        """Make all changes of the state that are still pending."""
        ...

    def drop(self) -> None:
        """Forget all changes that are still pending."""
        ...


class FoldedBatch(NamedTuple, Generic[O_co]):
    """The result of a batch that was taken."""

    ignored: int
    """The number of events that were ignored."""
    outputs: Sequence[tuple[int, O_co]]
    """Every output, with the index of its event in the batch."""


class ImmediateBatches(PendingBatches[O]):
    """Batches that change the state as soon as they are taken, so nothing is ever pending.

    Args:
        take: Does what `PendingBatches.take` says, and leaves no change for later.
    """

    def __init__(self, take: Callable[[EventColumns, npt.NDArray[np.int64]], FoldedBatch[O] | None]) -> None:
        self._take = take

    def take(self, columns: EventColumns, seen_at_ms: npt.NDArray[np.int64]) -> FoldedBatch[O] | None:
        """Change the state by these events."""
        return self._take(columns, seen_at_ms)

    def settle(self) -> None:
        """Nothing to do."""

    def drop(self) -> None:
        """Nothing to do."""


class Refused(NamedTuple):
    """An output that will never be taken, however often it is sent."""

    at: int
    """Its index among the outputs that were given."""
    reason: str
    """A sentence, the receiver's own where it has one."""


class Output(Protocol[O_contra]):
    """The receiver of a fold's outputs, before the transaction of their events. One thread at a time calls it."""

    def deliver(self, outputs: Sequence[O_contra]) -> Sequence[Refused]:
        """Hand over the outputs. Returns those it refuses; the others are as safe as this receiver makes them.

        Tries once, and may block for as long as that takes: waiting and trying again is the runtime's task. The
        same outputs may come again after an error, a crash or an aborted transaction: an output is identified by
        its own ids, not by its arrival.

        Raises:
            OSError, OutputUnavailable: Not all are delivered; all of them come again.
        """
        ...

    def close(self) -> None:
        """Close files and connections. Called once, after the last `deliver`."""
        ...


class OutputCodec(Protocol[O]):
    """Writes an output that was refused into a dead letter, and reads it back when the dead letter is replayed."""

    def name(self, output: O) -> str:
        """A name that differs from other outputs of the same event, and is the same for the same output."""
        ...

    def write(self, output: O) -> bytes:
        """The whole output as bytes."""
        ...

    def read(self, data: bytes) -> O:
        """The output that `write` was given.

        Raises:
            RecordError: The bytes can't be read.
        """
        ...


class PublicRecord(NamedTuple):
    """A record for a public compacted topic of the service."""

    topic: str
    """Without the prefix."""
    partition_key: bytes
    """Decides the partition, by the same rule as for events."""
    key: bytes
    value: bytes | None
    """None if the row is gone."""


class Home(NamedTuple):
    """The partition of the source that a state belongs to, and how many partitions the source has now."""

    partition: int
    partitions: int

    def holds(self, record_key: bytes) -> bool:
        """Whether records of this key come to this partition. After the source has grown, some no longer do."""
        return partition_of(record_key, self.partitions) == self.partition


Publish: TypeAlias = Callable[[S, Home], Sequence[PublicRecord]]
"""From a state's changes (each table over its committed base) to records in the same transaction. Pure.

It must not remove a row that another partition may write by now: see `Home.holds`.
"""


class View(Protocol):
    """The rows that a copy keeps of one partition of a public topic. The service reads them between records."""

    topic: str
    """Without the prefix."""

    def new_rows(self) -> dict[Any, Any]:
        """An empty table of rows."""
        ...

    def apply(self, rows: dict[Any, Any], key: bytes | None, value: bytes | None) -> None:
        """Apply one record: the last value of a key counts; None removes the row.

        Raises:
            RecordError: The record can't be used; `rows` is as it was.
        """
        ...
