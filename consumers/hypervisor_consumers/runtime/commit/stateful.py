"""The processor of a service with a fold: state in a changelog, results and offsets in the same transaction.

A batch is folded into what is pending. At the commit interval one transaction carries the changes of the state,
public records, dead letters and input offsets; then pending becomes committed, and is shown. While nothing comes, a
transaction of offsets alone renews the lease.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.commit.dead_letters import dead_letter_of
from hypervisor_consumers.runtime.commit.lease import Lease
from hypervisor_consumers.runtime.commit.output_thread import Outputs, OutputThread
from hypervisor_consumers.runtime.commit.transactions import Outcome, OutputBatch, OutputRecord, Transactions
from hypervisor_consumers.runtime.decode.batch_decoder import EventColumns
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.dedup_window import SEED
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.partitions.partition import Partition
from hypervisor_consumers.runtime.partitions.restore import Restoration, Restorer
from hypervisor_consumers.runtime.processor import Record, Result, TopicPartition
from hypervisor_consumers.runtime.protocols import (
    BatchFold,
    ColumnFold,
    Fold,
    Home,
    Output,
    OutputCodec,
    Publish,
    View,
)
from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import OutputRefused, OutputUnavailable, RecordError, UndecodableRecord
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.topics import partition_of

__all__ = ["EXPIRY_INTERVAL_SECONDS", "Shown", "StatefulProcessor", "StatefulTopics"]

log = logging.getLogger(__name__)

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - O for output, as in the contract

EXPIRY_INTERVAL_SECONDS = 60.0
"""Seconds between two looks for a partition's idle rows."""

MAX_HIDDEN_SECONDS = 5.0
"""Seconds that a restored partition with more to read waits for its first commit to be shown."""

DELIVERY_TIMEOUT_SECONDS = 1.0
LAST_DELIVERY_TIMEOUT_SECONDS = 4.0
"""Seconds that a commit waits for its outputs to be delivered, before it lets the loop turn; and a last commit."""


@dataclass(frozen=True, slots=True)
class StatefulTopics:
    """The full names of the topics of one service."""

    prefix: str
    source: str
    state: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class Shown(Generic[S]):
    """What may be shown now; a snapshot, that nobody changes."""

    states: Mapping[int, S]
    """Per partition of the source, what is committed."""
    rows: Mapping[int, Mapping[Any, Any]]
    """Per partition of the public table, its rows."""
    state_partitions: int | None
    """How many partitions the source had when its state began, if it is known."""
    accounts: Mapping[int, Account] = field(default_factory=dict)
    """Per partition of the source, up to where the log is in what is committed."""


@dataclass(slots=True)
class _Live(Generic[S, O]):
    """A partition of the source that is read."""

    topic_partition: TopicPartition
    partition: Partition[S, O]
    next_expiry: float
    came_at: int
    """The offset up to which it counted when it was restored."""
    came_back: Restoration | None
    """Until it is shown."""
    hidden_until: float
    sent: list[OutputBatch] = field(default_factory=list)
    """What this transaction writes for it."""
    written: list[OutputBatch] = field(default_factory=list)
    """What the last one that was committed wrote."""
    again: list[OutputBatch] = field(default_factory=list)
    """What the next one writes first."""
    dead_letters: list[DeadLetter] = field(default_factory=list)
    outputs: Outputs[O] = field(default_factory=Outputs)
    at_end: bool = False
    """Whether nothing has come since the log's end was reached."""
    heard_at: int = 0
    """When the last record was published, in milliseconds since 1970, or it was read, if that was earlier."""
    published: Counter[int] = field(default_factory=Counter)
    """When the records that are pending were published, and how many of each time."""


