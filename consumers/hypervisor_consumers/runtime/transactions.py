"""One Kafka transaction after another: records and input offsets, all or nothing.

The rules (each is the answer to a way in which counts were lost or doubled):

* Records are flushed before the offsets are sent: sending offsets flushes nothing.
* Every transaction names the offset of every partition that it writes for. Kafka then asks whether the sender is
  still a member of its group; a transaction without offsets commits whoever sends it.
* Offsets whose sending failed, by a timeout too, are never committed: the transaction is aborted.
* A commit that timed out is called again, never aborted: it may have gone through.
* A commit that failed for good has an unknown outcome. So has one of a producer that was fenced.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import confluent_kafka
from confluent_kafka import KafkaException, TopicPartition

from hypervisor_consumers.runtime.kafka import Kafka
from hypervisor_consumers.runtime.processor import Place
from hypervisor_schemas.errors import KafkaError

__all__ = ["Outcome", "OutputRecord", "Transactions"]

log = logging.getLogger(__name__)

CALL_TIMEOUT = 5.0
"""Seconds that one call may take; the loop turns in between."""


_SWEPT = b"swept"
"""The key of records that are aborted whatever happens; a compacted topic takes none without a key."""


class OutputRecord(NamedTuple):
    """A record to produce, to a full topic name."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] | None = None


