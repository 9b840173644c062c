"""The consumer loop: a copy of a service reads, takes and commits from its start until it is told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.commit.schedule import CommitSchedule
from hypervisor_consumers.runtime.ingest import RecordIngest
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.client_types import Consumer, Message
from hypervisor_consumers.runtime.kafka.message_grouping import by_topic_partition, each
from hypervisor_consumers.runtime.ops.broker_monitor import BrokerMonitor
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment
from hypervisor_consumers.runtime.processor import LeaseRenewal, Processor
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import KafkaError, OutputUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["HELD_BACK", "ConsumerLoop", "Subscription"]

log = logging.getLogger(__name__)

BATCH = 1000
READ_SECONDS = 0.02
"""Seconds that a read takes at most: it waits for the whole of a batch, also where no more will come, and a commit
that is due waits for it."""
IDLE_MEMBER_SECONDS = 10.0
"""Seconds in the group, Kafka answering, after which a copy without partitions is one that gets none for now."""

HELD_BACK = "commit"
"""The subject of the trouble that health tells until a commit covers what was read."""

_TROUBLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Subscription:
    """The topics that a service reads, by full names, and how."""

    settings: Mapping[str, Any]
    """The consumer's settings for librdkafka."""
    topics: Sequence[str]
    tables: Collection[str] = ()
    """The topics among them that hold rows of public tables, not events."""
    needed: Sequence[str] = ()
    """Topics that must be there besides."""


