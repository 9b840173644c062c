"""The processor of a service with a fold: state in a changelog, results and offsets in the same transaction.

Three objects share the work. The `Assignment` holds the partitions, the `Committer` makes safe what was taken, the
`Visibility` says what may be shown. This one takes records into the partitions, and moves these between the three.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.commit.changeset import ChangesetBuilder, ServiceTopics
from hypervisor_consumers.runtime.commit.committer import Committer
from hypervisor_consumers.runtime.commit.dead_letters import dead_letter_of
from hypervisor_consumers.runtime.commit.lease import Lease
from hypervisor_consumers.runtime.commit.output_thread import OutputThread
from hypervisor_consumers.runtime.commit.outputs import OutputDelivery
from hypervisor_consumers.runtime.commit.transactions import Transactions
from hypervisor_consumers.runtime.commit.visibility import Content, Shown, Visibility
from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
from hypervisor_consumers.runtime.kafka.client_types import Consumer
from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.kafka.partition_counts import PartitionCounts
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment
from hypervisor_consumers.runtime.partitions.dedup_window import SEED
from hypervisor_consumers.runtime.partitions.fold_partition import CatchUp, FoldPartition
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.partitions.restoration import Restoration, TableRows
from hypervisor_consumers.runtime.partitions.restore import Restorer
from hypervisor_consumers.runtime.processor import Roles
from hypervisor_consumers.runtime.protocols import (
    BatchFold,
    Fold,
    Output,
    OutputCodec,
    Publish,
    View,
)
from hypervisor_consumers.runtime.records import Record, Result, TopicPartition
from hypervisor_schemas.errors import RecordError
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["EXPIRY_INTERVAL_SECONDS", "FoldService", "StatefulProcessor"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols

EXPIRY_INTERVAL_SECONDS = 60.0
"""Seconds between two looks for a partition's idle rows."""

MAX_HIDDEN_SECONDS = 5.0
"""Seconds that a restored partition with more to read waits for its first commit to be shown."""


@dataclass(frozen=True, slots=True)
class FoldService(Generic[S, O]):
    """The parts of a service with a fold; `protocols` says what each has to keep to."""

    name: str
    fold: Fold[S, O]
    output: Output[O] | None = None
    output_codec: OutputCodec[O] | None = None
    publish: Publish[S] | None = None
    view: View | None = None
    window: int = 100_000
    """The size of the dedup window, in offsets."""
    seed: int = SEED
    """A random number of 64 bits; see `DedupWindow`."""
    expire_every: float = EXPIRY_INTERVAL_SECONDS

    def new_partition(self, number: int) -> Partition[S, O]:
        """An empty state of a partition of the source."""
        return Partition(number, self.fold, self.window, self.seed)


