"""The processor of event-index: events to rows, offsets in the same database transaction.

The database alone says where a partition goes on. The offsets in Kafka are for tools that show lag; they are
never read back. Dead letters are in Kafka before the database moves over them: after a crash in between they are
there twice, and known as the same.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.event_index.backends.store import EventStore, LostPartition
from hypervisor_consumers.event_index.tables import IndexRow
from hypervisor_consumers.runtime.commit.dead_letters import DeadLetterWriter
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.offset_accounting import Account, Tally
from hypervisor_consumers.runtime.processor import Record, Result, TopicPartition
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import OutputUnavailable, RecordError, UndecodableRecord
from hypervisor_schemas.events import HypervisorEvent

__all__ = ["Indexer"]

log = logging.getLogger(__name__)


class Indexer:
    """Implements `runtime.processor.Processor` on an `EventStore`.

    Its account begins anew with every assignment: the rows themselves are what lasts.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        offset_queries: OffsetQueries,
        dead_letters: DeadLetterWriter,
        runtime_metrics: RuntimeMetrics,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._offset_queries = offset_queries
        self._dead_letters = dead_letters
        self._runtime_metrics = runtime_metrics
        self._now = now
        self._clock = clock
        self._consumer: Any = None
        self._waiting: dict[TopicPartition, float] = {}
        """The partitions that came and can't be read yet, and since when."""
        self._patience = Backoff(clock())
        self._rows: list[IndexRow] = []
        self._open: dict[TopicPartition, _Open] = {}
        self.trouble = ""

    def start(self, consumer: Any) -> None:
        """Remember who commits."""
        self._consumer = consumer

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """They wait until database and log have said where to begin."""
        self._waiting |= dict.fromkeys(topic_partitions, self._now())

    def ready(self) -> Mapping[TopicPartition, int]:
        """Go on where the database says; from the beginning of the log where it says nothing or less."""
        if not self._waiting or self._clock() < self._patience.until:
            return {}
        try:
            begins = {
                topic_partition: self._offset_queries.log_range(topic_partition)[0]
                for topic_partition in self._waiting
            }
            stored = {
                topic_partition: self._store.next_offset(*topic_partition) for topic_partition in self._waiting
            }
        except KafkaException as error:
            self.trouble = f"Kafka can't be asked where a partition begins: {error.args[0].str()}."
            self._offset_queries.close()
            return {}
        except OutputUnavailable as error:
            self.trouble = str(error)
            self._patience.again(self._clock())
            return {}
        self.trouble = ""
        self._patience = Backoff(self._clock())
        offsets = {}
        for topic_partition, since in self._waiting.items():
            opened = self._open[topic_partition] = _Open(stored[topic_partition], begins[topic_partition])
            offsets[topic_partition] = opened.next_offset
            self._runtime_metrics.restored(topic_partition, opened.tally.account(), self._now() - since)
        self._waiting = {}
        return offsets

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Drop what was not written; the next owner reads it again."""
        gone = set(topic_partitions)
        for topic_partition in gone:
            self._waiting.pop(topic_partition, None)
            self._open.pop(topic_partition, None)
        self._rows = [row for row in self._rows if (row.topic, row.partition) not in gone]

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Every event is a row, also of a type that this version doesn't know."""
        self._rows.append(IndexRow(*record.topic_partition, record.offset, event))
        self._open[record.topic_partition].passed(record, Result.APPLIED.value)
        return Result.APPLIED

    takes_columns = False

    def apply_columns(self, *_: object) -> bool:
        """Rows are made one by one."""
        return False

    def reject(self, record: Record, error: RecordError) -> None:
        """It goes to the dead letters before the database moves over it."""
        self._dead_letters.add(record, error)
        self._open[record.topic_partition].passed(record, error.reason)

    def ignore(self, record: Record) -> None:
        """Pass over a record that is for another service."""
        self._open[record.topic_partition].passed(record, Result.IGNORED.value)

    def redeliver(self, record: Record) -> None:  # noqa: ARG002 - whatever it is
        """There are no outputs here."""
        raise UndecodableRecord("The event index has no outputs that could be delivered again.")

    def keep(self) -> Mapping[TopicPartition, int | None]:
        """There is no lease here."""
        return {}

    def row(self, record: Record) -> None:
        """There are no public tables here."""
        raise AssertionError(record.topic_partition)

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """The offset moves over what holds no record."""
        self._open[topic_partition].tally.advance(next_offset)

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that were deleted unread."""
        self._open[topic_partition].tally.lose(next_offset)

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """Write rows and offsets in one transaction.

        Returns:
            The partitions that have to be read again, because the database holds less than it did.

        Raises:
            OutputUnavailable: The database is in trouble, or another process writes one of the partitions: then it
                has it by now, and this one will be told so.
        """
        moved = {
            topic_partition: one for topic_partition, one in self._open.items() if one.next_offset != one.stored
        }
        if not moved:
            return {}
        began = self._now()
        self._dead_letters.flush()
        try:
            self._store.write(
                self._rows,
                {topic_partition: (one.stored, one.next_offset) for topic_partition, one in moved.items()},
            )
        except LostPartition as error:
            gone_back = self._look_where_it_stands(moved)
            if gone_back:
                return dict.fromkeys(gone_back)
            raise OutputUnavailable(str(error)) from error
        self._rows.clear()
        now = self._now()
        published: Counter[int] = Counter()
        for topic_partition, one in moved.items():
            one.stored = one.next_offset
            published.update(one.published)
            one.published.clear()
            self._runtime_metrics.committed(topic_partition, one.tally.account())
        self._runtime_metrics.concluded("committed", max(0.0, now - began), published, int(now * 1000))
        self._tell_kafka(moved, is_last)
        return {}

    def _tell_kafka(self, moved: Mapping[TopicPartition, _Open], is_last: bool) -> None:
        positions = [
            confluent_kafka.TopicPartition(*topic_partition, one.next_offset)
            for topic_partition, one in moved.items()
        ]
        try:
            # One that fails is mended by the next; the last one has no next.
            self._consumer.commit(offsets=positions, asynchronous=not is_last)
        except KafkaException as error:
            log.info("Kafka was not told how far the index is: %s", error.args[0].str())

    def _look_where_it_stands(self, moved: Mapping[TopicPartition, _Open]) -> list[TopicPartition]:
        """Why a write was refused: what it brings is there, another has the partition, or the database went back.

        Returns:
            The partitions of which the database holds less than this process has written, as a backup was brought
            back, or a standby took over that had not got all. They are read again from where the database stands.
        """
        stands = {topic_partition: self._store.next_offset(*topic_partition) for topic_partition in moved}
        gone_back = []
        for topic_partition, one in moved.items():
            offset = stands[topic_partition]
            if offset == one.next_offset:
                # A write whose answer was lost looks like another process's, but has come just as far as this one.
                one.stored = one.next_offset
                self._drop_rows(topic_partition)
            elif one.stored is not None and (offset is None or offset < one.stored):
                # Nobody else moves an offset back.
                gone_back.append(topic_partition)
        for topic_partition in gone_back:
            del self._open[topic_partition]
            self._drop_rows(topic_partition)
            self._waiting[topic_partition] = self._now()
            self._runtime_metrics.lost_sight(topic_partition)
            log.warning(
                "The database is behind what was written of partition %d of %s; it is read again.",
                *topic_partition[::-1],
            )
        return gone_back

    def _drop_rows(self, topic_partition: TopicPartition) -> None:
        self._rows = [row for row in self._rows if (row.topic, row.partition) != topic_partition]

    @property
    def is_serving(self) -> bool:
        """Whether every partition that came is read: what the database holds is all there at once."""
        return not self._waiting

    def close(self) -> None:
        """Close the store."""
        self._offset_queries.close()
        self._dead_letters.close()
        self._store.close()


class _Open:
    """A partition that is read."""

    def __init__(self, stored: int | None, begin: int) -> None:
        self.stored = stored
        """The offset in the database, as this process left or found it."""
        first = begin if stored is None else stored
        self.tally = Tally(Account(first, first, {}))
        self.tally.lose(begin)
        self.published: Counter[int] = Counter()
        """Times of publishing of what was read since the last commit, in milliseconds, and how many of each."""

    @property
    def next_offset(self) -> int:
        return self.tally.next_offset

    def passed(self, record: Record, result: str) -> None:
        self.tally.passed(record.offset, result)
        if record.published > 0:
            self.tally.seen(record.published)
            self.published[record.published] += 1
