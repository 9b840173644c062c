"""The roles of a service that the loop and the ingest drive. All are called by the loop's one thread.

Every service has a `Processor`. The other roles are for services that need them: batches by column, replayed
outputs, public tables, a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
from hypervisor_consumers.runtime.kafka.client_types import Consumer
from hypervisor_consumers.runtime.records import Record, Result, TopicPartition
from hypervisor_schemas.errors import RecordError
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["BatchProcessor", "LeaseRenewal", "OutputReplay", "Processor", "Roles", "TableReader"]


class Processor(Protocol):
    """Takes events and makes them safe. No method takes longer than a few seconds."""

    def start(self, consumer: Consumer) -> None:
        """Get the consumer that will read. Called once, before it joins a group."""
        ...

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Begin to restore partitions that were assigned; they are not read before `ready` names them."""
        ...

    def ready(self) -> Mapping[TopicPartition, int]:
        """The partitions that can be read now, and from which offset; each is named once.

        Raises:
            StateError: What is kept of a partition can't be right.
        """
        ...

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Forget partitions. A last `commit` came before if they were given back in peace."""
        ...

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Take one event, in the order of its partition.

        Raises:
            RecordError: The event doesn't fit its type and was not taken; the ingest calls `reject`.
        """
        ...

    def reject(self, record: Record, error: RecordError) -> None:
        """Keep a record that can't be used as a dead letter."""
        ...

    def ignore(self, record: Record) -> None:
        """Pass over a record that is for another service."""
        ...

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Move on to `next_offset`: between the last record and there the log holds none."""
        ...

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Move on to `next_offset`: retention has deleted what would come before it."""
        ...

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """Make safe what was taken, if it is time for it. `is_last`: partitions are about to be given back.

        Returns:
            What has to be read again: per partition from which offset; None: when `ready` names it.

        Raises:
            OSError, OutputUnavailable: Not now; the loop stops reading and calls again after a while.
        """
        ...

    @property
    def is_serving(self) -> bool:
        """Whether all partitions of this copy are in what it shows and answers."""
        ...

    @property
    def trouble(self) -> str:
        """A sentence that says what holds `ready` up; empty if nothing does."""
        ...

    def close(self) -> None:
        """Let go of everything. Called once, at the end."""
        ...


class BatchProcessor(Protocol):
    """Takes many events in one step."""

    def apply_columns(
        self,
        topic_partition: TopicPartition,
        first_offset: int,
        columns: EventColumns,
        published_ms: npt.NDArray[np.int64],
        /,
    ) -> bool:
        """Take events of consecutive offsets at once; `published_ms` as in `Record`, none of them 0.

        False: nothing was taken, `Processor.apply` is to be called for each.
        """
        ...


class OutputReplay(Protocol):
    """Takes outputs that were refused once and are replayed from the dead letters."""

    def redeliver(self, record: Record) -> None:
        """Take a replayed output in place of an event.

        Raises:
            RecordError: It is none of this service's; the ingest calls `reject`.
        """
        ...


class TableReader(Protocol):
    """Takes the rows of a public table."""

    def row(self, record: Record) -> None:
        """Take one record of the table.

        Raises:
            RecordError: It can't be used.
        """
        ...


class LeaseRenewal(Protocol):
    """Keeps the lease between commits and while one is put off."""

    @property
    def is_due(self) -> bool:
        """Whether the lease has to be renewed now, by a commit, whatever the interval of commits."""
        ...

    def keep(self) -> Mapping[TopicPartition, int | None]:
        """Renew the lease if it is due. Called over and over; returns as `Processor.commit` does."""
        ...


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles that a service has beside its `Processor`; None: it has no such."""

    batches: BatchProcessor | None = None
    outputs: OutputReplay | None = None
    table: TableReader | None = None
    lease: LeaseRenewal | None = None
