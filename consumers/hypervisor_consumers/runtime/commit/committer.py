"""Committing: one transaction carries the changes of all partitions, their outputs' dead letters and their offsets.

What is to be committed is a value (`Changeset`), built before the transaction begins: inside it nothing is looked
up and nothing changes. While nothing comes, a transaction of offsets alone renews the lease.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.commit.changeset import Changeset, ChangesetBuilder
from hypervisor_consumers.runtime.commit.outputs import OutputDelivery
from hypervisor_consumers.runtime.commit.transactions import Outcome, Transactions
from hypervisor_consumers.runtime.commit.visibility import Content, Visibility
from hypervisor_consumers.runtime.kafka.client_errors import text_of
from hypervisor_consumers.runtime.kafka.client_types import Consumer
from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment, Phase
from hypervisor_consumers.runtime.partitions.fold_partition import FoldPartition
from hypervisor_consumers.runtime.partitions.restoration import TableRows
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["Committer"]

log = logging.getLogger(__name__)

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols

DELIVERY_TIMEOUT_SECONDS = 1.0
LAST_DELIVERY_TIMEOUT_SECONDS = 4.0
"""Seconds that a commit waits for its outputs to be delivered, before it lets the loop turn; and a last commit."""


class Committer(Generic[S, O]):
    """Makes safe what was taken. Used by the loop's thread.

    Args:
        assignment: The partitions of this copy.
        builder: Builds what is written.
        delivery: Delivers outputs before their transaction.
        transactions: Carry the changes.
        hanging: Ends what Kafka has forgotten to end.
        visibility: Shows what is committed.
        runtime_metrics: Counts.
        find_lease: Asks for the seconds of a lease, where no setting says them.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        assignment: Assignment[Content[S, O]],
        *,
        builder: ChangesetBuilder[S],
        delivery: OutputDelivery[S, O],
        transactions: Transactions,
        hanging: HangingTransactions,
        visibility: Visibility[S, O],
        runtime_metrics: RuntimeMetrics,
        find_lease: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._assignment = assignment
        self._builder = builder
        self._delivery = delivery
        self.transactions = transactions
        self._hanging = hanging
        self._visibility = visibility
        self._runtime_metrics = runtime_metrics
        self._find_lease = find_lease
        self._now = now
        self._consumer: Consumer | None = None
        self._in_flight: list[AssignedPartition[Content[S, O]]] = []
        """The partitions whose changes the transaction under way carries."""
        self._began = 0.0

    def start(self, consumer: Consumer) -> None:
        """Prove the membership of this consumer by every transaction."""
        self._consumer = consumer

    def end_unfinished(self) -> Mapping[TopicPartition, int | None] | None:
        """Go on with the transaction that has no outcome yet. None: there is no such.

        Raises:
            OutputUnavailable: It still has none.
        """
        if not self.transactions.is_unfinished:
            return None
        return self._conclude(self.transactions.finish())

    def prepare(self) -> bool:
        """Make the producer ready, and end hanging transactions.

        This is done also while all is being restored: what a lost transaction left open is in the way of that.
        """
        is_prepared = self.transactions.prepare()
        if self._hanging.has_found():
            with suppress(KafkaException):  # then it is tried with the next commit
                self._hanging.end_found(self._builder.dead_letter_partitions())
        return is_prepared

    def commit(
        self, state_partitions: int | None, *, is_prepared: bool, is_last: bool
    ) -> Mapping[TopicPartition, int | None]:
        """Commit in one transaction what is pending, if there is something or the lease is due.

        Returns:
            What has to be read again: per partition from which offset; None: after it is restored once more.

        Raises:
            OSError, OutputUnavailable: The output doesn't take it, or the transaction is not ended yet.
        """
        lease = self._visibility.lease
        changed = [one for one in self._folds() if one[1].partition.has_changes]
        if not changed and not lease.is_due:
            return {}
        if not is_prepared:
            raise OutputUnavailable(self.transactions.reason)
        if lease.seconds is None:
            lease.seconds = self._find_lease()
        seconds = LAST_DELIVERY_TIMEOUT_SECONDS if is_last else DELIVERY_TIMEOUT_SECONDS
        self._delivery.deliver([(one.topic_partition, fold) for one, fold in self._folds()], seconds)
        for _, fold in changed:
            fold.partition.settle()  # it is most of the building, and no part of the transaction's time
        began = lease.now()
        offsets = {one.topic_partition: fold.partition.next_offset for one, fold in self._folds()}
        by_name = {one.topic_partition: fold for one, fold in changed}
        try:
            changes = self._builder.build(by_name, offsets | self._table_offsets(), state_partitions or 1)
        except KafkaException as error:
            # It has not begun; what was folded for it is undone as if it had.
            self._began, self._in_flight = began, []
            self.transactions.reason = f"The transaction was aborted: {text_of(error)}."
            return self._conclude(Outcome.ABORTED)
        self._runtime_metrics.wrote(changes.changelog_records, changes.changelog_bytes)
        return self._conclude(self._send(changes, [one for one, _ in changed], began))

    def renew_lease(self) -> Mapping[TopicPartition, int | None]:
        """Renew the lease by offsets alone, if it is due; returns as `commit` does."""
        lease = self._visibility.lease
        if not lease.is_due or lease.seconds is None:
            return {}
        if self.transactions.is_unfinished or not self.transactions.prepare():
            return {}
        # An offset of a partition without a state would be taken for one whose state is lost.
        kept = [(one, fold.partition) for one, fold in self._folds() if not fold.partition.is_new]
        offsets = {one.topic_partition: partition.account.next_offset for one, partition in kept}
        offsets |= self._table_offsets()
        if not offsets:
            return {}
        outcome = self._send(Changeset((), offsets), [], lease.now())
        return {} if outcome is Outcome.UNFINISHED else self._conclude(outcome)

    def close(self) -> None:
        """Let go of producer and output."""
        self.transactions.close()
        self._delivery.close()

    def _folds(self) -> list[tuple[AssignedPartition[Content[S, O]], FoldPartition[S, O]]]:
        read = [(one, one.content) for one in self._assignment.read()]
        return [(one, content) for one, content in read if isinstance(content, FoldPartition)]

    def _table_offsets(self) -> dict[TopicPartition, int]:
        read = [(one.topic_partition, one.content) for one in self._assignment.read()]
        return {name: content.next_offset for name, content in read if isinstance(content, TableRows)}

    def _send(self, changes: Changeset, changed: list[AssignedPartition[Content[S, O]]], began: float) -> Outcome:
        if self._consumer is None:
            raise AssertionError("start() comes first")
        self._began, self._in_flight = began, changed
        return self.transactions.commit(changes, self._consumer.consumer_group_metadata())

    def _conclude(self, outcome: Outcome) -> Mapping[TopicPartition, int | None]:
        if outcome is Outcome.UNFINISHED:
            raise OutputUnavailable(self.transactions.reason)
        took = self._visibility.lease.now() - self._began
        sent, self._in_flight = [one for one in self._in_flight if one.is_read], []
        published_ms: Counter[int] = Counter()
        if outcome is Outcome.COMMITTED:
            published_ms = self._merge(sent)
        self._runtime_metrics.concluded(outcome.value, took, published_ms, int(self._now() * 1000))
        if outcome is Outcome.COMMITTED:
            self._visibility.show_caught_up()
            for one in sent:
                if one.phase is Phase.SHOWN:
                    one.accounting.committed(_fold_of(one).partition.account)
            return {}
        log.warning("%s", self.transactions.reason)
        if self.transactions.is_no_member:
            self._visibility.lease.end()
        self._delivery.abandon()
        if outcome is Outcome.ABORTED:
            return self._roll_back()
        return {one.topic_partition: None for one, _ in self._folds()}

    def _merge(self, sent: list[AssignedPartition[Content[S, O]]]) -> Counter[int]:
        """Make what was pending committed. Returns when its records were published."""
        published_ms: Counter[int] = Counter()
        with self._visibility.lock:
            for one in sent:
                fold = _fold_of(one)
                published_ms.update(fold.pending.published_ms)
                fold.commit()
            self._visibility.lease.renew(self._began)
        return published_ms

    def _roll_back(self) -> dict[TopicPartition, int | None]:
        letters = None if self.transactions.was_cut_off else self._builder.topics.dead_letters
        return {one.topic_partition: fold.rollback(without_topic=letters) for one, fold in self._folds()}


def _fold_of(one: AssignedPartition[Content[S, O]]) -> FoldPartition[S, O]:
    content = one.content
    if isinstance(content, TableRows):
        raise AssertionError(f"{one.topic_partition} is a public table")
    return content
