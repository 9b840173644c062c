"""The dead letters of a Kafka: which there are, which of them were replayed, and their bytes.

The topic is read from its beginning each time: marks stand behind the dead letters they are about. An index without
the values is kept in memory; values are fetched again for the few that are shown, or batch by batch for a replay.
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

__all__ = ["DeadLetterTopic", "Kept", "Place", "Selection", "reason_of"]

_Record: TypeAlias = Any
"""A message. confluent-kafka's stubs allow for headers in dicts and for places of None, which never come."""

_TIMEOUT = 30.0
_PROGRESS_SECONDS = 5.0

OPEN_TRANSACTION_SECONDS = 60.0
"""How long an open transaction is waited for. One of a killed service ends after its timeout of 10 s and the
broker's scan interval, 10 s by default."""


class Place(NamedTuple):
    """Where an original stands; written `topic/partition/offset`."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """A place from its written form; the topic may lack the prefix.

        Raises:
            ValueError: It has another form.
        """
        topic, *numbers = text.rsplit("/", 2)
        if not topic or len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise ValueError("it must be topic/partition/offset, as `dead-letters list` shows it")
        return cls(topic, int(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, slots=True)
class Kept:
    """A dead letter in the index: everything but its value and the original's headers."""

    id: DeadLetterId
    reason: str
    error: str
    key: bytes | None
    size: int
    """Bytes of key and value."""
    schema_id: int | None
    published_at: int
    """The original's Kafka timestamp, milliseconds since 1970; negative if it has none."""
    kept_at: int
    """When it became a dead letter, milliseconds since 1970."""
    partition: int
    """Its own place in the dead-letters topic; of the last one, where it is there twice."""
    offset: int
    replayed_at: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant. None lets every one through."""

    service: str | None = None
    reason: str | None = None
    topic: str | None = None
    """With or without the prefix."""
    partition: int | None = None
    offset: int | None = None
    session: str | None = None
    """The record's key, which is the session's id (of governance events: the agent's)."""
    since: int | None = None
    """The first moment of becoming a dead letter that is meant, milliseconds since 1970."""
    until: int | None = None
    """The first moment after `since` that isn't."""

    def takes(self, kept: Kept, prefix: str) -> bool:
        """Whether this one is meant."""
        return (
            self.service in {None, kept.id.service}
            and self.reason in {None, kept.reason}
            and (self.topic is None or kept.id.topic in {self.topic, prefix + self.topic})
            and self.partition in {None, kept.id.partition}
            and self.offset in {None, kept.id.offset}
            and (self.session is None or kept.key == self.session.encode("utf-8", "replace"))
            and (self.since is None or kept.kept_at >= self.since)
            and (self.until is None or kept.kept_at < self.until)
        )


def replay_order(kept: Kept) -> tuple[str, int, int, str]:
    """Per source partition by offset, so that the records of one session stay in order."""
    return kept.id.topic, kept.id.partition, kept.id.offset, kept.id.service


class DeadLetterTopic:
    """Reads `<prefix>dead-letters` of one Kafka. A context manager; not for several threads.

    Args:
        report: Gets a sentence now and then while something takes long.
        wait: Seconds that Kafka's first answer is waited for at most.
        open_transaction_seconds: How long `index` waits at most for somebody's open transaction.

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
        self._patience = open_transaction_seconds
        try:
            # They have no say on standard error: what went wrong comes back as an error.
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
        """Every topic of this Kafka and how many partitions it has."""
        if self.name not in self.partitions_of:
            self._consumer.close()
            raise KafkaError(f"{self.name} doesn't exist; run `hypervisor-telemetry topics apply`.")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def index(self, selection: Selection, *, past_open_transactions: bool = False) -> list[Kept]:
        """Every dead letter that is meant, once, in the order of a replay.

        Args:
            selection: Which are meant.
            past_open_transactions: Read to the end of what is written, and wait for transactions that are open
                before that: a replay mark can stand behind one. Else read what is committed now.

        Raises:
            KafkaError: Kafka refused, didn't answer, or a transaction stayed open.
        """
        found: dict[DeadLetterId, Kept] = {}
        marks: dict[DeadLetterId, int] = {}
        for message in self._records(self._spans(past_open_transactions)):
            headers = headers_of(message)
            if (mark := read_replay_mark(headers)) is not None:
                marks[mark] = message.timestamp()[1]
            elif (letter := read_dead_letter(message.key(), message.value(), headers)) is not None:
                kept = _kept(letter, message)
                if selection.takes(kept, self.prefix):
                    found[kept.id] = kept
        return sorted(
            (replace(kept, replayed_at=marks.get(name)) for name, kept in found.items()), key=replay_order
        )

    def fetch(self, wanted: Sequence[Kept]) -> dict[DeadLetterId, DeadLetter]:
        """These dead letters whole. One that has aged out of the topic since is missing.

        Raises:
            KafkaError: Kafka refused or didn't answer.
        """
        offsets: dict[int, set[int]] = {}
        for kept in wanted:
            offsets.setdefault(kept.partition, set()).add(kept.offset)
        letters: dict[DeadLetterId, DeadLetter] = {}
        for message in self._records({part: (min(at), max(at) + 1) for part, at in offsets.items()}):
            if message.offset() in offsets[message.partition()]:
                letter = read_dead_letter(message.key(), message.value(), headers_of(message))
                if letter is not None:
                    letters[letter.id] = letter
        return letters

    def _spans(self, past_open_transactions: bool) -> dict[int, tuple[int, int]]:
        """Per partition where it begins and where reading ends; empty partitions left out."""
        level = IsolationLevel.READ_UNCOMMITTED if past_open_transactions else IsolationLevel.READ_COMMITTED
        give_up_at = time.monotonic() + _TIMEOUT
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
        places = [TopicPartition(self.name, number) for number in range(self.partitions_of[self.name])]
        answers = self._admin.list_offsets(
            dict.fromkeys(places, spec), isolation_level=level, request_timeout=_TIMEOUT
        )
        return {place.partition: answer.result(_TIMEOUT).offset for place, answer in answers.items()}

    def _records(self, spans: Mapping[int, tuple[int, int]]) -> Iterator[_Record]:
        """The committed records from each begin to before each end. Waits for what is not committed yet."""
        self._consumer.assign([TopicPartition(self.name, part, begin) for part, (begin, _) in spans.items()])
        unread = {part: end for part, (_, end) in spans.items()}
        progress = _Progress(self._report, sum(end - begin for begin, end in spans.values()))
        at_an_open_transaction: set[int] = set()
        heard_at = time.monotonic()
        while unread:
            message: _Record | None = self._consumer.poll(1.0)
            is_end = message is not None and _is_end(message)
            if message is not None and message.error() is not None and not is_end:
                raise KafkaError(f"{self.name} can't be read: {message.error().str().rstrip('.')}.")
            if message is None or message.partition() not in unread:
                self._check_patience(time.monotonic() - heard_at, unread, at_an_open_transaction)
                continue
            heard_at = time.monotonic()
            part, offset = message.partition(), message.offset()
            if is_end:
                if offset >= unread[part]:
                    del unread[part]
                elif part not in at_an_open_transaction:
                    at_an_open_transaction.add(part)
                    self._report(f"waiting for a transaction that is open in partition {part} of {self.name}")
                continue
            at_an_open_transaction.discard(part)
            if offset < unread[part]:
                yield message
                progress.count()
            if offset + 1 >= unread[part]:
                del unread[part]

    def _check_patience(self, silence: float, unread: Mapping[int, int], at_an_open_transaction: set[int]) -> None:
        if set(unread) <= at_an_open_transaction:
            if silence > self._patience:
                raise KafkaError(
                    f"A transaction has been open in {self.name} for {silence:.0f} s, so that its end can't be "
                    "read. A service that was killed leaves one open until its timeout; try again later."
                )
        elif silence > _TIMEOUT:
            raise KafkaError(f"Kafka has sent nothing of {self.name} for {silence:.0f} s.")


class _Progress:
    def __init__(self, report: Callable[[str], None], total: int) -> None:
        self._report, self._total = report, total
        self._read = 0
        self._told_at = time.monotonic()

    def count(self) -> None:
        self._read += 1
        if self._read % 1000 == 0 and time.monotonic() - self._told_at > _PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            self._report(f"read {self._read:,} of {self._total:,} records")


def _kept(letter: DeadLetter, message: _Record) -> Kept:
    return Kept(
        id=letter.id,
        reason=letter.reason,
        error=letter.error,
        key=letter.key,
        size=len(letter.key or b"") + len(letter.value or b""),
        schema_id=letter.schema_id,
        published_at=letter.timestamp,
        kept_at=message.timestamp()[1],
        partition=message.partition(),
        offset=message.offset(),
    )


def _is_a_new_leader(error: Exception) -> bool:
    """Whether the partition has just got a leader, and not every broker knows it yet."""
    known = confluent_kafka.KafkaError
    codes = {known.LEADER_NOT_AVAILABLE, known.NOT_LEADER_FOR_PARTITION, known.UNKNOWN_TOPIC_OR_PART}
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
        # Reading at another place begins when the broker has answered the last fetch, which it holds for half a
        # second by default when there is nothing new; a full queue is looked at again after a second.
        "fetch.wait.max.ms": 10,
        "fetch.queue.backoff.ms": 10,
        "log_level": 0,
    }


def reason_of(error: Exception) -> str:
    """What librdkafka says, to be put into a sentence."""
    text = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
    return str(text).rstrip(".")
