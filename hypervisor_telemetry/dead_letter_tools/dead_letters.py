"""Reads the dead letters of a Kafka: an index of them, with those that were replayed, and their bytes.

The topic is read from its beginning each time: a mark of a replay stands behind its dead letter. The index holds no
values; they are fetched again for the few that are shown, or batch by batch for a replay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import confluent_kafka
from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from hypervisor_consumers.runtime.kafka.client_factory import headers_of
from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.dead_letters import DeadLetter, DeadLetterId, read_dead_letter, read_replay_mark
from hypervisor_schemas.errors import KafkaError, SettingError
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import DEAD_LETTERS

__all__ = ["DeadLetterEntry", "DeadLetterTopic", "RecordPosition", "Selection", "reason_of"]

_Record: TypeAlias = Any
"""A message. confluent-kafka's stubs allow for headers in dicts and for offsets of None, which never come."""

_ANSWER_SECONDS = 30.0
_PROGRESS_SECONDS = 5.0

OPEN_TRANSACTION_SECONDS = 60.0
"""The longest wait for an open transaction. One of a killed service ends after its timeout of 10 s and the broker's
scan interval, 10 s by default."""


class RecordPosition(NamedTuple):
    """The position of a record in Kafka, written `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> RecordPosition:
        """A position from its written form; the topic may lack the prefix.

        Raises:
            ValueError: It has another form.
        """
        topic, *numbers = text.rsplit("/", 2)
        if not topic or len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError("it must be topic/partition/offset, as `dead-letters list` shows it")
        return cls(topic, int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, slots=True)
class DeadLetterEntry:
    """A dead letter in the index: everything but its value and the headers of the original record."""

    id: DeadLetterId
    reason: str
    error: str
    key: bytes | None
    size_bytes: int
    """The size of key and value."""
    schema_id: int | None
    published_at_ms: int
    """The Kafka timestamp of the original, milliseconds since 1970; negative if it has none."""
    kept_at_ms: int
    """The time at which it became a dead letter, milliseconds since 1970."""
    dead_letter_partition: int
    """The partition of the dead-letters topic; of the last one, where it is there twice."""
    dead_letter_offset: int
    replayed_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice of dead letters. A field of None lets every one through."""

    service: str | None = None
    reason: str | None = None
    topic: str | None = None
    """The source topic, with or without the prefix."""
    partition: int | None = None
    offset: int | None = None
    session: str | None = None
    """The record's key, which is the session's id; for governance events, the agent's."""
    since_ms: int | None = None
    """Only those that became dead letters at this time or later, milliseconds since 1970."""
    until_ms: int | None = None
    """Only those that became dead letters before this time, milliseconds since 1970."""

    def takes(self, entry: DeadLetterEntry, prefix: str) -> bool:
        """Whether this dead letter is meant."""
        return (
            self.service in {None, entry.id.service}
            and self.reason in {None, entry.reason}
            and (self.topic is None or entry.id.topic in {self.topic, prefix + self.topic})
            and self.partition in {None, entry.id.partition}
            and self.offset in {None, entry.id.offset}
            and (self.session is None or entry.key == self.session.encode("utf-8", "replace"))
            and (self.since_ms is None or entry.kept_at_ms >= self.since_ms)
            and (self.until_ms is None or entry.kept_at_ms < self.until_ms)
        )


def replay_order(entry: DeadLetterEntry) -> tuple[str, int, int, str]:
    """The sort key of a replay: by source partition and offset, so that a session's records stay in order."""
    return entry.id.topic, entry.id.partition, entry.id.offset, entry.id.service


