"""Dead letters back to where they came from: same partition, key, value and headers, for the service they are of.

A replayed record and its mark are in one transaction, so a crash leaves both or none. Every replay has the same
`transactional.id`: the one that starts ends the one before, and only then looks at what has no mark. Nothing is
replayed twice unless it is asked for.
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
from hypervisor_telemetry.dead_letter_tools.dead_letters import DeadLetterTopic, Kept, Selection, reason_of

__all__ = ["Replayed", "replay", "to_replay"]

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
"""What Kafka has against one record; anything else is trouble that the next record would have too."""

_PURGED = frozenset({_Error._PURGE_QUEUE, _Error._PURGE_INFLIGHT})
"""The transaction was given up before this record's turn. librdkafka does that also to the transaction after one
with a refused record: only then does it notice that its sequence numbers have a gap."""

_ATTEMPTS = 3

_RAISED = (KafkaException, SystemError)
"""confluent-kafka raises a fatal error from within poll, flush and commit; where a callback is still to be called
then, it becomes Python's SystemError."""


@dataclass(slots=True)
class Replayed:
    """What a replay did, or would do."""

    done: list[Kept] = field(default_factory=list)
    replayed_before: int = 0
    """How many were left alone because they were replayed before."""
    refused: list[Kept] = field(default_factory=list)
    """Those that can't be replayed as things are; they get no mark and stay to be replayed."""


def to_replay(
    topic: DeadLetterTopic,
    selection: Selection,
    report: Callable[[str], None],
    *,
    limit: int | None = None,
    again: bool = False,
) -> Replayed:
    """What a replay of this selection would do, in order. Changes nothing.

    Args:
        topic: The dead letters.
        selection: Which are meant.
        report: Gets a sentence for each partition that records can't go back to.
        limit: At most so many.
        again: Also those that were replayed before.

    Raises:
        KafkaError: Kafka refused, didn't answer, or a transaction stayed open.
    """
    found = topic.index(selection, past_open_transactions=True)
    chosen = found if again else [kept for kept in found if kept.replayed_at is None]
    plan = Replayed(replayed_before=len(found) - len(chosen))
    for (source, partition), group in groupby(chosen, key=lambda kept: (kept.id.topic, kept.id.partition)):
        partitions = topic.partitions_of.get(source, 0)
        if partition < partitions:
            plan.done += group
            continue
        lost = list(group)
        plan.refused += lost
        why = f"has {partitions} partitions now" if partitions else "doesn't exist any more"
        report(f"{len(lost):,} of {source}/{partition} can't be replayed: the topic {why}")
    plan.done = plan.done[:limit]
    return plan


def replay(
    topic: DeadLetterTopic,
    selection: Selection,
    report: Callable[[str], None],
    *,
    limit: int | None = None,
    again: bool = False,
) -> Replayed:
    """Replay what `to_replay` chooses. `report` also gets a sentence for every record that Kafka refuses.

    Raises:
        SettingError: The settings don't make a transactional producer.
        KafkaError: Kafka refused or didn't answer, or another replay began. What is marked by then stays so.
    """
    run = _Replay(topic, report)
    # First of all: after this nobody else adds marks that the plan wouldn't know.
    run.begin()
    plan = to_replay(topic, selection, report, limit=limit, again=again)
    run.result.replayed_before = plan.replayed_before
    run.result.refused += plan.refused
    for batch in _batches(plan.done):
        run.replay(batch)
    return run.result