class ConsumerLoop:
    """Reads topics as one member of a group, and drives a processor.

    What the processor can't make safe, and a registry that doesn't answer, are waited for: reading stops, the group
    is kept, `/readyz` says so.

    Args:
        clients: Makes the consumer.
        subscription: What is read.
        processor: Takes what is read, and commits it.
        lease: Keeps the lease while a commit is put off, where the service has one.
        ingest: Hands what is read to the processor.
        assignment: The partitions of this copy.
        health: What `/healthz` and `/readyz` say.
        dead_letter_rate: Says when too many records can't be used.
        broker_monitor: Says whether Kafka answers.
        schedule: When to commit.
        clock: Seconds, by a monotonic clock.
        between_turns: Called over and over, whenever nothing is half done.
    """

    # size: all parts of a copy meet here

    def __init__(
        self,
        *,
        clients: ClientFactory,
        subscription: Subscription,
        processor: Processor,
        lease: LeaseRenewal | None = None,
        ingest: RecordIngest,
        assignment: Assignment[Any],
        health: Health,
        runtime_metrics: RuntimeMetrics,
        dead_letter_rate: DeadLetterRate,
        broker_monitor: BrokerMonitor,
        schedule: CommitSchedule,
        clock: Callable[[], float] = time.monotonic,
        between_turns: Callable[[], None] = lambda: None,
    ) -> None:
        self._clients = clients
        self._subscription = subscription
        self._processor = processor
        self._lease = lease
        self._ingest = ingest
        self._assignment = assignment
        self._health = health
        self._runtime_metrics = runtime_metrics
        self._dead_letter_rate = dead_letter_rate
        self._broker_monitor = broker_monitor
        self._schedule = schedule
        self._clock = clock
        self._between_turns = between_turns
        self._limited = RateLimitedLog(log)
        self._joined = False
        self._waiting_since = clock()
        self._should_stop: Callable[[], bool] = lambda: False

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Run until `should_stop`; then commit and leave the group.

        Raises:
            SettingError: librdkafka refuses the settings.
            KafkaError: Kafka refused for good.
            StateError: What is kept of a partition can't be right.
        """
        self._should_stop = should_stop
        self.open()
        try:
            if self._wait_for_topics():
                self.subscribe()
            while not should_stop():
                self.turn()
                self._between_turns()
            if self._broker_monitor.answers:
                self._commit(is_last=True)
        finally:
            self.close()

    def open(self) -> None:
        """Make the consumer; it joins no group yet."""
        self._consumer = self._clients.consumer(
            {**self._subscription.settings, "error_cb": self._connection_trouble}
        )
        self._processor.start(self._consumer)
        self._ingest.start(self._consumer)

    def subscribe(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            list(self._subscription.topics),
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )
        self._waiting_since = self._clock()

    def close(self) -> None:
        """Leave the group."""
        # With nobody there to tell, leaving the group, as the commit before, would wait for its own timeout.
        if self._broker_monitor.answers:
            self._consumer.close()
        self._processor.close()

    def _wait_for_topics(self) -> bool:
        """Subscribing to a topic that doesn't exist yet would find it minutes after it was made."""
        while not self._should_stop():
            self._health.turned()
            try:
                known = self._consumer.list_topics(timeout=2).topics
            except KafkaException as error:
                self._consumer.poll(0)  # lets it say what its connections met
                self._broker_monitor.lost(error)
                continue
            self._broker_monitor.found()
            missing = [
                topic for topic in (*self._subscription.topics, *self._subscription.needed) if topic not in known
            ]
            if not missing:
                self._health.better("topics")
                return True
            sentence = f"{missing[0]} doesn't exist; run `hypervisor-telemetry topics apply`."
            self._health.trouble("topics", sentence)
            self._limited.log(logging.WARNING, "topics", "%s", sentence)
            self._consumer.poll(0.5)
        return False

    def turn(self) -> None:
        """Go once around: read, take, commit if it is time."""
        messages = self._consumer.consume(BATCH, timeout=READ_SECONDS)
        self._health.turned()
        if any(each("error", messages)):
            messages = [message for message in messages if self._is_read(message)]
        for topic_partition, batch in by_topic_partition(messages).items():
            partition = self._assignment.get(topic_partition)
            if partition is not None and partition.is_read:
                self._ingest.take(partition, batch)
        self._begin_reading(self._processor.ready())
        due = self._ingest.due()
        # While commits are waited for too, resuming is left to them.
        if due and not self._schedule.is_held:
            self._resume(due)
        if self._schedule.is_due or (self._lease is not None and self._lease.is_due):
            self._commit()
        self._look_around()

    def _is_read(self, message: Message) -> bool:
        """Whether it came from a partition; else it is an event of the client, which is dealt with."""
        error = message.error()
        if error is None or error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
            return True
        self._reading_trouble(message.topic(), error)
        return False

    def _commit(self, *, is_last: bool = False) -> None:
        if self._schedule.is_waiting and not is_last:
            if self._lease is not None:
                self._read_again(self._lease.keep())
            return
        self._schedule.begin()
        try:
            again = self._processor.commit(is_last=is_last)
        except (OSError, OutputUnavailable) as error:
            asked_for = getattr(error, "retry_after", None) or 0.0
            why = str(error).removesuffix(".")
            self._hold(
                f"What was read can't be made safe now ({why}). It is tried again; nothing is lost.", asked_for
            )
            return
        if again:
            self._schedule.rolled_back({one: self._assignment[one].position for one in again})
            self._read_again(again)
            self._hold("What was read could not be committed, and is read again; nothing is lost.")
        elif self._schedule.is_failing:
            was_held = self._schedule.is_held
            if self._schedule.committed({one.topic_partition: one.committed_to for one in self._assignment}):
                self._health.better(HELD_BACK)
            if was_held:
                self._resume_reading()

    def _resume_reading(self) -> None:
        """Go on reading, but for partitions that wait for a schema."""
        waiting = [one for one in self._assignment if one.schema_wait and one.schema_wait.is_pausing]
        self._resume([one for one in self._assignment.read() if one not in waiting])

    def _resume(self, partitions: Sequence[AssignedPartition[Any]]) -> None:
        for one in partitions:
            one.read_is_interrupted()
        self._consumer.resume(_for_client(partitions))

    def _hold(self, sentence: str, at_least: float = 0.0) -> None:
        """Stop reading until a commit goes through; it is tried after so many seconds, or more."""
        self._health.trouble(HELD_BACK, sentence)
        self._limited.log(logging.WARNING, "commit", "%s", sentence)
        if self._schedule.hold(at_least):
            self._consumer.pause(_for_client(self._assignment.read()))

    def _read_again(self, offsets: Mapping[TopicPartition, int | None]) -> None:
        for topic_partition, offset in offsets.items():
            partition = self._assignment[topic_partition]
            if offset is None:
                self._ingest.forget([partition])
                self._consumer.incremental_unassign(_for_client([partition]))
            else:
                self._ingest.read_again(partition, offset)

    def _begin_reading(self, restored: Mapping[TopicPartition, int]) -> None:
        if restored:
            starts = [confluent_kafka.TopicPartition(*one, offset) for one, offset in restored.items()]
            self._consumer.incremental_assign(starts)
            # A partition that was paused when it went comes back so.
            if self._schedule.is_held:
                self._consumer.pause(starts)
            else:
                self._consumer.resume(starts)
            log.info("%d of %d partitions are restored", len(self._assignment.read()), len(self._assignment))

    def _look_around(self) -> None:
        self._say("restore", self._processor.trouble)
        self._say("flood", self._dead_letter_rate.sentence)
        if not self._broker_monitor.answers:
            self._waiting_since = self._clock()
        elif not self._joined:
            # With KIP-848 a member that gets nothing is told nothing.
            self._joined = self._clock() - self._waiting_since > IDLE_MEMBER_SECONDS
        if self._joined and self._assignment.is_restored and self._processor.is_serving:
            self._health.became_ready()

    def _say(self, subject: str, sentence: str) -> None:
        if sentence:
            # A flood is over when good records come; there may be none.
            self._health.trouble(subject, sentence, lasting=_TROUBLE_SECONDS)
        else:
            self._health.better(subject)

    def _on_assign(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        # Each is assigned to the client when it is restored and its offset known. Assigned at once, paused, and
        # sought later, one in some hundred began at the end of its log instead.
        consumer.incremental_assign([])
        topic_partitions = [TopicPartition(one.topic, one.partition) for one in partitions]
        self._assignment.assign(topic_partitions, tables=self._subscription.tables)
        self._runtime_metrics.rebalanced()
        self._processor.assigned(topic_partitions)
        self._joined = True
        self._health.better("group")
        log.info("%d partitions came, %d in all", len(topic_partitions), len(self._assignment))

    def _on_revoke(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        self._commit(is_last=True)
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[confluent_kafka.TopicPartition]) -> None:
        topic_partitions = [TopicPartition(one.topic, one.partition) for one in partitions]
        read = [one for one in self._assignment.read() if one.topic_partition in topic_partitions]
        gone = self._assignment.revoke(topic_partitions)
        self._processor.revoked(topic_partitions)
        consumer.incremental_unassign(_for_client(read))
        self._ingest.forget(gone)
        self._runtime_metrics.rebalanced()
        log.info("%d partitions went, %d left", len(topic_partitions), len(self._assignment))

    def _connection_trouble(self, error: confluent_kafka.KafkaError) -> None:
        """Note what a connection met. librdkafka connects again by itself."""
        self._limited.log(logging.INFO, error.name(), "Kafka: %s", error.str())
        if error.code() == confluent_kafka.KafkaError._ALL_BROKERS_DOWN:
            # Also said when the only connection was closed because nobody used it.
            self._broker_monitor.look()
        else:
            self._broker_monitor.heard(error.str())

    def _reading_trouble(self, topic: str | None, error: confluent_kafka.KafkaError) -> None:
        """Note what came in place of a record."""
        if error.code() == confluent_kafka.KafkaError._FATAL:
            if _UNSUPPORTED in error.str():
                raise KafkaError(
                    "This Kafka doesn't know the group protocol of KIP-848; set KAFKA_GROUP_PROTOCOL=classic."
                )
            raise KafkaError(f"Kafka refused for good: {error.str()}.")
        sentence = f"Kafka is in trouble: {error.str()}."
        if topic is None:
            self._health.trouble("group", sentence, lasting=_TROUBLE_SECONDS)
        else:
            self._health.trouble(topic, sentence)
        self._limited.log(logging.WARNING, error.name(), "Kafka: %s", error.str())


_UNSUPPORTED = confluent_kafka.KafkaError(confluent_kafka.KafkaError.UNSUPPORTED_VERSION).str()


def _for_client(partitions: Iterable[AssignedPartition[Any]]) -> list[confluent_kafka.TopicPartition]:
    return [confluent_kafka.TopicPartition(*one.topic_partition) for one in partitions]
