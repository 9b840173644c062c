"""The processor of event-index: events to rows, offsets in the same database transaction.

The database alone says where a partition goes on. The offsets in Kafka are for tools that show lag; they are
never read back. Dead letters are in Kafka before the database moves over them: after a crash in between they are
there twice, and known as the same.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.event_index.backends.store import EventStore, LostPartition
from hypervisor_consumers.event_index.tables import IndexRow
from hypervisor_consumers.runtime.commit.dead_letters import DeadLetterWriter
from hypervisor_consumers.runtime.kafka.client_errors import text_of
from hypervisor_consumers.runtime.kafka.client_types import Consumer
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment, Phase
from hypervisor_consumers.runtime.partitions.offset_accounting import Account, Tally
from hypervisor_consumers.runtime.records import Record, Result, TopicPartition
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import OutputUnavailable, RecordError
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["IndexedPartition", "Indexer"]

log = logging.getLogger(__name__)


class Indexer:
    """Implements `runtime.processor.Processor` on an `EventStore`.

    Its account begins anew with every assignment: the rows themselves are what lasts.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        assignment: Assignment[IndexedPartition],
        offset_queries: OffsetQueries,
        dead_letters: DeadLetterWriter,
        runtime_metrics: RuntimeMetrics,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._assignment = assignment
        self._offset_queries = offset_queries
        self._dead_letters = dead_letters
        self._runtime_metrics = runtime_metrics
        self._now = now
        self._clock = clock
        self._consumer: Consumer | None = None
        self._restoring_since: dict[TopicPartition, float] = {}
        self._backoff = Backoff(clock())
        self._rows: list[IndexRow] = []
        self.trouble = ""

    def start(self, consumer: Consumer) -> None:
        """Commit offsets by this consumer."""
        self._consumer = consumer

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Wait until database and log have said where to begin."""
        self._restoring_since |= dict.fromkeys(topic_partitions, self._now())

    def ready(self) -> Mapping[TopicPartition, int]:
        """Go on where the database says; from the beginning of the log where it says nothing or less."""
        restoring = [one for one in self._assignment if one.phase is Phase.RESTORING]
        if not restoring or self._clock() < self._backoff.until:
            return {}
        names = [one.topic_partition for one in restoring]
        try:
            begins = {name: self._offset_queries.log_range(name)[0] for name in names}
            stored = {name: self._store.next_offset(*name) for name in names}
        except KafkaException as error:
            self.trouble = f"Kafka can't be asked where a partition begins: {text_of(error)}."
            self._offset_queries.close()
            return {}
        except OutputUnavailable as error:
            self.trouble = str(error)
            self._backoff.again(self._clock())
            return {}
        self.trouble = ""
        self._backoff = Backoff(self._clock())
        for one in restoring:
            name = one.topic_partition
            content = IndexedPartition(stored[name], begins[name])
            one.restored(content, content.next_offset)
            one.caught_up()
            seconds = self._now() - self._restoring_since.pop(name)
            self._runtime_metrics.restored(name, content.tally.account(), seconds)
        return {one.topic_partition: one.position for one in restoring}

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Drop what was not written; the next owner reads it again."""
        gone = set(topic_partitions)
        for name in gone:
            self._restoring_since.pop(name, None)
        self._rows = [row for row in self._rows if (row.topic, row.partition) not in gone]

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Make a row of every event, also of a type that this version doesn't know."""
        self._rows.append(IndexRow(*record.topic_partition, record.offset, event))
        self._assignment[record.topic_partition].content.passed(record, Result.APPLIED.value)
        return Result.APPLIED

    def reject(self, record: Record, error: RecordError) -> None:
        """Keep the record for the dead letters, which come before the database moves over it."""
        self._dead_letters.add(record, error)
        self._assignment[record.topic_partition].content.passed(record, error.reason)

    def ignore(self, record: Record) -> None:
        """Pass over a record that is for another service."""
        self._assignment[record.topic_partition].content.passed(record, Result.IGNORED.value)

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Move the offset over what holds no record."""
        self._assignment[topic_partition].content.tally.advance(next_offset)

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that were deleted unread."""
        self._assignment[topic_partition].content.tally.lose(next_offset)

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """Write rows and offsets in one transaction.

        Returns:
            The partitions that have to be read again, because the database holds less than it did.

        Raises:
            OutputUnavailable: The database is in trouble, or another process writes one of the partitions: then it
                has it by now, and this one will be told so.
        """
        moved = [one for one in self._assignment.read() if one.content.has_moved]
        if not moved:
            return {}
        began = self._now()
        self._dead_letters.flush()
        offsets: dict[tuple[str, int], tuple[int | None, int]] = {
            one.topic_partition: (one.content.stored, one.content.next_offset) for one in moved
        }
        try:
            self._store.write(self._rows, offsets)
        except LostPartition as error:
            gone_back = self._look_where_it_stands(moved)
            if gone_back:
                return dict.fromkeys(gone_back)
            raise OutputUnavailable(str(error)) from error
        self._rows.clear()
        now = self._now()
        published_ms: Counter[int] = Counter()
        for one in moved:
            content = one.content
            content.stored = content.next_offset
            published_ms.update(content.published_ms)
            content.published_ms.clear()
            one.accounting.committed(content.tally.account())
        self._runtime_metrics.concluded("committed", max(0.0, now - began), published_ms, int(now * 1000))
        self._tell_kafka(moved, is_last)
        return {}

    def _tell_kafka(self, moved: Sequence[AssignedPartition[IndexedPartition]], is_last: bool) -> None:
        positions = [confluent_kafka.TopicPartition(*one.topic_partition, one.content.next_offset) for one in moved]
        if self._consumer is None:
            raise AssertionError("start() comes first")
        try:
            # One that fails is mended by the next; the last one has no next.
            self._consumer.commit(offsets=positions, asynchronous=not is_last)
        except KafkaException as error:
            log.info("Kafka was not told how far the index is: %s", text_of(error))

    def _look_where_it_stands(self, moved: Sequence[AssignedPartition[IndexedPartition]]) -> list[TopicPartition]:
        """Find out why a write was refused: its rows are there, another has the partition, the database went back.

        Returns:
            The partitions of which the database holds less than this process has written, as a backup was brought
            back, or a standby took over that had not got all. They are read again from where the database stands.
        """
        stands = {one.topic_partition: self._store.next_offset(*one.topic_partition) for one in moved}
        gone_back = []
        for one in moved:
            content, offset = one.content, stands[one.topic_partition]
            if offset == content.next_offset:
                # A write whose answer was lost looks like another process's, but has come just as far as this one.
                content.stored = content.next_offset
                self._drop_rows(one.topic_partition)
            elif content.stored is not None and (offset is None or offset < content.stored):
                # Nobody else moves an offset back.
                gone_back.append(one)
        for one in gone_back:
            self._drop_rows(one.topic_partition)
            one.restore_again()
            self._restoring_since[one.topic_partition] = self._now()
            log.warning(
                "The database is behind what was written of partition %d of %s; it is read again.",
                *one.topic_partition[::-1],
            )
        return [one.topic_partition for one in gone_back]

    def _drop_rows(self, topic_partition: TopicPartition) -> None:
        self._rows = [row for row in self._rows if (row.topic, row.partition) != topic_partition]

    @property
    def is_serving(self) -> bool:
        """Whether every partition that came is read: what the database holds is all there at once."""
        return self._assignment.is_restored

    def close(self) -> None:
        """Close the store."""
        self._offset_queries.close()
        self._dead_letters.close()
        self._store.close()


class IndexedPartition:
    """A partition of events that is read."""

    def __init__(self, stored: int | None, begin: int) -> None:
        self.stored = stored
        """The offset in the database, as this process left or found it."""
        first = begin if stored is None else stored
        self.tally = Tally(Account(first, first, {}))
        self.tally.lose(begin)
        self.published_ms: Counter[int] = Counter()
        """How many records since the last commit were published at each time, in milliseconds since 1970."""

    @property
    def next_offset(self) -> int:
        """The offset of the next record."""
        return self.tally.next_offset

    @property
    def has_moved(self) -> bool:
        """Whether the offset in the database is to be moved."""
        return self.next_offset != self.stored

    def passed(self, record: Record, result: str) -> None:
        """Count a record by its result."""
        self.tally.passed(record.offset, result)
        if record.published_ms > 0:
            self.tally.seen(record.published_ms)
            self.published_ms[record.published_ms] += 1
