"""One Kafka transaction after another: records and input offsets, all or nothing.

The rules (each is the answer to a way in which counts were lost or doubled):

* Records are flushed before the offsets are sent: sending offsets flushes nothing.
* Every transaction names the offset of every partition that it writes for. Kafka then asks whether the sender is
  still a member of its group; a transaction without offsets commits whoever sends it.
* Offsets whose sending failed, by a timeout too, are never committed: the transaction is aborted.
* A commit that timed out is called again, never aborted: it may have gone through.
* A commit that failed for good has an unknown outcome. So has one of a producer that was fenced.

And one against Kafka itself. A coordinator that starts while partitions have no leader takes them for deleted and
ends a transaction without them (KAFKA-20734, not mended in 4.3): what was written there stays open for ever, and
nobody who reads what is committed comes past it. Kafka ends by producer what is open in a partition, so the next
abort of the same producer in the same partition ends that too; as aborted, even if the rest was committed. So a
producer that replaces another aborts once wherever that one wrote, the first record of each partition says who
wrote it, for the case that nobody else knows, and whoever restores takes the state's word, not the offset's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.processor import TopicPartition
from hypervisor_schemas.errors import KafkaError

__all__ = ["WRITER", "Forgotten", "Outcome", "OutputBatch", "OutputRecord", "Transactions"]

log = logging.getLogger(__name__)

CALL_TIMEOUT = 5.0
"""Seconds that one call may take; the loop turns in between."""


WRITER = "transactional.id"
"""The header of the first record of a transaction in a partition, unless it has headers of its own."""

_SWEPT = b"swept"
"""The key of records that are aborted whatever happens; a compacted topic takes none without a key."""


OutputRecord: TypeAlias = "tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]] | None]"
"""Key, value and headers of one record."""


class OutputBatch(NamedTuple):
    """Records to produce, to one partition of a full topic name."""

    topic_partition: TopicPartition
    records: Sequence[OutputRecord]


class Forgotten(NamedTuple):
    """Whose records stay open for ever, and where."""

    transactional_id: str
    partition: TopicPartition


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

    def __init__(self, kafka: ClientFactory, settings: Mapping[str, Any]) -> None:
        self._kafka = kafka
        self._settings = settings
        self._producer: Any = None
        self._phase = _Phase.NEW
        self._id: str = settings["transactional.id"]
        self._written: set[TopicPartition] = set()
        """Where records of a producer that was replaced may lie open: all that were ever written to."""
        self._is_swept = True
        self.was_cut_off = False
        """Whether the connection to Kafka was lost since the last commit that is known to have gone through."""
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
                self._producer = self._kafka.producer({**self._settings, "error_cb": self._connection_trouble})
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
        """Abort once wherever the producer before this one wrote."""
        if self._is_swept:
            return True
        try:
            self._abort_in(self._producer, self._written)
        except KafkaException as error:
            self._note("could not be swept", error)
            # A new producer tries once more.
            self._give_up_producer()
        else:
            self._is_swept = True
        return self._is_swept

    def end(self, forgotten: Iterable[Forgotten], also: Collection[TopicPartition]) -> None:
        """End what Kafka has forgotten, in the name of who wrote it: that one is fenced, if it is still there.

        Args:
            forgotten: What a restoration found.
            also: Other partitions that the same producers may have written to.
        """
        by_writer: dict[str, set[TopicPartition]] = {}
        for one in forgotten:
            by_writer.setdefault(one.transactional_id, set(also)).add(one.partition)
        for writer, partitions in by_writer.items():
            try:
                producer = self._kafka.producer({**self._settings, "transactional.id": writer})
                _call(producer.init_transactions, CALL_TIMEOUT)
                self._abort_in(producer, partitions)
            except KafkaException as error:
                self._note(f"of {writer} could not be ended", error)
                log.warning("%s", self.reason)
            else:
                log.warning("A transaction of %s, that Kafka had forgotten to end, is ended.", writer)

    @staticmethod
    def _abort_in(producer: Any, partitions: Iterable[TopicPartition]) -> None:
        """Begin a transaction in these partitions, and abort it.

        Raises:
            KafkaException: It could not be begun everywhere, or not be ended.
        """
        producer.begin_transaction()
        try:
            for topic_partition in partitions:
                producer.produce(topic_partition.topic, value=None, key=_SWEPT, partition=topic_partition.partition)
            if _call(producer.flush, CALL_TIMEOUT):
                raise KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError._TIMED_OUT))
        finally:
            _call(producer.abort_transaction, CALL_TIMEOUT)

    @property
    def is_unfinished(self) -> bool:
        """Whether the last transaction has no outcome yet."""
        return self._phase in {_Phase.ABORTING, _Phase.COMMITTING}

    def commit(self, batches: Iterable[OutputBatch], offsets: Mapping[TopicPartition, int], member: Any) -> Outcome:
        """One transaction.

        Args:
            batches: What to write, for partitions that `offsets` names.
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
            named: set[TopicPartition] = set()
            for topic_partition, records in batches:
                self._produce(topic_partition, records, is_first=topic_partition not in named)
                named.add(topic_partition)
            left = _call(producer.flush, CALL_TIMEOUT)
            if left:
                return self._abort(f"{left} records were not taken by Kafka in {CALL_TIMEOUT:g} s")
            positions = [
                confluent_kafka.TopicPartition(*topic_partition, offset)
                for topic_partition, offset in offsets.items()
            ]
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

    def _produce(self, topic_partition: TopicPartition, records: Sequence[OutputRecord], *, is_first: bool) -> None:
        self._written.add(topic_partition)
        produce = self._producer.produce
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

    def _produce_later(self, *record: Any) -> None:
        *where_and_what, headers = record
        for _ in range(50):
            _call(self._producer.poll, CALL_TIMEOUT / 50)
            try:
                self._producer.produce(*where_and_what, headers=headers)
            except BufferError:
                continue
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
        self.reason = ""
        self.was_cut_off = False
        return Outcome.COMMITTED

    def _unknown(self) -> Outcome:
        self._give_up_producer()
        return Outcome.UNKNOWN

    def _give_up_producer(self) -> None:
        # The next one has the same id: making it known to Kafka ends what this one left open.
        self._producer = None
        self._phase = _Phase.NEW
        self._is_swept = not self._written

    def _connection_trouble(self, _: Any) -> None:
        self.was_cut_off = True

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
