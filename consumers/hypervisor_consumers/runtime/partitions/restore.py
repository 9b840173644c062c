"""Bringing back what is kept of a partition when it comes to this copy.

First it is asked where the changelog ends, uncommitted records counted, then it is read up to there. A copy that
lost the partition can still finish a commit that it had begun: its records were in the changelog before the group
took its offsets, and the group takes none of a copy that it has replaced. So whatever can still be committed lies
before that end, and reading waits until it is decided. (Markers of transactions have offsets, too.)

The state says up to where it counts: reading the source goes on there. The group's offset only tells what else was
counted once, and is not any more: it was set by hand, or Kafka ended a transaction in one place as committed and in
another not at all (see `transactions`). What stays open longer than any transaction may is to be ended.

Last, the source is read again over the window of known event ids. A public table is its own changelog.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.commit.transactions import WRITER, Forgotten
from hypervisor_consumers.runtime.decode.batch_decoder import id_numbers_of
from hypervisor_consumers.runtime.kafka.client_config import TRANSACTION_TIMEOUT
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory, any_headers, headers_of
from hypervisor_consumers.runtime.kafka.message_grouping import by_topic_partition
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.processor import TopicPartition
from hypervisor_consumers.runtime.protocols import View
from hypervisor_schemas.dead_letters import replay_for
from hypervisor_schemas.errors import RecordError, RegistryUnavailable, StateError
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import EventDecoder

__all__ = ["Restoration", "Restorer"]

log = logging.getLogger(__name__)

BATCH = 1000
TAKES_LONG = 15.0
"""Seconds after which a restoration says what it waits for."""

FORGOTTEN_AFTER = 2 * TRANSACTION_TIMEOUT + 5
"""Seconds after which a transaction that is still open will never end: its timeout, Kafka's interval of looking for
such (10 s), and some more."""

_AGAIN_AFTER = 0.2
_ANSWER_WITHIN = 4.0
_WAIT = 0.01
"""Seconds that a read takes at most: it waits for the whole of a batch, also where no more will come."""


class _Stage(Enum):
    END = 1
    KEPT = 2
    SOURCE = 3
    WINDOW = 4
    DONE = 5


@dataclass(slots=True, eq=False)
class Restoration:
    """One partition on its way back."""

    topic_partition: TopicPartition
    into: Partition[Any, Any] | tuple[View, dict[Any, Any]]
    """A partition of the source, or the rows of a public table."""
    began: float
    stage: _Stage = _Stage.END
    not_before: float = 0.0
    offset: int | None = None
    """The one to read from, when it is done."""
    reading: TopicPartition | None = None
    position: int = 0
    until: int = 0
    has_more: bool = False
    """Whether the source has more than the state includes."""
    counted_to: int = 0
    """Up to where was counted before, as far as it is known; more than what is kept, if that was undone."""
    asked_at: float = 0.0
    """When it was asked where the changelog ends, or what holds it up."""
    last: dict[bytes | None, bytes | None] = field(default_factory=dict)
    """Of each key that was read, the last value."""
    one_by_one: bool = False
    """Whether each record has to be looked at when it comes."""
    why: str = ""
    """What else is known about why it takes long."""
    error: StateError | None = None


class Restorer:
    """Brings partitions back, several at a time. `step` is called over and over, by a thread of its own.

    The other methods may be called by any thread.
    """

    def __init__(
        self,
        kafka: ClientFactory,
        consumer: Mapping[str, Any],
        *,
        service: str,
        state_topic: str,
        decoder: EventDecoder,
        clock: Callable[[], float],
    ) -> None:
        self._kafka = kafka
        self._group = consumer["group.id"]
        self._service = service
        self._state_topic = state_topic
        self._decoder = decoder
        self._clock = clock
        self._offset_queries = OffsetQueries(kafka, consumer)
        self._reader_settings = {
            **{name: value for name, value in consumer.items() if not name.startswith(_OF_MEMBERS)},
            "group.id": self._group,
            "auto.offset.reset": "error",
            # At its end a partition would hold up the others of the same fetch for half a second.
            "fetch.wait.max.ms": 10,
        }
        self._limited = RateLimitedLog(log)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._new: list[Restoration] = []
        self._cancelled: set[TopicPartition] = set()
        self._finished: list[Restoration] = []
        self._running: list[Restoration] = []
        self._reader: Any = None
        self._state_partitions: int | None = None
        self._forgotten: list[Forgotten] = []
        self.trouble = ""
        """What holds restoring up, as a sentence."""

    def begin(
        self,
        topic_partition: TopicPartition,
        into: Partition[Any, Any] | tuple[View, dict[Any, Any]],
        counted_to: int = 0,
    ) -> None:
        """Start with one partition; up to the offset `counted_to`, its numbers were shown here."""
        with self._lock:
            self._new.append(Restoration(topic_partition, into, self._clock(), counted_to=counted_to))
        self._wake.set()

    def cancel(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Forget partitions, wherever they are."""
        gone = set(topic_partitions)
        with self._lock:
            self._new = [job for job in self._new if job.topic_partition not in gone]
            self._finished = [job for job in self._finished if job.topic_partition not in gone]
            self._cancelled |= gone & {job.topic_partition for job in self._running}
        self._wake.set()

    def finished(self) -> list[Restoration]:
        """Those that are done since the last call, or can't be (`error`)."""
        with self._lock:
            done, self._finished = self._finished, []
        return done

    def age(self, job: Restoration) -> float:
        """Seconds since it began."""
        return self._clock() - job.began

    @property
    def state_partitions(self) -> int | None:
        """How many partitions the topic of the state has, once it was asked; it never changes."""
        return self._state_partitions

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Step until told to stop; waits without work."""
        while not should_stop():
            if not self.step() and not any(job.reading is not None for job in self._running):
                self._wake.wait(_AGAIN_AFTER if self._running else 1.0)
            self._wake.clear()
        self._let_go()

    def wake(self) -> None:
        """Let `run` look at `should_stop` now."""
        self._wake.set()

    def step(self) -> bool:
        """A round of questions and a batch of records; returns whether anything was read."""
        self._take_new_and_cancelled()
        self._say_what_takes_long()
        if not self._running:
            self._let_go()
            return False
        try:
            self._open_reader()
            self._ask_ends(self._waiting_for(_Stage.END))
            self._ask_source(self._waiting_for(_Stage.SOURCE))
            moved = self._read()
            self._look_for_forgotten()
        except KafkaException as error:
            self._say("kafka", f"Kafka can't be asked what is kept of a partition: {error.args[0].str()}.")
            self._offset_queries.close()
            return False
        return moved

    def _say_what_takes_long(self) -> None:
        late = [job for job in self._running if self.age(job) > TAKES_LONG]
        if late:
            job = late[0]
            where = f"{job.topic_partition.topic} partition {job.topic_partition.partition}"
            if job.reading is not None:
                why = f"{job.reading.topic} is read up to offset {job.position} of {job.until}"
            else:
                why = "another partition is first"
            if job.why:
                why += f"; {job.why}"
            self._say("late", f"{where} is not restored after {TAKES_LONG:g} s: {why}.")

    def forgotten(self) -> list[Forgotten]:
        """Transactions that were found since the last call, which Kafka will not end by itself."""
        with self._lock:
            found, self._forgotten = self._forgotten, []
        return found

    def _look_for_forgotten(self) -> None:
        now = self._clock()
        for job in self._running:
            is_late = job.stage is _Stage.KEPT and now - job.asked_at > FORGOTTEN_AFTER
            if is_late and job.reading is not None:
                job.asked_at = now  # looked again after as long
                opened = self._offset_queries.stable_end(job.reading)
                if opened < job.until:
                    self._found_forgotten(job, job.reading, opened)

    def _found_forgotten(self, job: Restoration, kept: TopicPartition, offset: int) -> None:
        """What is open at `offset` has been there since the job began to read, or for longer."""
        writer = self._writer_of(kept, offset)
        if writer is None:
            job.why = (
                "a transaction there is never ended, and it isn't known whose; end it with Kafka's own "
                "kafka-transactions.sh (find-hanging, then abort)"
            )
        else:
            with self._lock:
                self._forgotten.append(Forgotten(writer, kept))

    def _writer_of(self, topic_partition: TopicPartition, offset: int) -> str | None:
        """Who wrote the record at this offset, open as it is; None: it doesn't say so, or Kafka doesn't."""
        reader = self._kafka.consumer({**self._reader_settings, "isolation.level": "read_uncommitted"})
        try:
            reader.incremental_assign([confluent_kafka.TopicPartition(*topic_partition, offset)])
            messages = reader.consume(1, timeout=TAKES_LONG / 3)
            of_record = [message for message in messages if message.error() is None and message.offset() == offset]
            writer = dict(headers_of(of_record[0]) or ()).get(WRITER) if of_record else None
            return None if writer is None else writer.decode()
        finally:
            reader.close()

    def _waiting_for(self, stage: _Stage) -> list[Restoration]:
        now = self._clock()
        return [job for job in self._running if job.stage is stage and now >= job.not_before]

    def _take_new_and_cancelled(self) -> None:
        with self._lock:
            for job in [job for job in self._running if job.topic_partition in self._cancelled]:
                self._stop_reading(job)
                self._running.remove(job)
            self._cancelled.clear()
            self._running += self._new
            self._new = []

    def _count_state_partitions(self) -> int:
        count = self._offset_queries.partition_counts().get(self._state_topic)
        if not count:
            raise KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART))
        return count

    def _ask_ends(self, jobs: list[Restoration]) -> None:
        if not jobs:
            return
        if self._state_partitions is None:
            self._state_partitions = self._count_state_partitions()
        busy = {job.reading for job in self._running}
        wanted: dict[TopicPartition, Restoration] = {}
        for job in jobs:
            kept = self._kept_in(job)
            if kept not in busy:
                wanted.setdefault(kept, job)
        for kept, job in wanted.items():
            begin, end = self._offset_queries.log_range(kept)
            job.stage, job.asked_at, job.last = _Stage.KEPT, self._clock(), {}
            self._start_reading(job, kept, begin, end)

    def _kept_in(self, job: Restoration) -> TopicPartition:
        if not isinstance(job.into, Partition):
            return job.topic_partition
        # A source that has grown has more partitions than its state; a state's partitions never change.
        return TopicPartition(self._state_topic, job.topic_partition.partition % (self._state_partitions or 1))

    def _ask_source(self, jobs: list[Restoration]) -> None:
        if not jobs:
            return
        offsets = self._offset_queries.offsets([job.topic_partition for job in jobs])
        for job in jobs:
            partition = job.into
            assert isinstance(partition, Partition)  # noqa: S101 - only these have a source
            begin, end = self._offset_queries.log_range(job.topic_partition)
            try:
                self._compare(job.topic_partition, partition.stored, offsets[job.topic_partition], end)
            except StateError as error:
                self._fail(job, error)
                continue
            partition.begin(begin)
            job.counted_to = min(max(job.counted_to, offsets[job.topic_partition] or 0), end)
            job.has_more = partition.account.next_offset < end
            job.stage = _Stage.WINDOW
            self._start_reading(
                job, job.topic_partition, max(begin, partition.window_begin), partition.account.next_offset
            )

    def _compare(
        self, topic_partition: TopicPartition, account: Account | None, offset: int | None, end: int
    ) -> None:
        """There must be a state where the group has an offset, and a source where there is a state.

        Raises:
            StateError: There isn't.
        """
        where = f"{topic_partition.topic} partition {topic_partition.partition}"
        again = (
            f"To count anew from what the log still holds: stop all copies, delete the group {self._group} and the "
            f"topic {self._state_topic}, then run `hypervisor-telemetry topics apply`."
        )
        if account is None:
            if offset is not None:
                raise StateError(
                    f"The group {self._group} stands at offset {offset} of {where}, but {self._state_topic} holds "
                    f"no state for it. {again}"
                )
        elif account.next_offset > end:
            raise StateError(
                f"{where} ends at offset {end}, but the state in {self._state_topic} includes all up to "
                f"{account.next_offset}: the topic was made anew. {again}"
            )
        elif offset is not None and offset != account.next_offset:
            # Behind, it may be that of a commit whose end has reached the changelog first.
            log.log(
                logging.WARNING if offset > account.next_offset else logging.INFO,
                "The group %s stands at offset %d of %s, what is kept in %s includes all up to %d. Reading goes on "
                "there, nothing is lost: Kafka was away in the middle of a commit, or somebody set the offset. %s",
                self._group,
                offset,
                where,
                self._state_topic,
                account.next_offset,
                again,
            )

    def _open_reader(self) -> None:
        if self._reader is None:
            reader = self._kafka.consumer(self._reader_settings)
            # A topic that a client hears of when it is to read it begins to come half a second later.
            reader.list_topics(timeout=_ANSWER_WITHIN)
            self._reader = reader

    def _start_reading(self, job: Restoration, topic_partition: TopicPartition, begin: int, until: int) -> None:
        job.position, job.until = begin, until
        if begin >= until:
            self._reached(job)
            return
        job.reading = topic_partition
        self._reader.incremental_assign([confluent_kafka.TopicPartition(*topic_partition, begin)])

    def _stop_reading(self, job: Restoration) -> None:
        if job.reading is not None:
            self._reader.incremental_unassign([confluent_kafka.TopicPartition(*job.reading)])
            job.reading = None

    def _read(self) -> bool:
        reading = {job.reading: job for job in self._running if job.reading is not None}
        if not reading:
            return False
        messages = self._reader.consume(BATCH, timeout=_WAIT)
        records = messages
        if any([message.error() for message in messages]):  # noqa: C419 - a generator takes three times as long
            records = [message for message in messages if self._is_read(message, reading)]
        for topic_partition, batch in by_topic_partition(records).items():
            job = reading.get(topic_partition)
            if job is not None and job.reading == topic_partition:
                self._take(job, batch)
        return bool(messages)

    def _is_read(self, message: Any, reading: Mapping[TopicPartition, Restoration]) -> bool:
        """Whether it is a record or the end of a log; else it is an error, which is dealt with."""
        error = message.error()
        if error is None or error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
            return True
        self._reading_trouble(reading, message, error)
        return False

    def _reading_trouble(self, reading: Mapping[TopicPartition, Restoration], message: Any, error: Any) -> None:
        job = reading.get(TopicPartition(message.topic(), message.partition())) if message.topic() else None
        if job is not None and error.code() in _OUT_OF_RANGE:
            # The log's beginning moved while it was asked for.
            self._stop_reading(job)
            job.stage = _Stage.END if job.stage is _Stage.KEPT else _Stage.SOURCE
        self._say("reading", f"Kafka is in trouble: {error.str()}.")

    def _take(self, job: Restoration, batch: Sequence[Any]) -> None:
        """Take what was read of a partition, maybe up to its end."""
        last = batch[-1]
        if last.error() is None:
            records, position = batch, last.offset() + 1
        else:
            records, position = batch[:-1], last.offset()
        if position > job.until:
            records = [record for record in records if record.offset() < job.until]
        try:
            if records:
                self._take_records(job, records)
            job.position = position
            if position >= job.until:
                self._stop_reading(job)
                self._reached(job)
        except RegistryUnavailable as unavailable:
            self._say("registry", f"{unavailable} Partitions with records that need it wait.")
            self._stop_reading(job)
            job.stage, job.not_before = _Stage.SOURCE, self._clock() + 5 * _AGAIN_AFTER
        except StateError as broken:
            self._fail(job, broken)

    def _take_records(self, job: Restoration, records: Sequence[Any]) -> None:
        if job.stage is not _Stage.KEPT:
            assert isinstance(job.into, Partition)  # noqa: S101 - only these have a window
            self._know(job.into, records)
        elif job.one_by_one:
            for record in records:
                self._put(job, record.key(), record.value())
        else:
            # Of each key, the last record is what is kept; in a log that is not compacted yet few are the last.
            keys, values = [record.key() for record in records], [record.value() for record in records]
            job.last.update(zip(keys, values, strict=True))

    def _know(self, partition: Partition[Any, Any], records: Sequence[Any]) -> None:
        is_plain = not any_headers(records)
        if is_plain and self._know_together(partition, records):
            return
        for record in records:
            receiver = None if is_plain else replay_for(headers_of(record))
            if receiver is not None and receiver != self._service:
                continue
            try:
                event_id = self._decoder.event_id(record.value())
            except RecordError:
                continue  # it is a dead letter, or was one
            partition.know(record.offset(), event_id)

    def _know_together(self, partition: Partition[Any, Any], records: Sequence[Any]) -> bool:
        """Take the ids of a batch at once, if it can be done; many times as fast."""
        first = records[0].offset()
        if records[-1].offset() != first + len(records) - 1:
            return False
        values = [record.value() for record in records]
        try:
            framing = self._decoder.framing_of(values[0])
        except RecordError:
            return False
        numbers = None if framing is None else id_numbers_of(values, framing)
        return numbers is not None and partition.know_all(first, numbers)

    def _put(self, job: Restoration, key: bytes | None, value: bytes | None) -> bool:
        """Put a record to what is kept; returns whether it could be used."""
        if isinstance(job.into, Partition):
            job.into.load(key, value)
            return True
        view, rows = job.into
        try:
            view.apply(rows, key, value)
        except RecordError as error:
            self._limited.log(logging.WARNING, "row", "%s: %s", job.topic_partition.topic, error)
            return False
        return True

    def _reached(self, job: Restoration) -> None:
        if job.stage is _Stage.KEPT and not self._put_all(job):
            job.one_by_one, job.stage = True, _Stage.END  # once more
        elif not isinstance(job.into, Partition):
            job.offset = job.until
            self._done(job)
        elif job.stage is _Stage.KEPT:
            job.stage = _Stage.SOURCE
        else:
            job.offset = job.into.next_offset
            self._done(job)

    def _done(self, job: Restoration) -> None:
        job.stage = _Stage.DONE
        self._end(job)

    def _put_all(self, job: Restoration) -> bool:
        """Put the last record of each key to what is kept.

        False: that is not the same as to put all of them. A row that can't be used doesn't replace the one before,
        and a stranger may have written the same key in two ways.
        """
        last, job.last = job.last, {}
        could_be = [self._put(job, key, value) for key, value in last.items()]
        if isinstance(job.into, Partition) or not last:
            return True
        rows = job.into[1]
        if all(could_be) and len(rows) == len(last) - list(last.values()).count(None):
            return True
        rows.clear()
        return False

    def _fail(self, job: Restoration, error: StateError) -> None:
        self._stop_reading(job)
        job.error = error
        self._end(job)

    def _end(self, job: Restoration) -> None:
        self.trouble = ""
        with self._lock:
            self._running.remove(job)
            if job.topic_partition not in self._cancelled:
                self._finished.append(job)

    def _say(self, subject: str, sentence: str) -> None:
        self.trouble = sentence
        self._limited.log(logging.WARNING, subject, "%s", sentence)

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._offset_queries.close()


_OF_MEMBERS = ("group.", "partition.assignment.", "session.", "heartbeat.")
_OUT_OF_RANGE = {
    confluent_kafka.KafkaError._AUTO_OFFSET_RESET,
    confluent_kafka.KafkaError.OFFSET_OUT_OF_RANGE,
}
