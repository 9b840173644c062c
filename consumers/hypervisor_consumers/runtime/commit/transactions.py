"""One Kafka transaction after another: records and input offsets, all or nothing.

The rules (each is the answer to a way in which counts were lost or doubled):

* Records are flushed before the offsets are sent: sending offsets flushes nothing.
* Every transaction names the offset of every partition that it writes for. Kafka then asks whether the sender is
  still a member of its group; a transaction without offsets commits whoever sends it.
* Offsets whose sending failed, by a timeout too, are never committed: the transaction is aborted.
* A commit that timed out is called again, never aborted: it may have gone through.
* A commit that failed for good has an unknown outcome. So has one of a producer that was fenced.

`PHASES` says which call may follow which. `kafka.hanging_transactions` has one more rule, against Kafka itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.commit.changeset import Changeset
from hypervisor_consumers.runtime.kafka.client_errors import (
    call,
    is_fatal,
    is_no_member,
    is_refusal,
    is_retriable,
    text_of,
)
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.client_types import GroupMetadata, Headers, Producer
from hypervisor_consumers.runtime.kafka.hanging_transactions import WRITER, HangingTransactions
from hypervisor_consumers.runtime.records import OutputBatch, OutputRecord, TopicPartition
from hypervisor_consumers.runtime.state_table import StateTable, next_state
from hypervisor_schemas.errors import KafkaError

__all__ = ["PHASES", "Outcome", "Phase", "Step", "Transactions"]

log = logging.getLogger(__name__)

CALL_TIMEOUT_SECONDS = 5.0
"""Seconds that one call may take; the loop turns in between."""


class Outcome(Enum):
    """The result of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Nothing of it will ever be seen."""
    UNKNOWN = "unknown"
    """Only the changelog can tell."""
    UNFINISHED = "unfinished"
    """`finish` is to be called until it says something else."""


class Phase(Enum):
    """The state of the producer between two calls."""

    NEW = "new"
    """Kafka doesn't know the producer yet."""
    READY = "ready"
    OPEN = "open"
    ABORTING = "aborting"
    COMMITTING = "committing"


class Step(Enum):
    """An event that moves the producer to another phase."""

    INITIALIZED = "initialized"
    BEGUN = "begun"
    FAILED = "failed"
    """A record or the offsets were not taken."""
    OFFSETS_SENT = "offsets sent"
    ENDED = "ended"
    """The commit or the abort went through."""
    GIVEN_UP = "given up"
    """The producer is of no use any more. The next one has its id, and so ends what this one left open."""


PHASES: StateTable[Phase, Step] = {
    Phase.NEW: {Step.INITIALIZED: Phase.READY, Step.GIVEN_UP: Phase.NEW},
    Phase.READY: {Step.BEGUN: Phase.OPEN, Step.GIVEN_UP: Phase.NEW},
    Phase.OPEN: {Step.FAILED: Phase.ABORTING, Step.OFFSETS_SENT: Phase.COMMITTING, Step.GIVEN_UP: Phase.NEW},
    Phase.ABORTING: {Step.ENDED: Phase.READY, Step.GIVEN_UP: Phase.NEW},
    Phase.COMMITTING: {Step.ENDED: Phase.READY, Step.GIVEN_UP: Phase.NEW},
}
"""No way leads from COMMITTING to ABORTING: a commit that was called may have gone through."""


