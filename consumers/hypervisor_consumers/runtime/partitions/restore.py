"""Restoring partitions when they are assigned to this copy.

First it is asked where the changelog ends, uncommitted records counted, then it is read up to there. A copy that
lost the partition can still finish a commit that it had begun: its records were in the changelog before the group
took its offsets, and the group takes none of a copy that it has replaced. So whatever can still be committed lies
before that end, and reading waits until it is decided. (Markers of transactions have offsets, too.)

The state says up to where it counts: reading the source goes on there. The group's offset only tells what else was
counted once, and is not any more: it was set by hand, or Kafka ended a transaction in one place as committed and in
another not at all. What stays open for longer than any transaction may is ended (`kafka.hanging_transactions`).

Last, the source is read again over the dedup window. A public table is its own changelog.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.client_config import TRANSACTION_TIMEOUT, reader_settings
from hypervisor_consumers.runtime.kafka.client_errors import text_of
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.client_types import Consumer, Message
from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.kafka.message_grouping import by_topic_partition
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.partitions.restoration import Restoration, Stage, TableRows, WindowReader
from hypervisor_consumers.runtime.partitions.source_check import StateAgainstLog
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import RegistryUnavailable, StateError
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.wire.codec import EventDecoder

__all__ = ["Restorer"]

log = logging.getLogger(__name__)

BATCH = 1000
LATE_AFTER_SECONDS = 15.0
"""Seconds after which a restoration says what it waits for."""

HANGING_AFTER_SECONDS = 2 * TRANSACTION_TIMEOUT + 5
"""Seconds after which a transaction that is still open will never end: its timeout, Kafka's interval of looking for
such (10 s), and some more."""

_RETRY_SECONDS = 0.2
_ANSWER_SECONDS = 4.0
_READ_SECONDS = 0.01
"""Seconds that a read takes at most: it waits for the whole of a batch, also where no more will come."""


class Restorer:
    """Restores partitions, several at a time. `step` is called over and over, by a thread of its own.

    The other methods may be called by any thread.
    """

    # size: one thread's protocol, whose steps share the reader, the queries and the restorations under way

    def __init__(
        self,
        clients: ClientFactory,
        consumer: Mapping[str, Any],
        *,
        service: str,
        state_topic: str,
        decoder: EventDecoder,
        hanging: HangingTransactions,
        clock: Callable[[], float],
    ) -> None:
        self._clients = clients
        self._state_topic = state_topic
        self._window_reader = WindowReader(service, decoder)
        self._check = StateAgainstLog(consumer["group.id"], state_topic)
        self._hanging = hanging
        self._clock = clock
        self._offset_queries = OffsetQueries(clients, consumer)
        self._reader_settings = reader_settings(consumer)
        self._limited = RateLimitedLog(log)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._new: list[Restoration] = []
        self._finished: list[Restoration] = []
        self._running: list[Restoration] = []
        self._reader: Consumer | None = None
        self._state_partitions: int | None = None
        self.trouble = ""
        """A sentence that says what holds restoring up."""

    def begin(
        self,
        assigned: AssignedPartition[Any],
        into: Partition[Any, Any] | TableRows,
        counted_to: int = 0,
    ) -> None:
        """Restore a partition, until it is revoked; up to the offset `counted_to`, its numbers were shown here."""
        with self._lock:
            self._new.append(Restoration(assigned, into, self._clock(), counted_to))
        self._wake.set()

    def finished(self) -> list[Restoration]:
        """The restorations that ended since the last call, well or with an `error`, and are still wanted."""
        with self._lock:
            done, self._finished = self._finished, []
        return [one for one in done if one.is_wanted]

    def age(self, restoration: Restoration) -> float:
        """Seconds since it began."""
        return self.seconds_since(restoration.began)

    def seconds_since(self, began: float) -> float:
        """Seconds since a time of the restorer's clock."""
        return self._clock() - began

    @property
    def state_partitions(self) -> int | None:
        """The partition count of the state's topic, once it was asked; it never changes."""
        return self._state_partitions

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Step until told to stop; waits without work."""
        while not should_stop():
            if not self.step() and not any(one.reading is not None for one in self._running):
                self._wake.wait(_RETRY_SECONDS if self._running else 1.0)
            self._wake.clear()
        self._let_go()

    def wake(self) -> None:
        """Let `run` look at once: partitions were revoked, or it is to stop."""
        self._wake.set()

    def step(self) -> bool:
        """Ask a round of questions and read a batch of records; returns whether anything was read."""
        self._take_new_and_drop_unwanted()
        self._say_what_is_late()
        if not self._running:
            self._let_go()
            return False
        try:
            reader = self._open_reader()
            self._ask_changelog_ends(reader, self._waiting_in(Stage.END))
            self._ask_source(reader, self._waiting_in(Stage.SOURCE))
            has_read = self._read(reader)
            self._look_for_hanging()
        except KafkaException as error:
            self._say("kafka", f"Kafka can't be asked what is kept of a partition: {text_of(error)}.")
            self._offset_queries.close()
            return False
        return has_read

    def _say_what_is_late(self) -> None:
        late = [one for one in self._running if self.age(one) > LATE_AFTER_SECONDS]
        if late:
            one = late[0]
            where = f"{one.topic_partition.topic} partition {one.topic_partition.partition}"
            if one.reading is not None:
                why = f"{one.reading.topic} is read up to offset {one.position} of {one.until}"
            else:
                why = "another partition is first"
            if one.why_late:
                why += f"; {one.why_late}"
            self._say("late", f"{where} is not restored after {LATE_AFTER_SECONDS:g} s: {why}.")

    def _look_for_hanging(self) -> None:
        now = self._clock()
        for one in self._running:
            is_late = one.stage is Stage.CHANGELOG and now - one.asked_at > HANGING_AFTER_SECONDS
            if is_late and one.reading is not None:
                one.asked_at = now  # looked again after as long
                opened = self._offset_queries.stable_end(one.reading)
                if opened >= one.until:
                    continue
                # What is open there has been there since the restoration began to read, or for longer.
                if not self._hanging.find_writer(one.reading, opened, LATE_AFTER_SECONDS / 3):
                    one.why_late = (
                        "a transaction there is never ended, and it isn't known whose; end it with Kafka's own "
                        "kafka-transactions.sh (find-hanging, then abort)"
                    )

    def _waiting_in(self, stage: Stage) -> list[Restoration]:
        now = self._clock()
        return [one for one in self._running if one.stage is stage and now >= one.not_before]

    def _take_new_and_drop_unwanted(self) -> None:
        for one in [one for one in self._running if not one.is_wanted]:
            self._stop_reading(one)
            self._running.remove(one)
        with self._lock:
            new, self._new = self._new, []
        self._running += [one for one in new if one.is_wanted]

    def _count_state_partitions(self) -> int:
        count = self._offset_queries.partition_counts().get(self._state_topic)
        if not count:
            raise KafkaException(confluent_kafka.KafkaError(confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART))
        return count

    def _ask_changelog_ends(self, reader: Consumer, restorations: Sequence[Restoration]) -> None:
        if not restorations:
            return
        if self._state_partitions is None:
            self._state_partitions = self._count_state_partitions()
        busy = {one.reading for one in self._running}
        wanted: dict[TopicPartition, Restoration] = {}
        for one in restorations:
            changelog = self._changelog_of(one)
            if changelog not in busy:
                wanted.setdefault(changelog, one)
        for changelog, one in wanted.items():
            begin, end = self._offset_queries.log_range(changelog)
            one.begin_changelog(self._clock())
            self._start_reading(reader, one, changelog, begin, end)

    def _changelog_of(self, one: Restoration) -> TopicPartition:
        if not isinstance(one.into, Partition):
            return one.topic_partition
        # A source that has grown has more partitions than its state; a state's partitions never change.
        return TopicPartition(self._state_topic, one.topic_partition.partition % (self._state_partitions or 1))

    def _ask_source(self, reader: Consumer, restorations: Sequence[Restoration]) -> None:
        if not restorations:
            return
        offsets = self._offset_queries.offsets([one.topic_partition for one in restorations])
        for one in restorations:
            partition = one.into
            assert isinstance(partition, Partition)  # noqa: S101 - only these have a source
            begin, end = self._offset_queries.log_range(one.topic_partition)
            offset = offsets[one.topic_partition]
            try:
                self._check.compare(one.topic_partition, partition.stored, offset, end)
            except StateError as error:
                self._fail(one, error)
                continue
            partition.begin(begin)
            one.counted_to = min(max(one.counted_to, offset or 0), end)
            one.has_more = partition.account.next_offset < end
            one.stage = Stage.WINDOW
            first = max(begin, partition.window_begin)
            self._start_reading(reader, one, one.topic_partition, first, partition.account.next_offset)

    def _open_reader(self) -> Consumer:
        if self._reader is None:
            reader = self._clients.consumer(self._reader_settings)
            # A topic that a client hears of when it is to read it begins to come half a second later.
            reader.list_topics(timeout=_ANSWER_SECONDS)
            self._reader = reader
        return self._reader

    def _start_reading(
        self, reader: Consumer, one: Restoration, what: TopicPartition, begin: int, until: int
    ) -> None:
        one.position, one.until = begin, until
        if begin >= until:
            self._reached_end(one)
            return
        one.reading = what
        reader.incremental_assign([confluent_kafka.TopicPartition(*what, begin)])

    def _stop_reading(self, one: Restoration) -> None:
        if one.reading is not None:
            if self._reader is not None:
                self._reader.incremental_unassign([confluent_kafka.TopicPartition(*one.reading)])
            one.reading = None

    def _read(self, reader: Consumer) -> bool:
        reading = {one.reading: one for one in self._running if one.reading is not None}
        if not reading:
            return False
        messages = reader.consume(BATCH, timeout=_READ_SECONDS)
        records = messages
        if any([message.error() for message in messages]):  # noqa: C419 - a generator takes three times as long
            records = [message for message in messages if self._is_read(message, reading)]
        for topic_partition, batch in by_topic_partition(records).items():
            one = reading.get(topic_partition)
            if one is not None and one.reading == topic_partition:
                self._take(one, batch)
        return bool(messages)

    def _is_read(self, message: Message, reading: Mapping[TopicPartition, Restoration]) -> bool:
        """Whether it is a record or the end of a log; else it is an error, which is dealt with."""
        error = message.error()
        if error is None or error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
            return True
        one = reading.get(TopicPartition(message.topic(), message.partition())) if message.topic() else None
        if one is not None and error.code() in _OUT_OF_RANGE:
            # The log's beginning moved while it was asked for.
            self._stop_reading(one)
            one.stage = Stage.END if one.stage is Stage.CHANGELOG else Stage.SOURCE
        self._say("reading", f"Kafka is in trouble: {error.str()}.")
        return False

    def _take(self, one: Restoration, batch: Sequence[Message]) -> None:
        """Take what was read of a partition, maybe up to its end."""
        last = batch[-1]
        if last.error() is None:
            records, position = batch, last.offset() + 1
        else:
            records, position = batch[:-1], last.offset()
        if position > one.until:
            records = [record for record in records if record.offset() < one.until]
        try:
            if records:
                self._take_records(one, records)
            one.position = position
            if position >= one.until:
                self._stop_reading(one)
                self._reached_end(one)
        except RegistryUnavailable as unavailable:
            self._say("registry", f"{unavailable} Partitions with records that need it wait.")
            self._stop_reading(one)
            one.stage, one.not_before = Stage.SOURCE, self._clock() + 5 * _RETRY_SECONDS
        except StateError as broken:
            self._fail(one, broken)

    def _take_records(self, one: Restoration, records: Sequence[Message]) -> None:
        if one.stage is Stage.CHANGELOG:
            one.take_changelog(records, self._limited)
        else:
            assert isinstance(one.into, Partition)  # noqa: S101 - only these have a window
            self._window_reader.read(one.into, records)

    def _reached_end(self, one: Restoration) -> None:
        if one.stage is Stage.CHANGELOG and not one.finish_changelog(self._limited):
            one.stage = Stage.END  # once more
        elif not isinstance(one.into, Partition):
            one.into.next_offset = one.until
            self._finish(one, one.until)
        elif one.stage is Stage.CHANGELOG:
            one.stage = Stage.SOURCE
        else:
            self._finish(one, one.into.next_offset)

    def _finish(self, one: Restoration, offset: int) -> None:
        one.offset, one.stage = offset, Stage.DONE
        self._end(one)

    def _fail(self, one: Restoration, error: StateError) -> None:
        self._stop_reading(one)
        one.error = error
        self._end(one)

    def _end(self, one: Restoration) -> None:
        self.trouble = ""
        self._running.remove(one)
        with self._lock:
            self._finished.append(one)

    def _say(self, subject: str, sentence: str) -> None:
        self.trouble = sentence
        self._limited.log(logging.WARNING, subject, "%s", sentence)

    def _let_go(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._reader = None
        self._offset_queries.close()


_OUT_OF_RANGE = {
    confluent_kafka.KafkaError._AUTO_OFFSET_RESET,
    confluent_kafka.KafkaError.OFFSET_OUT_OF_RANGE,
}
