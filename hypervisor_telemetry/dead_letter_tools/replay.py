"""Replays dead letters: each goes back to its partition, with the same key, value and headers, for its service.

A replayed record and its mark are in one transaction, so a crash leaves both or none. Every replay has the same
`transactional.id`: a new one ends the one before, and only then looks for dead letters without a mark. So nothing
is replayed twice unless it is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException, Producer

from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import KafkaError, SettingError
from hypervisor_telemetry.dead_letter_tools.dead_letters import (
    DeadLetterEntry,
    DeadLetterTopic,
    Selection,
    reason_of,
)

__all__ = ["ReplayResult", "plan_replay", "replay"]

_BATCH_RECORDS = 500
_BATCH_BYTES = 8 * 1024 * 1024
_ANSWER_SECONDS = 60.0
_MESSAGE_TIMEOUT_MS = 25_000
_TRANSACTION_TIMEOUT_MS = 30_000

_Error = confluent_kafka.KafkaError
_FENCED = frozenset({_Error._FENCED, _Error.PRODUCER_FENCED, _Error.INVALID_PRODUCER_EPOCH})
_REFUSED = frozenset(
    {
        _Error.MSG_SIZE_TOO_LARGE,
        _Error.INVALID_MSG,
        _Error.INVALID_MSG_SIZE,
        _Error.INVALID_RECORD,
        _Error.INVALID_TIMESTAMP,
        _Error.POLICY_VIOLATION,
        _Error.RECORD_LIST_TOO_LARGE,
        _Error.TOPIC_AUTHORIZATION_FAILED,
        _Error.UNKNOWN_TOPIC_OR_PART,
    }
)
"""Kafka's reasons to refuse one record; any other error would meet the next record, too."""

_PURGED = frozenset({_Error._PURGE_QUEUE, _Error._PURGE_INFLIGHT})
"""Codes of a transaction that was given up before this record was sent. librdkafka also gives up the transaction
after one with a refused record: only then does it notice that its sequence numbers have a gap."""

_ATTEMPTS = 3

_RAISED = (KafkaException, SystemError)
"""Errors of the producer's calls. confluent-kafka raises a fatal error from within poll, flush and commit; if a
callback is still to be called then, it becomes Python's SystemError."""


@dataclass(slots=True)
class ReplayResult:
    """The result of a replay, or of its plan."""

    replayed: list[DeadLetterEntry] = field(default_factory=list)
    replayed_before: int = 0
    """The number that was left out because it was replayed before."""
    refused: list[DeadLetterEntry] = field(default_factory=list)
    """Those that can't be replayed as things are; they get no mark, so a later replay tries them again."""


def plan_replay(
    topic: DeadLetterTopic,
    selection: Selection,
    report: Callable[[str], None],
    *,
    limit: int | None = None,
    again: bool = False,
) -> ReplayResult:
    """The plan of a replay of this selection, in order. Changes nothing.

    Args:
        topic: The dead letters.
        selection: The dead letters that are meant.
        report: Gets a sentence for each partition that records can't go back to.
        limit: The most dead letters to replay.
        again: Whether to replay those, too, that were replayed before.

    Raises:
        KafkaError: Kafka refused, didn't answer, or a transaction stayed open.
    """
    entries = topic.index(selection, past_open_transactions=True)
    chosen = entries if again else [entry for entry in entries if entry.replayed_at_ms is None]
    plan = ReplayResult(replayed_before=len(entries) - len(chosen))
    for (source, partition), group in groupby(chosen, key=lambda entry: (entry.id.topic, entry.id.partition)):
        partitions = topic.partitions_of.get(source, 0)
        if partition < partitions:
            plan.replayed += group
            continue
        lost = list(group)
        plan.refused += lost
        why = f"has {partitions} partitions now" if partitions else "doesn't exist any more"
        report(f"{len(lost):,} of {source}/{partition} can't be replayed: the topic {why}")
    plan.replayed = plan.replayed[:limit]
    return plan


