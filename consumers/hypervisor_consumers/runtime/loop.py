"""The consumer loop: what a copy of a service does from its start until it is told to stop."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.ingest import RecordIngest
from hypervisor_consumers.runtime.kafka.broker_monitor import BrokerMonitor
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.message_grouping import by_topic_partition, each
from hypervisor_consumers.runtime.ops.dead_letter_rate import DeadLetterRate
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.processor import Processor, TopicPartition
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import KafkaError, OutputUnavailable
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["HELD_BACK", "ConsumerLoop"]

log = logging.getLogger(__name__)

BATCH = 1000
READ_WITHIN = 0.02
"""Seconds that a read takes at most: it waits for the whole of a batch, also where no more will come, and a commit
that is due waits for it."""
NOTHING_CAME_AFTER = 10.0
"""Seconds in the group, Kafka answering, after which a copy without partitions is one that gets none for now."""

HELD_BACK = "commit"
"""The health's trouble while reading waits for a commit."""

_TROUBLE_LASTS = 60.0


class ConsumerLoop:
    """Reads topics as one member of a group, and drives a processor.

    What the processor can't make safe, and a registry that doesn't answer, are waited for: reading stops, the group
    is kept, `/readyz` says so.

    Args:
        kafka: Where the clients come from.
        settings: The consumer's.
        topics: Full names of what is read; `row_topics` among them hold rows of public tables, not events.
        needed: Topics that must be there besides.
        taker: Takes what is read of live partitions.
        commit_interval: Seconds.
        chance: Numbers from 0 to 1, so that copies that wait for the same thing don't try together.
        between_turns: Called over and over, whenever nothing is half done.
    """

    def __init__(
        self,
        *,
        kafka: ClientFactory,
        settings: Mapping[str, Any],
        topics: Sequence[str],
        row_topics: Collection[str] = (),
        needed: Sequence[str] = (),
        processor: Processor,
        ingest: RecordIngest,
        health: Health,
        runtime_metrics: RuntimeMetrics,
        dead_letter_rate: DeadLetterRate,
        broker_monitor: BrokerMonitor,
        commit_interval: float,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        between_turns: Callable[[], None] = lambda: None,
    ) -> None:
        self._kafka = kafka
        self._settings = settings
        self._topics = list(topics)
        self._row_topics = frozenset(row_topics)
        self._needed = [*topics, *needed]
        self._processor = processor
        self._ingest = ingest
        self._health = health
        self._runtime_metrics = runtime_metrics
        self._dead_letter_rate = dead_letter_rate
        self._commit_interval = commit_interval
        self._clock = clock
        self._chance = chance
        self._between_turns = between_turns
        self._limited = RateLimitedLog(log)
        self._broker_monitor = broker_monitor
        self._assigned: set[TopicPartition] = set()
        self._live: set[TopicPartition] = set()
        """The assigned partitions that are read; the others are being restored."""
        self._commit_wait: Backoff | None = None
        self._next_commit = 0.0
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
        self._consumer = self._kafka.consumer({**self._settings, "error_cb": self._connection_trouble})
        self._processor.start(self._consumer)
        self._ingest.start(self._consumer)

    def subscribe(self) -> None:
        """Join the group."""
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
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
            missing = [topic for topic in self._needed if topic not in known]
            if not missing:
                self._health.better("topics")
                return True
            sentence = f"{missing[0]} doesn't exist; run `hypervisor-telemetry topics apply`."
            self._health.trouble("topics", sentence)
            self._limited.log(logging.WARNING, "topics", "%s", sentence)
            self._consumer.poll(0.5)
        return False

    def turn(self) -> None:
        """Once around: read, take, commit if it is time."""
        messages = self._consumer.consume(BATCH, timeout=READ_WITHIN)
        self._health.turned()
        if any(each("error", messages)):
            messages = [message for message in messages if self._is_read(message)]
        for topic_partition, batch in by_topic_partition(messages).items():
            if topic_partition in self._live:
                self._ingest.take(topic_partition, batch)
        self._begin_reading(self._processor.ready())
        due = self._ingest.due()
        # While commits are waited for too, resuming is left to them.
        if due and self._commit_wait is None:
            self._consumer.resume([confluent_kafka.TopicPartition(*topic_partition) for topic_partition in due])
        if self._clock() >= self._next_commit:
            self._commit()
        self._look_around()

    def _is_read(self, message: Any) -> bool:
        """Whether it came from a partition; else it is an event of the client, which is dealt with."""
        error = message.error()
        if error is None or error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
            return True
        self._reading_trouble(message.topic(), error)
        return False

    def _commit(self, *, is_last: bool = False) -> None:
        now = self._clock()
        if self._commit_wait is not None and now < self._commit_wait.until and not is_last:
            self._read_again(self._processor.keep())
            return
        self._next_commit = now + self._commit_interval
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
            self._read_again(again)
            self._hold("What was read could not be committed, and is read again; nothing is lost.")
        elif self._commit_wait is not None:
            self._commit_wait = None
            self._health.better(HELD_BACK)
            self._consumer.resume(self._readable())

    def _hold(self, sentence: str, at_least: float = 0.0) -> None:
        """Stop reading until a commit goes through; it is tried after so many seconds, or more."""
        self._health.trouble(HELD_BACK, sentence)
        self._limited.log(logging.WARNING, "commit", "%s", sentence)
        now = self._clock()
        if self._commit_wait is None:
            self._commit_wait = Backoff(now)
            self._consumer.pause(
                [confluent_kafka.TopicPartition(*topic_partition) for topic_partition in self._live]
            )
        self._commit_wait.again(now, at_least=at_least, spread=self._chance())

    def _read_again(self, topic_partitions: Mapping[TopicPartition, int | None]) -> None:
        for topic_partition, offset in topic_partitions.items():
            if offset is None:
                self._ingest.forget(topic_partition)
                self._live.discard(topic_partition)
                self._consumer.incremental_unassign([confluent_kafka.TopicPartition(*topic_partition)])
            else:
                self._ingest.read_again(topic_partition, offset)

    def _begin_reading(self, restored: Mapping[TopicPartition, int]) -> None:
        if restored:
            starts = [
                confluent_kafka.TopicPartition(*topic_partition, offset)
                for topic_partition, offset in restored.items()
            ]
            self._consumer.incremental_assign(starts)
            self._live.update(restored)
            for topic_partition, offset in restored.items():
                self._ingest.begin(topic_partition, offset)
            # A partition that was paused when it went comes back so.
            if self._commit_wait is None:
                self._consumer.resume(starts)
            else:
                self._consumer.pause(starts)
            log.info("%d of %d partitions are restored", len(self._live), len(self._assigned))

    def _readable(self) -> list[confluent_kafka.TopicPartition]:
        return [
            confluent_kafka.TopicPartition(*topic_partition)
            for topic_partition in self._live - self._ingest.waiting
        ]

    def _look_around(self) -> None:
        self._broker_monitor.topic_partitions = [
            topic_partition for topic_partition in self._live if topic_partition.topic not in self._row_topics
        ]
        self._say("restore", self._processor.trouble)
        self._say("flood", self._dead_letter_rate.sentence)
        if not self._broker_monitor.answers:
            self._waiting_since = self._clock()
        elif not self._joined:
            # With KIP-848 a member that gets nothing is told nothing.
            self._joined = self._clock() - self._waiting_since > NOTHING_CAME_AFTER
        if self._joined and self._live == self._assigned and self._processor.is_serving:
            self._health.became_ready()

    def _say(self, subject: str, sentence: str) -> None:
        if sentence:
            # A flood is over when good records come; there may be none.
            self._health.trouble(subject, sentence, lasting=_TROUBLE_LASTS)
        else:
            self._health.better(subject)

    def _on_assign(self, consumer: Any, partitions: list[confluent_kafka.TopicPartition]) -> None:
        topic_partitions = [TopicPartition(one.topic, one.partition) for one in partitions]
        # Each is assigned to the client when it is restored and its offset known. Assigned at once, paused, and
        # sought later, one in some hundred began at the end of its log instead.
        consumer.incremental_assign([])
        self._assigned.update(topic_partitions)
        self._runtime_metrics.rebalanced(
            came=[
                topic_partition
                for topic_partition in topic_partitions
                if topic_partition.topic not in self._row_topics
            ]
        )
        self._processor.assigned(topic_partitions)
        self._joined = True
        self._health.better("group")
        log.info("%d partitions came, %d in all", len(topic_partitions), len(self._assigned))

    def _on_revoke(self, consumer: Any, partitions: list[confluent_kafka.TopicPartition]) -> None:
        self._commit(is_last=True)
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Any, partitions: list[confluent_kafka.TopicPartition]) -> None:
        topic_partitions = [TopicPartition(one.topic, one.partition) for one in partitions]
        self._processor.revoked(topic_partitions)
        consumer.incremental_unassign(
            [
                confluent_kafka.TopicPartition(*topic_partition)
                for topic_partition in topic_partitions
                if topic_partition in self._live
            ]
        )
        for topic_partition in topic_partitions:
            self._assigned.discard(topic_partition)
            self._live.discard(topic_partition)
            self._ingest.forget(topic_partition)
        self._runtime_metrics.rebalanced(went=topic_partitions)
        log.info("%d partitions went, %d left", len(topic_partitions), len(self._assigned))

    def _connection_trouble(self, error: Any) -> None:
        """What a connection met. librdkafka connects again by itself; whether Kafka answers, the watch says."""
        self._limited.log(logging.INFO, error.name(), "Kafka: %s", error.str())
        if error.code() == confluent_kafka.KafkaError._ALL_BROKERS_DOWN:
            # Also said when the only connection was closed because nobody used it.
            self._broker_monitor.look()
        else:
            self._broker_monitor.heard(error.str())

    def _reading_trouble(self, topic: str | None, error: Any) -> None:
        """What came in place of a record."""
        if error.code() == confluent_kafka.KafkaError._FATAL:
            if _UNSUPPORTED in error.str():
                raise KafkaError(
                    "This Kafka doesn't know the group protocol of KIP-848; set KAFKA_GROUP_PROTOCOL=classic."
                )
            raise KafkaError(f"Kafka refused for good: {error.str()}.")
        sentence = f"Kafka is in trouble: {error.str()}."
        if topic is None:
            self._health.trouble("group", sentence, lasting=_TROUBLE_LASTS)
        else:
            self._health.trouble(topic, sentence)
        self._limited.log(logging.WARNING, error.name(), "Kafka: %s", error.str())


_UNSUPPORTED = confluent_kafka.KafkaError(confluent_kafka.KafkaError.UNSUPPORTED_VERSION).str()