class Outcome(Enum):
    """How a transaction went."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    """Nothing of it will ever be seen."""
    UNKNOWN = "unknown"
    """Only the changelog can tell."""
    UNFINISHED = "unfinished"
    """`finish` is to be called until it says something else."""


class _Phase(Enum):
    NEW = "new"
    READY = "ready"
    ABORTING = "aborting"
    COMMITTING = "committing"


class Transactions:
    """The transactional producer of one process. Used from one thread; no call takes much longer than 5 s."""

    def __init__(self, kafka: Kafka, settings: Mapping[str, Any]) -> None:
        self._kafka = kafka
        self._settings = settings
        self._producer: Any = None
        self._phase = _Phase.NEW
        self._written: set[tuple[str, int]] = set()
        """Where records of the last transaction may lie open."""
        self.reason = ""
        """Why the last transaction was not committed, as a sentence."""

    def prepare(self) -> bool:
        """Make the producer known to Kafka, which also ends what an earlier one with its id left open.

        Returns:
            Whether transactions can begin now.

        Raises:
            KafkaError: Kafka refuses it for good.
        """
        if self._phase is not _Phase.NEW:
            return True
        try:
            if self._producer is None:
                self._producer = self._kafka.producer(self._settings)
            _call(self._producer.init_transactions, CALL_TIMEOUT)
        except KafkaException as error:
            self._note("could not be begun", error)
            if _is_refusal(error):
                raise KafkaError(
                    f"Kafka doesn't let this service write in transactions: {_text(error)}. Allow it to write to "
                    "the transactional ids that begin with its group's name."
                ) from None
            if _is_fatal(error):
                self._give_up_producer()
            return False
        self._phase = _Phase.READY
        return self._sweep()

    def _sweep(self) -> bool:
        """Abort once more where the producer before this one wrote without an end that this one saw.

        A broker that crashed can forget that a transaction has a partition (seen on Kafka 4.3.1): its records there
        stay open for ever, and nobody who reads what is committed comes past them. An abort of another transaction
        with the same id, that has the partition, ends them too.
        """
        if not self._written:
            return True
        producer = self._producer
        try:
            producer.begin_transaction()
            for topic, partition in self._written:
                producer.produce(topic, value=None, key=_SWEPT, partition=partition)
            _call(producer.flush, CALL_TIMEOUT)
        except KafkaException as error:
            self._note("could not be swept", error)
        written = self._written
        outcome = self._abort("it only sweeps")
        if outcome is not Outcome.ABORTED:
            # A new producer tries once more.
            self._give_up_producer()
            self._written = written
            return False
        return True

    @property
    def is_unfinished(self) -> bool:
        """Whether the last transaction has no outcome yet."""
        return self._phase in {_Phase.ABORTING, _Phase.COMMITTING}

    def commit(self, records: Iterable[OutputRecord], offsets: Mapping[Place, int], member: Any) -> Outcome:
        """One transaction.

        Args:
            records: What to write, for partitions that `offsets` names.
            offsets: Per input partition, that of the next record; never empty.
            member: The group metadata of the consumer that read up to them.
        """
        if not offsets:
            raise ValueError("a transaction without offsets would commit whoever sends it")
        if not self.prepare():
            return Outcome.ABORTED
        producer = self._producer
        try:
            producer.begin_transaction()
            for record in records:
                self._written.add((record.topic, record.partition))
                self._produce(record)
            left = _call(producer.flush, CALL_TIMEOUT)
            if left:
                return self._abort(f"{left} records were not taken by Kafka in {CALL_TIMEOUT:g} s")
            positions = [TopicPartition(*place, offset) for place, offset in offsets.items()]
            _call(producer.send_offsets_to_transaction, positions, member, CALL_TIMEOUT)
        except KafkaException as error:
            if _is_fatal(error):
                self._note("was refused", error)
                return self._unknown()
            return self._abort(_text(error))
        self._phase = _Phase.COMMITTING
        return self._go_on_committing()

    def finish(self) -> Outcome:
        """Go on with the transaction that has no outcome yet."""
        return self._go_on_aborting() if self._phase is _Phase.ABORTING else self._go_on_committing()

    def close(self) -> None:
        """Let go of the producer. An open transaction is ended by Kafka after its timeout."""
        self._producer = None

    def _produce(self, record: OutputRecord) -> None:
        for _ in range(50):
            try:
                self._producer.produce(
                    record.topic,
                    value=record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=record.headers,
                )
            except BufferError:
                _call(self._producer.poll, CALL_TIMEOUT / 50)
            else:
                return
        raise KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._QUEUE_FULL))

    def _abort(self, reason: str) -> Outcome:
        self.reason = f"The transaction was aborted: {reason}."
        self._phase = _Phase.ABORTING
        return self._go_on_aborting()

    def _go_on_aborting(self) -> Outcome:
        try:
            _call(self._producer.abort_transaction, CALL_TIMEOUT)
        except KafkaException as error:
            if _is_fatal(error) or not error.args[0].retriable():
                self._note("could not be aborted", error)
                return self._unknown()
            return Outcome.UNFINISHED
        self._phase = _Phase.READY
        self._written = set()
        return Outcome.ABORTED

    def _go_on_committing(self) -> Outcome:
        try:
            _call(self._producer.commit_transaction, CALL_TIMEOUT)
        except KafkaException as error:
            self._note("has no outcome yet", error)
            if error.args[0].retriable() and not _is_fatal(error):
                return Outcome.UNFINISHED
            return self._unknown()
        self._phase = _Phase.READY
        self._written = set()
        self.reason = ""
        return Outcome.COMMITTED

    def _unknown(self) -> Outcome:
        self._give_up_producer()
        return Outcome.UNKNOWN

    def _give_up_producer(self) -> None:
        # The next one has the same id: making it known to Kafka ends what this one left open.
        self._producer = None
        self._phase = _Phase.NEW

    def _note(self, what: str, error: KafkaException) -> None:
        self.reason = f"A transaction {what}: {_text(error)}."


def _call(method: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return method(*arguments)
    except SystemError as error:
        # What confluent-kafka makes of an error that comes while a callback is due.
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None
        raise


def _text(error: KafkaException) -> str:
    return str(error.args[0].str())


def _is_fatal(error: KafkaException) -> bool:
    return bool(error.args[0].fatal())


def _is_refusal(error: KafkaException) -> bool:
    return error.args[0].name() in {
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "INVALID_TRANSACTION_TIMEOUT",
        "UNSUPPORTED_VERSION",
    }