class DeadLetterTopic:
    """Reads `<prefix>dead-letters` of one Kafka. A context manager; not for several threads.

    Args:
        report: Gets a sentence now and then while something takes long.
        wait: The most seconds to wait for Kafka's first answer.
        open_transaction_seconds: The most seconds that `index` waits for an open transaction of another client.

    Raises:
        SettingError: A setting is missing or wrong.
        KafkaError: Kafka can't be reached, or the topic doesn't exist.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        bootstrap_servers: str | None,
        report: Callable[[str], None],
        *,
        wait: float = 10.0,
        open_transaction_seconds: float = OPEN_TRANSACTION_SECONDS,
    ) -> None:
        self.settings = kafka_settings(environ, bootstrap_servers)
        self.prefix = Settings.TOPIC_PREFIX.of(environ)
        self.name = self.prefix + DEAD_LETTERS
        self._report = report
        self._open_transaction_seconds = open_transaction_seconds
        try:
            # Neither client may write to standard error: errors are raised.
            self._admin = AdminClient({**self.settings, "log_level": 0})
            self._consumer = Consumer(_reader_settings(self.settings, self.name))
        except KafkaException as error:
            raise SettingError("KAFKA_*", f"settings don't go together: {reason_of(error)}.") from None
        try:
            topics = self._admin.list_topics(timeout=wait).topics
        except KafkaException as error:
            self._consumer.close()
            where = self.settings["bootstrap.servers"]
            raise KafkaError(f"Kafka at {where} didn't answer: {reason_of(error)}.") from None
        self.partitions_of: Mapping[str, int] = {name: len(topic.partitions) for name, topic in topics.items()}
        """The number of partitions of every topic of this Kafka."""
        if self.name not in self.partitions_of:
            self._consumer.close()
            raise KafkaError(f"{self.name} doesn't exist; run `hypervisor-telemetry topics apply`.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def index(self, selection: Selection, *, past_open_transactions: bool = False) -> list[DeadLetterEntry]:
        """Every dead letter of the selection, once, in the order of a replay.

        Args:
            selection: The dead letters that are meant.
            past_open_transactions: Read to the end of the log, and wait for transactions that are open before it: a
                replay mark can stand behind one. Else read to the end of what is committed now.

        Raises:
            KafkaError: Kafka refused, didn't answer, or a transaction stayed open.
        """
        entries: dict[DeadLetterId, DeadLetterEntry] = {}
        marks: dict[DeadLetterId, int] = {}
        for message in self._records(self._offset_ranges(past_open_transactions)):
            headers = headers_of(message)
            if (mark := read_replay_mark(headers)) is not None:
                marks[mark] = message.timestamp()[1]
            elif (letter := read_dead_letter(message.key(), message.value(), headers)) is not None:
                entry = _entry_of(letter, message)
                if selection.takes(entry, self.prefix):
                    entries[entry.id] = entry
        return sorted(
            (replace(entry, replayed_at_ms=marks.get(name)) for name, entry in entries.items()), key=replay_order
        )

    def fetch(self, entries: Sequence[DeadLetterEntry]) -> dict[DeadLetterId, DeadLetter]:
        """These dead letters with value and headers. One that has aged out of the topic since is missing.

        Raises:
            KafkaError: Kafka refused or didn't answer.
        """
        offsets: dict[int, set[int]] = {}
        for entry in entries:
            offsets.setdefault(entry.dead_letter_partition, set()).add(entry.dead_letter_offset)
        letters: dict[DeadLetterId, DeadLetter] = {}
        for message in self._records({part: (min(at), max(at) + 1) for part, at in offsets.items()}):
            if message.offset() in offsets[message.partition()]:
                letter = read_dead_letter(message.key(), message.value(), headers_of(message))
                if letter is not None:
                    letters[letter.id] = letter
        return letters

    def _offset_ranges(self, past_open_transactions: bool) -> dict[int, tuple[int, int]]:
        """The first offset of each partition, and the one before which reading ends; no empty partitions."""
        level = IsolationLevel.READ_UNCOMMITTED if past_open_transactions else IsolationLevel.READ_COMMITTED
        give_up_at = time.monotonic() + _ANSWER_SECONDS
        while True:
            try:
                begins, ends = (self._offsets(spec, level) for spec in (OffsetSpec.earliest(), OffsetSpec.latest()))
            except (KafkaException, TimeoutError) as error:
                if not _is_a_new_leader(error) or time.monotonic() > give_up_at:
                    raise KafkaError(f"Kafka didn't tell where {self.name} ends: {reason_of(error)}.") from None
                time.sleep(0.1)  # a leader is chosen within moments; nothing tells when
            else:
                return {number: (begin, ends[number]) for number, begin in begins.items() if begin < ends[number]}

    def _offsets(self, spec: OffsetSpec, level: IsolationLevel) -> dict[int, int]:
        partitions = [TopicPartition(self.name, number) for number in range(self.partitions_of[self.name])]
        answers = self._admin.list_offsets(
            dict.fromkeys(partitions, spec), isolation_level=level, request_timeout=_ANSWER_SECONDS
        )
        return {each.partition: answer.result(_ANSWER_SECONDS).offset for each, answer in answers.items()}

    def _records(self, ranges: Mapping[int, tuple[int, int]]) -> Iterator[_Record]:
        """The committed records of these ranges of offsets. Waits for records that are not committed yet."""
        self._consumer.assign([TopicPartition(self.name, part, begin) for part, (begin, _) in ranges.items()])
        unread = {part: end for part, (_, end) in ranges.items()}
        progress = _Progress(self._report, sum(end - begin for begin, end in ranges.values()))
        blocked: set[int] = set()  # partitions at an open transaction
        last_message_at = time.monotonic()
        while unread:
            message: _Record | None = self._consumer.poll(1.0)
            is_end = message is not None and _is_end(message)
            if message is not None and message.error() is not None and not is_end:
                raise KafkaError(f"{self.name} can't be read: {message.error().str().rstrip('.')}.")
            if message is None or message.partition() not in unread:
                self._check_silence(time.monotonic() - last_message_at, unread, blocked)
                continue
            last_message_at = time.monotonic()
            part, offset = message.partition(), message.offset()
            if is_end:
                if offset >= unread[part]:
                    del unread[part]
                elif part not in blocked:
                    blocked.add(part)
                    self._report(f"waiting for a transaction that is open in partition {part} of {self.name}")
                continue
            blocked.discard(part)
            if offset < unread[part]:
                yield message
                progress.count()
            if offset + 1 >= unread[part]:
                del unread[part]

    def _check_silence(self, silence: float, unread: Mapping[int, int], blocked: set[int]) -> None:
        if set(unread) <= blocked:
            if silence > self._open_transaction_seconds:
                raise KafkaError(
                    f"A transaction has been open in {self.name} for {silence:.0f} s, so that its end can't be "
                    "read. A service that was killed leaves one open until its timeout; try again later."
                )
        elif silence > _ANSWER_SECONDS:
            raise KafkaError(f"Kafka has sent nothing of {self.name} for {silence:.0f} s.")


class _Progress:
    """Reports now and then how many of the records are read."""

    def __init__(self, report: Callable[[str], None], total: int) -> None:
        self._report, self._total = report, total
        self._read = 0
        self._reported_at = time.monotonic()

    def count(self) -> None:
        self._read += 1
        if self._read % 1000 == 0 and time.monotonic() - self._reported_at > _PROGRESS_SECONDS:
            self._reported_at = time.monotonic()
            self._report(f"read {self._read:,} of {self._total:,} records")


def _entry_of(letter: DeadLetter, message: _Record) -> DeadLetterEntry:
    return DeadLetterEntry(
        id=letter.id,
        reason=letter.reason,
        error=letter.error,
        key=letter.key,
        size_bytes=len(letter.key or b"") + len(letter.value or b""),
        schema_id=letter.schema_id,
        published_at_ms=letter.timestamp,
        kept_at_ms=message.timestamp()[1],
        dead_letter_partition=message.partition(),
        dead_letter_offset=message.offset(),
    )


def _is_a_new_leader(error: Exception) -> bool:
    """Whether the partition has just got a leader, and not every broker knows it yet."""
    kind = confluent_kafka.KafkaError
    codes = {kind.LEADER_NOT_AVAILABLE, kind.NOT_LEADER_FOR_PARTITION, kind.UNKNOWN_TOPIC_OR_PART}
    return isinstance(error, KafkaException) and error.args[0].code() in codes


def _is_end(message: _Record) -> bool:
    error = message.error()
    return error is not None and error.code() == confluent_kafka.KafkaError._PARTITION_EOF


def _reader_settings(kafka: Mapping[str, str], group: str) -> dict[str, Any]:
    return {
        **{name: value for name, value in kafka.items() if not name.startswith("group.")},
        # A name is required; no group is made, since nothing is subscribed to and nothing committed.
        "group.id": group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        # The end of a partition is known by its event: control records have offsets too, but no message.
        "enable.partition.eof": True,
        # Reading at another offset begins when the broker has answered the last fetch. By default it holds an
        # answer for half a second when there is nothing new, and a full queue is looked at again after a second.
        "fetch.wait.max.ms": 10,
        "fetch.queue.backoff.ms": 10,
        "log_level": 0,
    }


def reason_of(error: Exception) -> str:
    """librdkafka's reason, to be put into a sentence."""
    text = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
    return str(text).rstrip(".")