class StatefulProcessor(Generic[S, O]):
    """Implements `processor.Processor` for a fold, and the other roles where the service has them."""

    def __init__(
        self,
        service: FoldService[S, O],
        *,
        topics: ServiceTopics,
        assignment: Assignment[Content[S, O]],
        transactions: Transactions,
        hanging: HangingTransactions,
        restorer: Restorer,
        lease: Lease,
        find_lease: Callable[[], float],
        runtime_metrics: RuntimeMetrics,
        now: Callable[[], float],
    ) -> None:
        self._service = service
        self._topics = topics
        self.assignment = assignment
        self._restorer = restorer
        self._runtime_metrics = runtime_metrics
        self._now = now
        self._counts = PartitionCounts()
        self.visibility = Visibility(assignment, lease, now, self._is_shown)
        thread = None if service.output is None else OutputThread(service.output, lease.now)
        self.delivery: OutputDelivery[S, O] = OutputDelivery(
            service.name, thread, service.output_codec, runtime_metrics, now
        )
        self.committer: Committer[S, O] = Committer(
            assignment,
            builder=ChangesetBuilder(topics, self._counts, service.publish),
            delivery=self.delivery,
            transactions=transactions,
            hanging=hanging,
            visibility=self.visibility,
            runtime_metrics=runtime_metrics,
            find_lease=find_lease,
            now=now,
        )

    @property
    def roles(self) -> Roles:
        """The roles that the service has."""
        service = self._service
        return Roles(
            batches=self if isinstance(service.fold, BatchFold) else None,
            outputs=self,
            table=self if service.view is not None else None,
            lease=self,
        )

    def start(self, consumer: Consumer) -> None:
        """Prove the membership of this consumer, and ask by it."""
        self._counts.start(consumer)
        self.committer.start(consumer)

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Begin to restore."""
        for topic_partition in topic_partitions:
            self._restore(self.assignment[topic_partition])

    def _restore(self, one: AssignedPartition[Content[S, O]], counted_to: int = 0) -> None:
        view = self._service.view
        if view is not None and one.topic_partition.topic != self._topics.source:
            self._restorer.begin(one, TableRows(view))
        else:
            into = self._service.new_partition(one.topic_partition.partition)
            self._restorer.begin(one, into, counted_to)

    def ready(self) -> Mapping[TopicPartition, int]:
        """Take what the restorer has brought back.

        Raises:
            StateError: What is kept can't be right.
        """
        offsets: dict[TopicPartition, int] = {}
        for restored in self._restorer.finished():
            if restored.error is not None:
                raise restored.error
            if restored.offset is not None:
                offsets[restored.topic_partition] = restored.offset
                with self.visibility.lock:
                    self.assignment[restored.topic_partition].restored(self._content_of(restored), restored.offset)
        if offsets:
            self._ask_for_partitions()
        self.visibility.show_caught_up()
        return offsets

    def _content_of(self, restored: Restoration) -> Content[S, O]:
        if isinstance(restored.into, TableRows):
            return restored.into
        now = self._now()
        hidden_until = now + MAX_HIDDEN_SECONDS if restored.has_more else now
        goal = CatchUp(restored.into.account.next_offset, restored.counted_to, hidden_until, restored.began)
        return FoldPartition(restored.into, goal, now + self._service.expire_every)

    def _ask_for_partitions(self) -> None:
        # The first commit needs it. It may be one on losing partitions, within a callback of the classic protocol,
        # and there confluent-kafka's consumer answers no questions.
        view = self._service.view
        public = [self._topics.prefix + view.topic] if view is not None else []
        with suppress(KafkaException):  # then the commit asks
            for topic in (self._topics.dead_letters, *public, self._topics.source):
                self._counts.of(topic)

    def _is_shown(self, one: AssignedPartition[Content[S, O]]) -> None:
        if isinstance(one.content, FoldPartition):
            seconds = self._restorer.seconds_since(one.content.catch_up.began)
            account = one.content.partition.account
            self._runtime_metrics.restored(one.topic_partition, account, seconds)

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:  # noqa: ARG002 - the assignment knows
        """Let the restorer see what it doesn't have to restore any more."""
        self._restorer.wake()

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Fold one event into what is pending."""
        fold = self._fold_of(record.topic_partition)
        now = int(self._now() * 1000)
        # A foreign clock may be ahead; nothing was seen later than now.
        seen_at_ms = min(record.published_ms, now) if record.published_ms > 0 else now
        result, outputs = fold.partition.apply(record.offset, event, seen_at_ms)
        if outputs:
            fold.pending.outputs.add([(record.offset, output) for output in outputs])
        fold.took(record)
        fold.at_end, fold.heard_at_ms = False, seen_at_ms
        return result

    def redeliver(self, record: Record) -> None:
        """Hand an output that was refused once, and is replayed, to the receiver as it is.

        Raises:
            RecordError: It is no output of this service.
        """
        output = self.delivery.read(record)
        fold = self._fold_of(record.topic_partition)
        fold.partition.take_output(record.offset)
        fold.pending.outputs.add([(record.offset, output)])
        fold.took(record)

    def apply_columns(
        self,
        topic_partition: TopicPartition,
        first_offset: int,
        columns: EventColumns,
        published_ms: npt.NDArray[np.int64],
        /,
    ) -> bool:
        """Fold events of consecutive offsets into what is pending, or nothing."""
        fold = self._fold_of(topic_partition)
        now = int(self._now() * 1000)
        outputs = fold.partition.apply_columns(first_offset, columns, np.minimum(published_ms, now))
        if outputs is None:
            return False
        fold.pending.outputs.add(outputs)
        fold.partition.seen(int(published_ms[-1]))
        times, counts = np.unique(published_ms, return_counts=True)
        fold.pending.published_ms.update(dict(zip(times.tolist(), counts.tolist(), strict=True)))
        fold.at_end, fold.heard_at_ms = False, min(int(published_ms[-1]), now)
        return True

    def reject(self, record: Record, error: RecordError) -> None:
        """Send the record to the dead letters with the next transaction."""
        fold = self._fold_of(record.topic_partition)
        fold.partition.reject(record.offset, error.reason)
        fold.pending.dead_letters.append(dead_letter_of(record, self._service.name, error))
        fold.took(record)

    def ignore(self, record: Record) -> None:
        """Pass over a record that is for another service."""
        fold = self._fold_of(record.topic_partition)
        fold.partition.ignore(record.offset)
        fold.took(record)

    def row(self, record: Record) -> None:
        """Take one record of the public table in; it is committed already."""
        content = self.assignment[record.topic_partition].content
        if isinstance(content, FoldPartition):
            raise AssertionError(f"{record.topic_partition} is no public table")
        with self.visibility.lock:
            content.next_offset = record.offset + 1
            content.view.apply(content.rows, record.key, record.value)

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that hold no record."""
        content = self.assignment[topic_partition].content
        if isinstance(content, FoldPartition):
            content.partition.advance(next_offset)
            content.at_end = True
        else:
            content.next_offset = next_offset

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that were deleted unread."""
        self._fold_of(topic_partition).partition.lose(next_offset)

    def _fold_of(self, topic_partition: TopicPartition) -> FoldPartition[S, O]:
        content = self.assignment[topic_partition].content
        if isinstance(content, FoldPartition):
            return content
        raise AssertionError(f"{topic_partition} holds no events")

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """Commit in one transaction, where there is something to commit or the lease is due.

        Raises:
            OSError, OutputUnavailable: The output doesn't take it, or the transaction is not ended yet.
        """
        again = self.committer.end_unfinished()
        if again is None:
            is_prepared = self.committer.prepare()
            if not self.assignment.read():
                return {}
            self.visibility.show_caught_up()
            if not is_last:
                self._expire()
            again = self.committer.commit(self._restorer.state_partitions, is_prepared=is_prepared, is_last=is_last)
        return self._restored_again(again)

    @property
    def is_due(self) -> bool:
        """Whether the lease has to be renewed before the numbers leave `/metrics`."""
        lease = self.visibility.lease
        return lease.seconds is not None and lease.is_due and bool(self.assignment.read())

    def keep(self) -> Mapping[TopicPartition, int | None]:
        """Renew the lease while a delivery is waited for, which may take long: what is committed is still shown.

        Returns what has to be read again, as `commit` does.
        """
        return self._restored_again(self.committer.renew_lease()) if self._waits_for_output else {}

    def _restored_again(self, again: Mapping[TopicPartition, int | None]) -> Mapping[TopicPartition, int | None]:
        """Restore the partitions of which only the changelog can tell whether the transaction went through."""
        for topic_partition, offset in again.items():
            if offset is None:
                one = self.assignment[topic_partition]
                counted_to = self._fold_of(topic_partition).partition.account.next_offset
                with self.visibility.lock:
                    one.restore_again()
                self._restore(one, counted_to)
        return again

    def _expire(self) -> None:
        """Remove the idle rows of one partition at a time: the rows that go make a transaction large."""
        now = self._now()
        for one in self.assignment.events_read():
            fold = self._fold_of(one.topic_partition)
            if now >= fold.next_expiry:
                fold.next_expiry = now + self._service.expire_every
                self._counts.forget(self._topics.source)
                with suppress(KafkaException):  # then the commit that takes rows away asks
                    self._counts.of(self._topics.source)
                # While there is more to read, no later than what was read last: an end may come yet.
                at_end = fold.at_end and one.accounting.is_at_end(fold.partition.next_offset)
                at = int(now * 1000) if at_end else min(int(now * 1000), fold.heard_at_ms)
                last = max(0, fold.partition.next_offset - 1)
                fold.pending.outputs.add([(last, output) for output in fold.partition.expire(at)])
                return

    def _folds(self) -> list[FoldPartition[S, O]]:
        contents = [one.content for one in self.assignment.read()]
        return [content for content in contents if isinstance(content, FoldPartition)]

    @property
    def is_serving(self) -> bool:
        """Whether all that this copy has is restored and shown."""
        # An output that is away is no reason to take the service away: a new copy would wait as well.
        is_valid = self.visibility.may_show() or not self.assignment.read() or self._waits_for_output
        return self.assignment.is_shown and is_valid

    @property
    def _waits_for_output(self) -> bool:
        return self._service.output is not None and any(fold.pending.outputs for fold in self._folds())

    @property
    def trouble(self) -> str:
        """A sentence that says what holds restoring up, or that this copy is out of its group."""
        if self.committer.transactions.is_no_member:
            return "Kafka says that this copy is no member of its group any more; its numbers are not shown now."
        return "" if self.assignment.is_restored else self._restorer.trouble

    def may_show(self) -> bool:
        """Whether the lease has not run out."""
        return self.visibility.may_show()

    def shown(self) -> Shown[S]:
        """A snapshot of what may be shown now: nothing, if the lease has run out."""
        return self.visibility.shown(self._restorer.state_partitions)

    def close(self) -> None:
        """Close the output."""
        self.committer.close()
