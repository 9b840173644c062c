"""The processor of event-index: it writes events as rows, and offsets in the same database transaction.

The database alone decides where a partition continues. The offsets in Kafka are for tools that show lag; they are
never read back. Dead letters are in Kafka before the database's offset moves past them. After a crash in between
they are in Kafka twice, and can be recognized as the same.
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

    The offset accounting starts anew with every assignment: only the rows themselves are durable.
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
        """Remember the consumer, which commits offsets to Kafka."""
        self._consumer = consumer

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Note new partitions; they wait until the database and the log tell where they begin."""
        self._restoring_since |= dict.fromkeys(topic_partitions, self._now())

    def ready(self) -> Mapping[TopicPartition, int]:
        """The offsets where waiting partitions begin: the database's, or the log's beginning if that is later."""
        restoring = [partition for partition in self._assignment if partition.phase is Phase.RESTORING]
        if not restoring or self._clock() < self._backoff.until:
            return {}
        names = [partition.topic_partition for partition in restoring]
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
        for partition in restoring:
            name = partition.topic_partition
            content = IndexedPartition(stored[name], begins[name])
            partition.restored(content, content.next_offset)
            partition.caught_up()
            seconds = self._now() - self._restoring_since.pop(name)
            self._runtime_metrics.restored(name, content.tally.account(), seconds)
        return {partition.topic_partition: partition.position for partition in restoring}

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Drop rows that were not written yet; the next owner reads their events again."""
        revoked = set(topic_partitions)
        for name in revoked:
            self._restoring_since.pop(name, None)
        self._rows = [row for row in self._rows if (row.topic, row.partition) not in revoked]

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Add a row for the event, even if this version doesn't know its type."""
        self._rows.append(IndexRow(*record.topic_partition, record.offset, event))
        self._assignment[record.topic_partition].content.passed(record, Result.APPLIED.value)
        return Result.APPLIED

    def reject(self, record: Record, error: RecordError) -> None:
        """Add the record to the dead letters, which are written before the database's offset moves past it."""
        self._dead_letters.add(record, error)
        self._assignment[record.topic_partition].content.passed(record, error.reason)

    def ignore(self, record: Record) -> None:
        """Skip a record that is for another service."""
        self._assignment[record.topic_partition].content.passed(record, Result.IGNORED.value)

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Move the offset past offsets that hold no record."""
        self._assignment[topic_partition].content.tally.advance(next_offset)

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that Kafka deleted before they were read."""
        self._assignment[topic_partition].content.tally.lose(next_offset)

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """Write rows and offsets in one transaction.

        Returns:
            The partitions that must be read again, because the database holds less of them than it did.

        Raises:
            OutputUnavailable: The database can't be used, or another process writes one of the partitions. In the
                second case the partition has a new owner already, and this process will be notified.
        """
        moved = [partition for partition in self._assignment.read() if partition.content.has_moved]
        if not moved:
            return {}
        started = self._now()
        self._dead_letters.flush()
        offsets: dict[tuple[str, int], tuple[int | None, int]] = {
            partition.topic_partition: (partition.content.stored, partition.content.next_offset)
            for partition in moved
        }
        try:
            self._store.write(self._rows, offsets)
        except LostPartition as error:
            regressed = self._regressed(moved)
            if regressed:
                return dict.fromkeys(regressed)
            raise OutputUnavailable(str(error)) from error
        self._rows.clear()
        now = self._now()
        published_ms: Counter[int] = Counter()
        for partition in moved:
            content = partition.content
            content.stored = content.next_offset
            published_ms.update(content.published_ms)
            content.published_ms.clear()
            partition.accounting.committed(content.tally.account())
        self._runtime_metrics.concluded("committed", max(0.0, now - started), published_ms, int(now * 1000))
        self._commit_to_kafka(moved, is_last)
        return {}

    def _commit_to_kafka(self, moved: Sequence[AssignedPartition[IndexedPartition]], is_last: bool) -> None:
        positions = [
            confluent_kafka.TopicPartition(*partition.topic_partition, partition.content.next_offset)
            for partition in moved
        ]
        if self._consumer is None:
            raise AssertionError("start() comes first")
        try:
            # The next commit makes up for a failed one. Nothing follows the last one, so it waits for the result.
            self._consumer.commit(offsets=positions, asynchronous=not is_last)
        except KafkaException as error:
            log.info("Kafka was not told how far the index is: %s", text_of(error))

    def _regressed(self, moved: Sequence[AssignedPartition[IndexedPartition]]) -> list[TopicPartition]:
        """Find out why a write was refused.

        There are three possible reasons: the rows are in the database already, another process has the partition,
        or the database regressed.

        Returns:
            The partitions of which the database holds less than this process wrote: a backup was restored, or a
            standby took over that had not received everything. They are read again from the database's offset.
        """
        offsets = {
            partition.topic_partition: self._store.next_offset(*partition.topic_partition) for partition in moved
        }
        regressed = []
        for partition in moved:
            content, offset = partition.content, offsets[partition.topic_partition]
            if offset == content.next_offset:
                # A write whose answer was lost looks like another process's, but it reached exactly this offset.
                content.stored = content.next_offset
                self._drop_rows(partition.topic_partition)
            elif content.stored is not None and (offset is None or offset < content.stored):
                # No process moves an offset back, so the database has regressed.
                regressed.append(partition)
        for partition in regressed:
            self._drop_rows(partition.topic_partition)
            partition.restore_again()
            self._restoring_since[partition.topic_partition] = self._now()
            log.warning(
                "The database is behind what was written of partition %d of %s; it is read again.",
                *partition.topic_partition[::-1],
            )
        return [partition.topic_partition for partition in regressed]

    def _drop_rows(self, topic_partition: TopicPartition) -> None:
        self._rows = [row for row in self._rows if (row.topic, row.partition) != topic_partition]

    @property
    def is_serving(self) -> bool:
        """Whether no assigned partition is waiting; what the database holds can be queried at once."""
        return self._assignment.is_restored

    def close(self) -> None:
        """Close the store and the clients of Kafka."""
        self._offset_queries.close()
        self._dead_letters.close()
        self._store.close()


class IndexedPartition:
    """The progress of a partition that is being read."""

    def __init__(self, stored: int | None, begin: int) -> None:
        self.stored = stored
        """The offset in the database, as this process left or found it."""
        first = begin if stored is None else stored
        self.tally = Tally(Account(first, first, {}))
        self.tally.lose(begin)
        self.published_ms: Counter[int] = Counter()
        """The publishing times in milliseconds of the records since the last commit, with how many have each."""

    @property
    def next_offset(self) -> int:
        """The offset of the next record."""
        return self.tally.next_offset

    @property
    def has_moved(self) -> bool:
        """Whether the offset in the database must be moved."""
        return self.next_offset != self.stored

    def passed(self, record: Record, result: str) -> None:
        """Count a record by its result."""
        self.tally.passed(record.offset, result)
        if record.published_ms > 0:
            self.tally.seen(record.published_ms)
            self.published_ms[record.published_ms] += 1