def replay(
    topic: DeadLetterTopic,
    selection: Selection,
    report: Callable[[str], None],
    *,
    limit: int | None = None,
    again: bool = False,
) -> ReplayResult:
    """Replay the dead letters of `plan_replay`. `report` also gets a sentence for every record that Kafka refuses.

    Raises:
        SettingError: The settings don't make a transactional producer.
        KafkaError: Kafka refused or didn't answer, or another replay began. Marks that were written stay.
    """
    run = _ReplayRun(topic, report)
    # This comes first: afterwards nobody else adds marks that the plan wouldn't know.
    run.begin()
    plan = plan_replay(topic, selection, report, limit=limit, again=again)
    run.result.replayed_before = plan.replayed_before
    run.result.refused += plan.refused
    for batch in _batches(plan.replayed):
        run.replay(batch)
    return run.result


def _batches(chosen: Sequence[DeadLetterEntry]) -> Iterator[list[DeadLetterEntry]]:
    batch: list[DeadLetterEntry] = []
    size = 0
    for entry in chosen:
        if batch and (len(batch) >= _BATCH_RECORDS or size + entry.size_bytes > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += entry.size_bytes
    if batch:
        yield batch


class _ReplayRun:
    """One replay: its producer, and its result so far."""

    def __init__(self, topic: DeadLetterTopic, report: Callable[[str], None]) -> None:
        self.result = ReplayResult()
        self._topic = topic
        self._report = report
        try:
            self._producer = Producer(_producer_settings(topic.settings, f"{topic.name}-replay"))
        except KafkaException as error:
            raise SettingError("KAFKA_*", f"settings don't go together: {reason_of(error)}.") from None

    def begin(self) -> None:
        """End the replay before this one, if it still runs, with its open transaction."""
        self._call_until_answered(self._producer.init_transactions)

    def replay(self, batch: Sequence[DeadLetterEntry]) -> None:
        """Replay this batch, except the records that Kafka refuses."""
        letters = self._topic.fetch(batch)
        present = []
        for entry in batch:
            if entry.id in letters:
                present.append(entry)
            else:
                self._refuse(entry, "it has aged out of the dead letters meanwhile")
        if present:
            self._replay_halves(present, letters)

    def _replay_halves(self, batch: Sequence[DeadLetterEntry], letters: Mapping[Any, DeadLetter]) -> None:
        refusal = self._in_a_transaction([(entry, letters[entry.id]) for entry in batch])
        if refusal is None:
            self.result.replayed += batch
        elif len(batch) == 1:
            self._refuse(batch[0], f"Kafka refuses it: {refusal.str().rstrip('.')}")
        else:
            # One transaction is all or nothing: the refused record is entries by halves, and the order stays.
            middle = len(batch) // 2
            self._replay_halves(batch[:middle], letters)
            self._replay_halves(batch[middle:], letters)

    def _in_a_transaction(
        self, batch: Sequence[tuple[DeadLetterEntry, DeadLetter]]
    ) -> confluent_kafka.KafkaError | None:
        """Write records and marks, all or none. Returns Kafka's reason to refuse one of the records."""
        failed: Sequence[confluent_kafka.KafkaError] = ()
        for _ in range(_ATTEMPTS):
            failed = self._attempt(batch)
            if not failed:
                return None
            for error in failed:
                if error.code() in _REFUSED:
                    return error
            if not {error.code() for error in failed} <= _PURGED:
                break
        raise self._failure(failed[0])

    def _attempt(self, batch: Sequence[tuple[DeadLetterEntry, DeadLetter]]) -> Sequence[confluent_kafka.KafkaError]:
        """Try one transaction. Returns the errors for which it was aborted; none if it is committed."""
        failed: list[confluent_kafka.KafkaError] = []
        try:
            self._write(batch, failed)
        except _RAISED as raised:
            error = self._cause(raised)
            if not failed:
                self._abandon()
                raise self._failure(error) from None
        except BaseException:
            self._abandon()
            raise
        self._call_until_answered(self._producer.abort_transaction if failed else self._producer.commit_transaction)
        return failed

    def _write(
        self, batch: Sequence[tuple[DeadLetterEntry, DeadLetter]], failed: list[confluent_kafka.KafkaError]
    ) -> None:
        """Write everything, and return when Kafka has it all or has refused something."""

        def delivered(error: confluent_kafka.KafkaError | None, _message: object) -> None:
            if error is not None:
                failed.append(error)

        # The stubs want a list of a wider element type.
        produce: Callable[..., None] = self._producer.produce
        self._producer.begin_transaction()
        for entry, letter in batch:
            produce(
                letter.topic,
                letter.value,
                letter.key,
                partition=letter.partition,
                headers=letter.replay_headers(),
                on_delivery=delivered,
            )
            # In the partition of the dead letter and behind it, the mark outlives it.
            produce(
                self._topic.name,
                partition=entry.dead_letter_partition,
                headers=letter.id.mark_headers(),
                on_delivery=delivered,
            )
        while self._producer.flush(0.1) and not failed:
            pass

    def _call_until_answered(self, call: Callable[[float], object]) -> None:
        """Call until there is an answer: an init, commit or abort that timed out goes on with the next call."""
        give_up_at = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                call(1.0)
            except _RAISED as raised:
                error = self._cause(raised)
                if not error.retriable() or time.monotonic() > give_up_at:
                    if error.txn_requires_abort():
                        self._abandon()
                    raise self._failure(error) from None
            else:
                return

    def _abandon(self) -> None:
        """Abort the transaction; else readers would be held up until its timeout."""
        with suppress(*_RAISED):
            self._producer.abort_transaction(5.0)

    def _cause(self, raised: Exception) -> confluent_kafka.KafkaError:
        """The real error: after a fatal one, every call only says that there was one, and a poll says which."""
        error = _kafka_error(raised)
        try:
            self._producer.poll(0)
        except _RAISED as fatal:
            error = _kafka_error(fatal)
        return error

    def _failure(self, error: confluent_kafka.KafkaError) -> KafkaError:
        so_far = f"This one replayed {len(self.result.replayed):,}"
        if error.code() in _FENCED:
            return KafkaError(f"Another replay has begun and goes on in place of this one. {so_far}.")
        return KafkaError(f"The replay stopped: {error.str().rstrip('.')}. {so_far}; run it again for the rest.")

    def _refuse(self, entry: DeadLetterEntry, why: str) -> None:
        self.result.refused.append(entry)
        self._report(f"{entry.id.place} of {entry.id.service} is not replayed: {why}")


def _kafka_error(raised: BaseException) -> confluent_kafka.KafkaError:
    """librdkafka's error in an exception, or in the cause of a SystemError."""
    cause: BaseException | None = raised
    while cause is not None:
        if isinstance(cause, KafkaException):
            error: confluent_kafka.KafkaError = cause.args[0]
            return error
        cause = cause.__cause__ or cause.__context__
    raise raised


_silent_log = logging.getLogger(f"{__name__}.librdkafka")
_silent_log.addHandler(logging.NullHandler())
_silent_log.propagate = False


def _producer_settings(kafka: Mapping[str, str], transactional_id: str) -> dict[str, Any]:
    return {
        **kafka,
        "transactional.id": transactional_id,
        "transaction.timeout.ms": _TRANSACTION_TIMEOUT_MS,
        "message.timeout.ms": _MESSAGE_TIMEOUT_MS,
        # The topic's limit decides what is too large.
        "message.max.bytes": 1_000_000_000,
        "queue.buffering.max.messages": 100_000,
        # A fatal error is logged at every level; it comes back as an error too.
        "logger": _silent_log,
    }