class Transactions:
    """The transactional producer of one process. Used from one thread; no call takes much longer than 5 s."""

    def __init__(self, clients: ClientFactory, settings: Mapping[str, Any], hanging: HangingTransactions) -> None:
        self._clients = clients
        self._settings = settings
        self._hanging = hanging
        self._producer: Producer | None = None
        self._phase = Phase.NEW
        self._id: str = settings["transactional.id"]
        self.was_cut_off = False
        """Whether the connection to Kafka was lost since the last commit that is known to have gone through."""
        self.is_no_member = False
        """Whether the group refused the last transaction, as this copy is no member of it any more."""
        self.reason = ""
        """A sentence that says why the last transaction was not committed."""

    def prepare(self) -> bool:
        """Make the producer known to Kafka, which also ends what an earlier one with its id left open.

        Returns:
            Whether transactions can begin now.

        Raises:
            KafkaError: Kafka refuses it for good.
        """
        if self._phase is not Phase.NEW:
            return True
        try:
            if self._producer is None:
                settings = {**self._settings, "error_cb": self._connection_trouble}
                self._producer = self._clients.producer(settings)
            call(self._producer.init_transactions, CALL_TIMEOUT_SECONDS)
        except KafkaException as error:
            self._note("could not be begun", error)
            if is_refusal(error):
                raise KafkaError(
                    f"Kafka doesn't let this service write in transactions: {text_of(error)}. Allow it to write to "
                    "the transactional ids that begin with its group's name."
                ) from None
            if is_fatal(error):
                self._give_up_producer()
            return False
        self._move(Step.INITIALIZED)
        return self._sweep()

    def _sweep(self) -> bool:
        try:
            self._hanging.sweep(self._known_producer())
        except KafkaException as error:
            self._note("could not be swept", error)
            # A new producer tries once more.
            self._give_up_producer()
            return False
        return True

    @property
    def is_unfinished(self) -> bool:
        """Whether the last transaction has no outcome yet."""
        return self._phase in {Phase.ABORTING, Phase.COMMITTING}

    def commit(self, changes: Changeset, member: GroupMetadata) -> Outcome:
        """Write the changes in one transaction; `member`: of the consumer that read up to their offsets."""
        if not self.prepare():
            return Outcome.ABORTED
        producer = self._known_producer()
        self._move(Step.BEGUN)
        self.is_no_member = False
        try:
            producer.begin_transaction()
            self._produce_all(changes.batches)
            left = call(producer.flush, CALL_TIMEOUT_SECONDS)
            if left:
                return self._abort(f"{left} records were not taken by Kafka in {CALL_TIMEOUT_SECONDS:g} s")
            positions = [confluent_kafka.TopicPartition(*one, offset) for one, offset in changes.offsets.items()]
            call(producer.send_offsets_to_transaction, positions, member, CALL_TIMEOUT_SECONDS)
        except KafkaException as error:
            self.is_no_member = is_no_member(error)
            if is_fatal(error):
                self._note("was refused", error)
                return self._unknown()
            return self._abort(text_of(error))
        self._move(Step.OFFSETS_SENT)
        return self._go_on_committing()

    def finish(self) -> Outcome:
        """Go on with the transaction that has no outcome yet."""
        return self._go_on_aborting() if self._phase is Phase.ABORTING else self._go_on_committing()

    def close(self) -> None:
        """Let go of the producer. An open transaction is ended by Kafka after its timeout."""
        self._producer = None

    def _produce_all(self, batches: Sequence[OutputBatch]) -> None:
        named: set[TopicPartition] = set()
        for topic_partition, records in batches:
            self._hanging.writes_to(topic_partition)
            self._produce(topic_partition, records, is_first=topic_partition not in named)
            named.add(topic_partition)

    def _produce(self, topic_partition: TopicPartition, records: Sequence[OutputRecord], *, is_first: bool) -> None:
        produce = self._known_producer().produce
        topic, partition = topic_partition
        for key, value, own_headers in records:
            headers = own_headers
            if is_first:
                headers = headers or [(WRITER, self._id.encode())]
                is_first = False
            try:
                # By position, where it can be: this runs for every row that changed.
                if headers is None:
                    produce(topic, value, key, partition)
                else:
                    produce(topic, value, key, partition, headers=headers)
            except BufferError:
                self._produce_later(topic, value, key, partition, headers)

    def _produce_later(
        self, topic: str, value: bytes | None, key: bytes | None, partition: int, headers: Headers | None
    ) -> None:
        producer = self._known_producer()
        for _ in range(50):
            call(producer.poll, CALL_TIMEOUT_SECONDS / 50)
            try:
                producer.produce(topic, value, key, partition, headers=headers)
            except BufferError:
                continue
            return
        raise KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._QUEUE_FULL))

    def _abort(self, reason: str) -> Outcome:
        self.reason = f"The transaction was aborted: {reason}."
        self._move(Step.FAILED)
        return self._go_on_aborting()

    def _go_on_aborting(self) -> Outcome:
        try:
            call(self._known_producer().abort_transaction, CALL_TIMEOUT_SECONDS)
        except KafkaException as error:
            if is_fatal(error) or not is_retriable(error):
                self._note("could not be aborted", error)
                return self._unknown()
            return Outcome.UNFINISHED
        self._move(Step.ENDED)
        return Outcome.ABORTED

    def _go_on_committing(self) -> Outcome:
        try:
            call(self._known_producer().commit_transaction, CALL_TIMEOUT_SECONDS)
        except KafkaException as error:
            self._note("has no outcome yet", error)
            if is_retriable(error) and not is_fatal(error):
                return Outcome.UNFINISHED
            return self._unknown()
        self._move(Step.ENDED)
        self.reason = ""
        self.was_cut_off = False
        return Outcome.COMMITTED

    def _unknown(self) -> Outcome:
        self._give_up_producer()
        return Outcome.UNKNOWN

    def _give_up_producer(self) -> None:
        self._producer = None
        self._move(Step.GIVEN_UP)
        self._hanging.producer_is_replaced()

    def _known_producer(self) -> Producer:
        if self._producer is None:
            raise AssertionError("prepare() comes first")
        return self._producer

    def _move(self, step: Step) -> None:
        self._phase = next_state(PHASES, self._phase, step)

    def _connection_trouble(self, _: object) -> None:
        self.was_cut_off = True

    def _note(self, what: str, error: KafkaException) -> None:
        self.reason = f"A transaction {what}: {text_of(error)}."