class StatefulProcessor(Generic[S, O]):
    """Implements `runtime.processor.Processor` for a fold."""

    def __init__(
        self,
        fold: Fold[S, O],
        *,
        service: str,
        topics: StatefulTopics,
        transactions: Transactions,
        restorer: Restorer,
        lease: Lease,
        runtime_metrics: RuntimeMetrics,
        window: int,
        seed: int = SEED,
        now: Callable[[], float],
        find_lease: Callable[[], float],
        output: Output[O] | None = None,
        output_codec: OutputCodec[O] | None = None,
        publish: Publish[S] | None = None,
        view: View | None = None,
        expire_every: float = EXPIRY_INTERVAL_SECONDS,
    ) -> None:
        self._fold = fold
        self._service = service
        self._topics = topics
        self._transactions = transactions
        self._restorer = restorer
        self._lease = lease
        self._runtime_metrics = runtime_metrics
        self._window, self._seed = window, seed
        self._now = now
        self._find_lease = find_lease
        self._delivery = None if output is None else OutputThread(output, lease.now)
        self._output_codec = output_codec
        self._expire_every = expire_every
        self._publish = publish
        self._view = view
        self._consumer: Any = None
        self._limited = RateLimitedLog(log)
        self._lock = threading.Lock()
        """Held while what is shown changes, and while it is looked at."""
        self._live: dict[TopicPartition, _Live[S, O]] = {}
        self._rows: dict[TopicPartition, dict[Any, Any]] = {}
        self._row_offsets: dict[TopicPartition, int] = {}
        self._restoring: set[TopicPartition] = set()
        self._sent: dict[TopicPartition, Partition[S, O]] = {}
        self._began = 0.0
        self._partition_counts: dict[str, int] = {}
        self._source_partitions = 0

    def start(self, consumer: Any) -> None:
        """Remember whose membership the transactions prove."""
        self._consumer = consumer

    def assigned(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Begin to restore."""
        for topic_partition in topic_partitions:
            self._begin(topic_partition)

    def _begin(self, topic_partition: TopicPartition, counted_to: int = 0) -> None:
        self._restoring.add(topic_partition)
        if self._view is not None and topic_partition.topic != self._topics.source:
            self._restorer.begin(topic_partition, (self._view, self._view.new_rows()))
        else:
            partition = Partition(topic_partition.partition, self._fold, self._window, self._seed)
            self._restorer.begin(topic_partition, partition, counted_to)

    def ready(self) -> Mapping[TopicPartition, int]:
        """What the restorer has brought back.

        Raises:
            StateError: What is kept can't be right.
        """
        offsets: dict[TopicPartition, int] = {}
        for job in self._restorer.finished():
            if job.error is not None:
                raise job.error
            if job.topic_partition not in self._restoring or job.offset is None:
                continue
            self._restoring.discard(job.topic_partition)
            offsets[job.topic_partition] = job.offset
            with self._lock:
                if isinstance(job.into, Partition):
                    now, counted = self._now(), job.into.account.next_offset
                    hidden_until = now + MAX_HIDDEN_SECONDS if job.has_more else now
                    self._live[job.topic_partition] = _Live(
                        job.topic_partition, job.into, now + self._expire_every, counted, job, hidden_until
                    )
                else:
                    self._rows[job.topic_partition] = job.into[1]
                    self._row_offsets[job.topic_partition] = job.offset
        if offsets:
            self._ask_for_partitions()
        self._show()
        return offsets

    def _ask_for_partitions(self) -> None:
        # The first commit needs it. It may be one on losing partitions, within a callback of the classic protocol,
        # and there confluent-kafka's consumer answers no questions.
        public = [self._topics.prefix + self._view.topic] if self._view is not None else []
        with suppress(KafkaException):  # then the commit asks
            for topic in (self._topics.dead_letters, *public):
                self._partitions_of(topic)
            self._source_partitions = self._source_partitions or self._partitions_of(
                self._topics.source, known=False
            )

    def _show(self) -> None:
        """Show what was restored and has caught up with what was shown before.

        As a rule nothing more was. But a commit that was shown can have been undone (see `transactions`), and
        nobody may know: so where there is something to read, the next commit comes first, for a while.
        """
        now = self._now()
        for topic_partition, live in self._live.items():
            if (job := live.came_back) is None:
                continue
            account = live.partition.account
            has_come_on = account.next_offset > live.came_at or now >= live.hidden_until
            if has_come_on and account.next_offset >= job.counted_to:
                with self._lock:
                    live.came_back = None
                self._runtime_metrics.restored(topic_partition, account, self._restorer.age(job))

    def revoked(self, topic_partitions: Collection[TopicPartition]) -> None:
        """Forget partitions; their series leave `/metrics` at once."""
        self._restorer.cancel(topic_partitions)
        with self._lock:
            for topic_partition in topic_partitions:
                self._restoring.discard(topic_partition)
                self._live.pop(topic_partition, None)
                self._rows.pop(topic_partition, None)
                self._row_offsets.pop(topic_partition, None)
                self._sent.pop(topic_partition, None)

    def apply(self, record: Record, event: HypervisorEvent) -> Result:
        """Fold one event into what is pending."""
        live = self._live[record.topic_partition]
        now = int(self._now() * 1000)
        # A foreign clock may be ahead; nothing was seen later than now.
        seen_at = min(record.published, now) if record.published > 0 else now
        result, outputs = live.partition.apply(record.offset, event, seen_at)
        if outputs:
            live.outputs.add([(record.offset, output) for output in outputs])
        self._took(live, record)
        live.at_end, live.heard_at = False, seen_at
        return result

    def redeliver(self, record: Record) -> None:
        """An output that was refused once, and is replayed: it goes to the output as it is.

        Raises:
            RecordError: It is no output of this service.
        """
        if self._output_codec is None:
            raise UndecodableRecord("This service has no outputs that could be delivered again.")
        output = self._output_codec.read(record.value or b"")
        live = self._live[record.topic_partition]
        live.partition.take_output(record.offset)
        live.outputs.add([(record.offset, output)])
        self._took(live, record)

    @property
    def takes_columns(self) -> bool:
        """Whether the fold can take many events at once."""
        return isinstance(self._fold, ColumnFold | BatchFold)

    def apply_columns(
        self,
        topic_partition: TopicPartition,
        first_offset: int,
        columns: EventColumns,
        published: npt.NDArray[np.int64],
        /,
    ) -> bool:
        """Fold events of consecutive offsets into what is pending, or nothing."""
        live = self._live[topic_partition]
        now = int(self._now() * 1000)
        outputs = live.partition.apply_columns(first_offset, columns, np.minimum(published, now))
        if outputs is None:
            return False
        live.outputs.add(outputs)
        live.partition.seen(int(published[-1]))
        times, counts = np.unique(published, return_counts=True)
        live.published.update(dict(zip(times.tolist(), counts.tolist(), strict=True)))
        live.at_end, live.heard_at = False, min(int(published[-1]), now)
        return True

    def reject(self, record: Record, error: RecordError) -> None:
        """The record goes to the dead letters with the next transaction."""
        live = self._live[record.topic_partition]
        live.partition.reject(record.offset, error.reason)
        live.dead_letters.append(dead_letter_of(record, self._service, error))
        self._took(live, record)

    def ignore(self, record: Record) -> None:
        """Pass over a record that is for another service."""
        live = self._live[record.topic_partition]
        live.partition.ignore(record.offset)
        self._took(live, record)

    def _took(self, live: _Live[S, O], record: Record) -> None:
        if record.published > 0:
            live.partition.seen(record.published)
            live.published[record.published] += 1

    def row(self, record: Record) -> None:
        """Take one record of the public table in; it is committed already."""
        assert self._view is not None  # noqa: S101 - without a view no such topic is read
        with self._lock:
            self._row_offsets[record.topic_partition] = record.offset + 1
            self._view.apply(self._rows[record.topic_partition], record.key, record.value)

    def advanced(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that hold no record."""
        live = self._live.get(topic_partition)
        if live is not None:
            live.partition.advance(next_offset)
            live.at_end = True
        elif topic_partition in self._row_offsets:
            self._row_offsets[topic_partition] = next_offset

    def lost(self, topic_partition: TopicPartition, next_offset: int) -> None:
        """Count the offsets that were deleted unread."""
        self._live[topic_partition].partition.lose(next_offset)

    def commit(self, *, is_last: bool = False) -> Mapping[TopicPartition, int | None]:
        """One transaction, where there is something to commit or the lease is due.

        Raises:
            OSError, OutputUnavailable: The output doesn't take it, or the transaction is not ended yet.
        """
        if self._transactions.is_unfinished:
            return self._conclude(self._transactions.finish())
        # Also while all is being restored: what a lost transaction left open is in the way of that.
        is_prepared = self._transactions.prepare()
        self._end_forgotten()
        if not self._live and not self._rows:
            return {}
        self._show()
        if not is_last:
            self._expire()
        changed = {
            topic_partition: live for topic_partition, live in self._live.items() if live.partition.has_changes
        }
        if not changed and not self._lease.is_due:
            return {}
        if not is_prepared:
            raise OutputUnavailable(self._transactions.reason)
        if self._lease.seconds is None:
            self._lease.seconds = self._find_lease()
        self._deliver(LAST_DELIVERY_TIMEOUT_SECONDS if is_last else DELIVERY_TIMEOUT_SECONDS)
        for live in changed.values():
            live.partition.settle()  # before the transaction: while one is open, readers of what it writes wait
        self._began = self._lease.now()
        self._sent = {topic_partition: live.partition for topic_partition, live in changed.items()}
        offsets = {
            topic_partition: live.partition.next_offset for topic_partition, live in self._live.items()
        } | self._row_offsets
        outcome = self._transactions.commit(
            self._batches(changed), offsets, self._consumer.consumer_group_metadata()
        )
        return self._conclude(outcome)

    def _end_forgotten(self) -> None:
        if forgotten := self._restorer.forgotten():
            topic = self._topics.dead_letters
            letters = {TopicPartition(topic, number) for number in range(self._partitions_of(topic))}
            self._transactions.end(forgotten, letters)

    def _deliver(self, seconds: float) -> None:
        """Hand over what has come out.

        Raises:
            OSError, OutputUnavailable: Not now, or not yet.
        """
        if self._delivery is not None:
            self._delivery.hand_over([live.outputs for live in self._live.values()], seconds)
            for live in self._live.values():
                for offset, output, reason in live.outputs.refused():
                    self._refuse(live, offset, output, reason)

    def _refuse(self, live: _Live[S, O], offset: int, output: O, reason: str) -> None:
        """An output that nobody takes becomes a dead letter of its own; its event was used, and counts so."""
        self._limited.log(
            logging.WARNING, "refused", "An output was refused, it is in the dead letters: %s", reason
        )
        self._runtime_metrics.refused()
        if self._output_codec is None:
            return
        letter = DeadLetter(
            key=None,
            value=self._output_codec.write(output),
            original_headers=(),
            service=self._service,
            reason=OutputRefused.reason,
            error=reason,
            topic=live.topic_partition.topic,
            partition=live.topic_partition.partition,
            offset=offset,
            timestamp=int(self._now() * 1000),
            output=self._output_codec.name(output),
        )
        live.dead_letters.append(letter)

    def keep(self) -> Mapping[TopicPartition, int | None]:
        """Renew the lease while a delivery is waited for, which may take long: what is committed is still shown.

        Returns what has to be read again, as `commit` does.
        """
        if not self._waits_for_output or not self._lease.is_due or self._lease.seconds is None:
            return {}
        if self._transactions.is_unfinished or not self._transactions.prepare():
            return {}
        # An offset of a partition without a state would be taken for one whose state is lost.
        kept = {
            topic_partition: live.partition
            for topic_partition, live in self._live.items()
            if not live.partition.is_new
        }
        offsets = {
            topic_partition: partition.account.next_offset for topic_partition, partition in kept.items()
        } | self._row_offsets
        if not offsets:
            return {}
        self._began, self._sent = self._lease.now(), {}
        outcome = self._transactions.commit((), offsets, self._consumer.consumer_group_metadata())
        return {} if outcome is Outcome.UNFINISHED else self._conclude(outcome)

    def _batches(self, changed: Mapping[TopicPartition, _Live[S, O]]) -> Iterator[OutputBatch]:
        for topic_partition, live in changed.items():
            live.sent = [*live.again, *self._batches_of(topic_partition, live)]
            yield from live.sent

    def _batches_of(self, topic_partition: TopicPartition, live: _Live[S, O]) -> Iterator[OutputBatch]:
        rows: list[OutputRecord] = []
        size = 0
        for key, value in live.partition.changes():
            rows.append((key, value, None))
            size += len(key) + (0 if value is None else len(value))
        self._runtime_metrics.wrote(len(rows), size)
        yield OutputBatch(
            TopicPartition(self._topics.state, topic_partition.partition % (self._restorer.state_partitions or 1)),
            rows,
        )
        by_topic_partition: defaultdict[TopicPartition, list[OutputRecord]] = defaultdict(list)
        for letter in live.dead_letters:
            topic = self._topics.dead_letters
            to = TopicPartition(topic, letter.partition_among(self._partitions_of(topic)))
            by_topic_partition[to].append((letter.key, letter.value, letter.headers()))
        if self._publish is not None:
            if not self._source_partitions:
                self._source_partitions = self._partitions_of(self._topics.source, known=False)
            home = Home(topic_partition.partition, self._source_partitions)
            by_topic: dict[str, list[list[OutputRecord]]] = {}
            for name, partition_key, key, value in self._publish(live.partition.pending, home):
                partitions = by_topic.get(name)
                if partitions is None:
                    count = self._partitions_of(self._topics.prefix + name)
                    partitions = by_topic[name] = [[] for _ in range(count)]
                partitions[partition_of(partition_key, len(partitions))].append((key, value, None))
            for name, partitions in by_topic.items():
                topic = self._topics.prefix + name
                by_topic_partition |= {
                    TopicPartition(topic, n): records for n, records in enumerate(partitions) if records
                }
        yield from (OutputBatch(to, records) for to, records in by_topic_partition.items())

    def _partitions_of(self, topic: str, *, known: bool = True) -> int:
        """How many there are; only the source may grow while the service runs.

        Raises:
            KafkaException: Kafka doesn't tell now; called within a transaction, that is aborted.
        """
        count = self._partition_counts.get(topic) if known else None
        if count is None:
            found = self._consumer.list_topics(topic, timeout=5).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            count = len(found.partitions)
            self._partition_counts[topic] = count
        return count

    def _conclude(self, outcome: Outcome) -> Mapping[TopicPartition, int | None]:
        if outcome is Outcome.UNFINISHED:
            raise OutputUnavailable(self._transactions.reason)
        published: Counter[int] = Counter()
        if outcome is Outcome.COMMITTED:
            with self._lock:
                for topic_partition, partition in self._sent.items():
                    partition.commit()
                    live = self._live[topic_partition]
                    published.update(live.published)
                    live.published.clear()
                    live.dead_letters.clear()
                    live.outputs.clear()
                    live.written, live.sent, live.again = live.sent, [], []
                self._lease.renew(self._began)
        took = self._lease.now() - self._began
        self._runtime_metrics.concluded(outcome.value, took, published, int(self._now() * 1000))
        if outcome is Outcome.COMMITTED:
            self._show()
            for topic_partition, partition in self._sent.items():
                if self._live[topic_partition].came_back is None:
                    self._runtime_metrics.committed(topic_partition, partition.account)
            self._sent = {}
            return {}
        log.warning("%s", self._transactions.reason)
        self._sent = {}
        if self._delivery is not None:
            self._delivery.abandon()
        if outcome is Outcome.ABORTED:
            return {topic_partition: self._roll_back(live) for topic_partition, live in self._live.items()}
        return self._restore_all()

    def _roll_back(self, live: _Live[S, O]) -> int:
        # Kafka may have undone the commit before with this one (see `transactions`). Rows are the same when they
        # are written twice; a dead letter would be there twice, so there has to be a reason to.
        letters = self._topics.dead_letters
        live.again = [
            batch
            for batch in live.written
            if batch.topic_partition.topic != letters or self._transactions.was_cut_off
        ]
        live.sent = []
        live.dead_letters.clear()
        live.outputs.clear()
        live.published.clear()
        live.at_end = False
        return live.partition.rollback()

    def _restore_all(self) -> dict[TopicPartition, int | None]:
        """Whether the last transaction went through, only the changelog can tell."""
        counted = {
            topic_partition: live.partition.account.next_offset for topic_partition, live in self._live.items()
        }
        with self._lock:
            self._live.clear()
        for topic_partition, offset in counted.items():
            self._runtime_metrics.lost_sight(topic_partition)
            self._begin(topic_partition, offset)
        return dict.fromkeys(counted)

    def _expire(self) -> None:
        """One partition at a time: the rows that go make a transaction large."""
        now = self._now()
        for live in self._live.values():
            if now >= live.next_expiry:
                live.next_expiry = now + self._expire_every
                self._source_partitions = 0
                with suppress(KafkaException):  # then the transaction that takes rows away asks
                    self._source_partitions = self._partitions_of(self._topics.source, known=False)
                # While there is more to read, no later than what was read last: an end may come yet.
                at = int(now * 1000) if live.at_end else min(int(now * 1000), live.heard_at)
                last = max(0, live.partition.next_offset - 1)
                live.outputs.add([(last, output) for output in live.partition.expire(at)])
                return

    @property
    def is_serving(self) -> bool:
        """Whether all that this copy has is restored and shown."""
        is_shown = all(live.came_back is None for live in self._live.values())
        has_nothing = not (self._live or self._rows)
        # An output that is away is no reason to take the service away: a new copy would wait as well.
        may_be = self._lease.is_valid or has_nothing or self._waits_for_output
        return not self._restoring and is_shown and may_be

    @property
    def _waits_for_output(self) -> bool:
        return self._delivery is not None and any(live.outputs for live in self._live.values())

    @property
    def trouble(self) -> str:
        """What holds restoring up, as a sentence."""
        return self._restorer.trouble if self._restoring else ""

    def may_show(self) -> bool:
        """Whether the lease has not run out."""
        return self._lease.is_valid

    def shown(self) -> Shown[S]:
        """What may be shown now: nothing, if the lease has run out."""
        with self._lock:
            if not self._lease.is_valid:
                return Shown({}, {}, None)
            live = {
                topic_partition.partition: one.partition
                for topic_partition, one in self._live.items()
                if one.came_back is None
            }
            return Shown(
                {number: partition.snapshot() for number, partition in live.items()},
                {topic_partition.partition: rows.copy() for topic_partition, rows in self._rows.items()},
                self._restorer.state_partitions,
                {number: partition.account for number, partition in live.items()},
            )

    def close(self) -> None:
        """Close the output."""
        self._transactions.close()
        if self._delivery is not None:
            self._delivery.close()
