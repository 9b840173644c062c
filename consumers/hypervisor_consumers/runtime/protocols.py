"""What a stateful service is made of: a pure fold over per-partition state, and where its results go.

The runtime owns everything else: which partitions this copy has, restoring, transactions, offsets, threads, health.
A fold knows no Kafka; the same fold also runs in-process, fed by a bus. A service is

* a `Fold`: events to changes of a state, the state being a dataclass of `Table`s and nothing else;
* maybe an `Output`, that takes what the fold gives out (spans), before the transaction of its events begins;
* maybe a `publish` function: from a state's changes to records of a public topic, in the same transaction;
* maybe a `View`: a compacted public topic that every copy reads from its beginning, for what it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.topics import partition_of

if TYPE_CHECKING:
    # An agent's install has no numpy; folds run there, too.
    import numpy as np
    import numpy.typing as npt

    from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns

__all__ = [
    "BatchFold",
    "ColumnFold",
    "Fold",
    "Folded",
    "Home",
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

    `table[key]` is the value, or None where there is none. A fold replaces values, it never changes one in place.
    Where a table lies over a `base`, it holds what changed, None for what was removed, and reads the rest through
    (one `dict` operation for a key that changed already).

    Args:
        value_type: What `msgspec.convert` makes the values of, when they come back from a changelog.
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
        """Set a key that has no value yet; counted by `size`, as plain setting isn't."""
        self[key] = value
        self._added += 1

    def remove(self, key: K) -> None:
        """Take away a key that has a value."""
        if self.base is None:
            del self[key]
        else:
            self[key] = None
        self._added -= 1

    @property
    def size(self) -> int:
        """How many keys have a value. Right as long as keys come by `add` and go by `remove`."""
        return len(self) if self.base is None else len(self.base) + self._added

    def present(self) -> Iterator[tuple[K, V]]:
        """All keys that have a value, and it; the table may be changed meanwhile if it lies over a base."""
        for key, value in list(self.items()):
            if value is not None:
                yield key, value
        for key, value in (self.base or {}).items():
            if value is not None and key not in self:
                yield key, value

    def discard_changes(self) -> None:
        """Read the base alone again."""
        self.clear()
        self._added = 0

    def merge_changes(self) -> None:
        """Put the changes into the base."""
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

    def apply(self, state: S, event: HypervisorEvent, seen_at: int = 0) -> Sequence[O_co] | None:
        """Change `state` by one event. Returns what comes out of it (often nothing), or None: ignored.

        `event` may be the package's own class: only attributes are read, the type by its `.value`. `seen_at`, in
        milliseconds since 1970, is what idleness is counted from: the earlier of now and the record's publishing.

        Raises:
            InvalidPayload: The payload doesn't fit the type; `state` is as it was.
        """
        ...

    def expire(self, state: S, now: int) -> Sequence[O_co]:
        """Remove what has been idle too long at `now` (milliseconds since 1970). Returns what comes out of it.

        Called about once a minute per partition, between events.
        """
        ...


@runtime_checkable
class ColumnFold(Protocol[S_contra]):
    """What a `Fold` without outputs may have besides: many events in one step, several times as fast."""

    def batches(self, state: S_contra) -> PendingBatches | None:
        """A way into `state`, which lies over a base, for as long as there is that state; None: one by one only."""
        ...


class Folded(NamedTuple, Generic[O]):
    """What became of a batch."""

    ignored: int
    outputs: Sequence[tuple[int, O]]
    """What came out, and the place in the batch of the event that it came out of."""


@runtime_checkable
class BatchFold(Protocol[S_contra, O]):
    """What a `Fold` with outputs may have besides: many events in one step."""

    def apply_batch(
        self, state: S_contra, columns: EventColumns, seen_at: npt.NDArray[np.int64]
    ) -> Folded[O] | None:
        """Change `state` as `apply` would for these events, one after another.

        None, and `state` is as it was: they have to be applied one by one, since one may be wrong, say.
        """
        ...


class PendingBatches(Protocol):
    """Batches on their way into one state. Whoever looks at the state, or changes it, calls `settle` before."""

    def take(self, columns: EventColumns, seen_at: npt.NDArray[np.int64]) -> int | None:
        """Take events as `Fold.apply` would, one after another, soon or later. Returns how many are ignored.

        None, and nothing was taken: they have to be applied one by one, since one may be wrong, say.
        """
        ...

    def settle(self) -> None:
        """Change the state by all that was taken."""
        ...

    def drop(self) -> None:
        """Forget what the state has not been changed by yet."""
        ...


class Refused(NamedTuple):
    """An output that will never be taken, however often it is sent."""

    at: int
    """Its place among those that were given."""
    reason: str
    """A sentence, the receiver's own where it has one."""


class Output(Protocol[O_contra]):
    """Where a fold's outputs go, before the transaction of their events begins. Called by one thread at a time."""

    def deliver(self, outputs: Sequence[O_contra]) -> Sequence[Refused]:
        """Hand over; when this returns, the outputs are as safe as this output makes them, but for those refused.

        May block for as long as one try takes, and tries once: to wait and to try again is the runtime's. The
        same outputs may come again, after an error, a crash or an aborted transaction: an output is known by its
        own ids, not by its arrival.

        Raises:
            OSError, OutputUnavailable: Not all are delivered; all of them come again.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. Called once, after the last `deliver`."""
        ...


class OutputCodec(Protocol[O]):
    """How an output that was refused is kept as a dead letter, and comes back when that is replayed."""

    def name(self, output: O) -> str:
        """What tells it from others of the same event; the same for the same output."""
        ...

    def write(self, output: O) -> bytes:
        """The whole of it."""
        ...

    def read(self, data: bytes) -> O:
        """What `write` was given.

        Raises:
            RecordError: It can't be read.
        """
        ...


class PublicRecord(NamedTuple):
    """A record for a public compacted topic of the service."""

    topic: str
    """Without the prefix."""
    partition_key: bytes
    """What decides the partition, by the same rule as for events."""
    key: bytes
    value: bytes | None
    """None: the row is gone."""


class Home(NamedTuple):
    """Where a state lives: its partition of the source, and how many there are now."""

    partition: int
    partitions: int

    def holds(self, record_key: bytes) -> bool:
        """Whether records of this key come here. Not any more, for some, after the source has grown."""
        return partition_of(record_key, self.partitions) == self.partition


Publish: TypeAlias = Callable[[S, Home], Sequence[PublicRecord]]
"""From a state's changes (each table over its committed base) to records in the same transaction. Pure.

A row that another partition may write by now is not to be taken away: see `Home.holds`.
"""


class View(Protocol):
    """What a copy keeps of one partition of a public topic. Rows are looked at by the service, between records."""

    topic: str
    """Without the prefix."""

    def new_rows(self) -> dict[Any, Any]:
        """No rows yet."""
        ...

    def apply(self, rows: dict[Any, Any], key: bytes | None, value: bytes | None) -> None:
        """Take one record in; the last of a key holds, None takes it away.

        Raises:
            RecordError: The record can't be used; `rows` is as it was.
        """
        ...
