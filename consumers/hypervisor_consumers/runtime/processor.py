"""What the consumer loop drives: the part of a service that takes records and makes them safe."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
from hypervisor_schemas.errors import RecordError
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["Processor", "Record", "Result", "TopicPartition"]


class TopicPartition(NamedTuple):
    """A partition of a topic, its full name."""

    topic: str
    partition: int


class Result(str, Enum):  # noqa: UP042 - alike to the event types
    """What became of a good record. A bad one is counted by its `RecordError.reason`."""

    APPLIED = "applied"
    IGNORED = "ignored"
    DUPLICATE = "duplicate"


class Record(NamedTuple):
    """One record as it came."""

    topic_partition: TopicPartition
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] | None
    published: int
    """Kafka's time of the record, in milliseconds since 1970; 0 where it has none."""


class Processor(Protocol):
    """Driven by the loop's one thread; no method takes longer than a few seconds."""

    def start(self, consumer: Any) -> None:
        """Called once, with the consumer that will read; it has joined no group yet."""
        ...

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Partitions came. They are not read before `ready` names them. Returns at once."""
        ...

    def ready(self) -> Mapping[TopicPartition, int]:
        """The partitions that can be read now, and from which offset; each is named once.

        Raises:
            StateError: What is kept of a partition can't be right.
        """
        ...

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Partitions went, after a last `commit` if they were given back in peace: forget them."""
        ...

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Take one event, in the order of its partition.

        Raises:
            RecordError: The event doesn't fit its type and was not taken; the loop calls `reject`.
        """
        ...

    def redeliver(self, record: Record) -> None:
        """Take a replayed output in place of an event.

        Raises:
            RecordError: It is none of this service's; the loop calls `reject`.
        """
        ...

    @property
    def takes_columns(self) -> bool:
        """Whether `apply_columns` is worth calling."""
        ...

    def apply_columns(
        self,
        topic_partition: TopicPartition,
        first_offset: int,
        columns: EventColumns,
        published: npt.NDArray[np.int64],
        /,
    ) -> bool:
        """Take events of consecutive offsets at once; `published` as in `Record`, none of them 0.

        False: nothing was taken, `apply` is to be called for each.
        """
        ...

    def reject(self, record: Record, error: RecordError) -> None:
        """Take a record that can't be used; it is kept as a dead letter."""
        ...

    def ignore(self, record: Record) -> None:
        """Pass over a record that is for another service."""
        ...

    def row(self, record: Record) -> None:
        """Take one record of a public table.

        Raises:
            RecordError: It can't be used.
        """
        ...

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """The log goes on at `next_offset`; from the last record to there it holds none."""
        ...

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Retention has deleted what would come next, up to `next_offset`."""
        ...

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """Make safe what was taken, if it is time for it. `is_last`: partitions are about to go.

        Returns:
            What has to be read again: per partition from which offset; None: when `ready` names it.

        Raises:
            OSError, OutputUnavailable: Not now; the loop stops reading and calls again after a while.
        """
        ...

    def keep(self) -> Mapping[TopicPartition, int | None]:
        """Called over and over while a commit that was put off is waited for; returns as `commit` does."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether all partitions of this copy are in what it shows and answers."""
        ...

    @property
    def trouble(self) -> str:
        """What holds `ready` up, as a sentence; empty if nothing does."""
        ...

    def close(self) -> None:
        """Called once, at the end."""
        ...