def _batches(chosen: Sequence[Kept]) -> Iterator[list[Kept]]:
    batch: list[Kept] = []
    size = 0
    for kept in chosen:
        if batch and (len(batch) >= _BATCH_RECORDS or size + kept.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(kept)
        size += kept.size
    if batch:
        yield batch


class _Replay:
    """One replay: its producer, and what it did so far."""

    def __init__(self, topic: DeadLetterTopic, report: Callable[[str], None]) -> None:
        self.result = Replayed()
        self._topic = topic
        self._report = report
        try:
            self._producer = Producer(_producer_settings(topic.settings, f"{topic.name}-replay"))
        except KafkaException as error:
            raise SettingError("KAFKA_*", f"settings don't go together: {reason_of(error)}.") from None

    def begin(self) -> None:
        """End the replay before this one, if one still runs, together with its open transaction."""
        self._patiently(self._producer.init_transactions)

    def replay(self, batch: Sequence[Kept]) -> None:
        """Replay this batch, but for the records that Kafka refuses."""
        letters = self._topic.fetch(batch)
        present = []
        for kept in batch:
            if kept.id in letters:
                present.append(kept)
            else:
                self._refuse(kept, "it has aged out of the dead letters meanwhile")
        if present:
            self._replay_halves(present, letters)

    def _replay_halves(self, batch: Sequence[Kept], letters: Mapping[Any, DeadLetter]) -> None:
        refusal = self._in_a_transaction([(kept, letters[kept.id]) for kept in batch])
        if refusal is None:
            self.result.done += batch
        elif len(batch) == 1:
            self._refuse(batch[0], f"Kafka refuses it: {refusal.str().rstrip('.')}")
        else:
            # One transaction is all or nothing: the refused record is found by halves, and the order stays.
            middle = len(batch) // 2
            self._replay_halves(batch[:middle], letters)
            self._replay_halves(batch[middle:], letters)

    def _in_a_transaction(self, batch: Sequence[tuple[Kept, DeadLetter]]) -> confluent_kafka.KafkaError | None:
        """Records and marks, all or none. Returns what Kafka has against one of the records."""
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

    def _attempt(self, batch: Sequence[tuple[Kept, DeadLetter]]) -> Sequence[confluent_kafka.KafkaError]:
        """One transaction. Returns why it had to be aborted, nothing if it is committed."""
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
        self._patiently(self._producer.abort_transaction if failed else self._producer.commit_transaction)
        return failed

    def _write(self, batch: Sequence[tuple[Kept, DeadLetter]], failed: list[confluent_kafka.KafkaError]) -> None:
        """Returns when Kafka has everything, or has refused something."""

        def delivered(error: confluent_kafka.KafkaError | None, _message: object) -> None:
            if error is not None:
                failed.append(error)

        # Its stubs want a list of another element type, which bytes are part of.
        produce: Callable[..., None] = self._producer.produce
        self._producer.begin_transaction()
        for kept, letter in batch:
            produce(
                letter.topic,
                letter.value,
                letter.key,
                partition=letter.partition,
                headers=letter.replay_headers(),
                on_delivery=delivered,
            )
            # Behind the dead letter, in its partition, it outlives it.
            produce(
                self._topic.name,
                partition=kept.partition,
                headers=letter.id.mark_headers(),
                on_delivery=delivered,
            )
        while self._producer.flush(0.1) and not failed:
            pass

    def _patiently(self, call: Callable[[float], object]) -> None:
        """Call until it has an answer: a timed-out init, commit or abort goes on when it is called again."""
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
        """Without an abort, readers would be held up until the transaction's timeout."""
        with suppress(*_RAISED):
            self._producer.abort_transaction(5.0)

    def _cause(self, raised: Exception) -> confluent_kafka.KafkaError:
        """What is behind an error: after a fatal one, every call only says that there was one, and a poll which."""
        error = _kafka_error(raised)
        try:
            self._producer.poll(0)
        except _RAISED as fatal:
            error = _kafka_error(fatal)
        return error

    def _failure(self, error: confluent_kafka.KafkaError) -> KafkaError:
        so_far = f"This one replayed {len(self.result.done):,}"
        if error.code() in _FENCED:
            return KafkaError(f"Another replay has begun and goes on in place of this one. {so_far}.")
        return KafkaError(f"The replay stopped: {error.str().rstrip('.')}. {so_far}; run it again for the rest.")

    def _refuse(self, kept: Kept, why: str) -> None:
        self.result.refused.append(kept)
        self._report(f"{kept.id.place} of {kept.id.service} is not replayed: {why}")


def _kafka_error(raised: BaseException) -> confluent_kafka.KafkaError:
    """The error in an exception of librdkafka's, or behind a SystemError."""
    cause: BaseException | None = raised
    while cause is not None:
        if isinstance(cause, KafkaException):
            error: confluent_kafka.KafkaError = cause.args[0]
            return error
        cause = cause.__cause__ or cause.__context__
    raise raised


_silent = logging.getLogger(f"{__name__}.librdkafka")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


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
        "logger": _silent,
    }
