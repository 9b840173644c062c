"""The consumer loop: what a copy of a service does from its start until it is told to stop."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import confluent_kafka
from confluent_kafka import Consumer, KafkaException, TopicPartition

from hypervisor_consumers.runtime.health import Health
from hypervisor_consumers.runtime.metrics import Ledger
from hypervisor_consumers.runtime.positions import find_positions
from hypervisor_consumers.runtime.processor import Place, Processor
from hypervisor_consumers.runtime.watch import BrokerWatch
from hypervisor_schemas.codec import EventDecoder
from hypervisor_schemas.errors import KafkaError, OutputUnavailable, RecordError, RegistryUnavailable, SettingError
from hypervisor_schemas.limited_log import LimitedLog

__all__ = ["ConsumerLoop"]

log = logging.getLogger(__name__)

BATCH = 500
NOTHING_CAME_AFTER = 10.0
"""Seconds in the group, Kafka answering, after which a copy without partitions is one that gets none for now."""

_ASSIGNMENT_WITHIN = 180.0
_GROUP_TROUBLE_LASTS = 60.0
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 5.0

T = TypeVar("T")


class ConsumerLoop:
    """Reads topics as one member of a group, decodes, counts, and drives a processor.

    A record that can't be used is counted by reason, logged (the first of each kind at once, with its place),
    and passed over. What the processor can't deliver, and a registry that doesn't answer, are waited for:
    reading stops, the group is kept, `/readyz` says so.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, Any],
        topics: Sequence[str],
        processor: Processor,
        decoder: EventDecoder,
        health: Health,
        commit_interval: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ledger = Ledger()
        self._settings = settings
        self._topics = list(topics)
        self._processor = processor
        self._decoder = decoder
        self._health = health
        self._commit_interval = commit_interval
        self._clock = clock
        self._limited = LimitedLog(log)
        self._watch = BrokerWatch(settings, health, clock)
        self._assigned: set[Place] = set()
        self._committed: dict[Place, int] = {}
        self._waits: dict[Place, _Wait] = {}
        self._delivery_wait: _Wait | None = None
        self._next_commit = 0.0
        self._joined = False
        self._waiting_since = clock()
        self._should_stop: Callable[[], bool] = lambda: False

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Run until `should_stop`; then deliver, commit and leave the group.

        Raises:
            SettingError: librdkafka refuses the settings.
            KafkaError: Kafka refused for good.
        """
        self._should_stop = should_stop
        try:
            self._consumer = Consumer(
                {**self._settings, "error_cb": self._connection_trouble, "on_commit": self._on_commit}
            )
        except KafkaException as error:
            raise SettingError("KAFKA_*", f"settings don't go together: {error.args[0].str()}.") from None
        try:
            if self._wait_for_topics():
                self._consumer.subscribe(
                    self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
                )
                self._waiting_since = self._clock()
            while not should_stop():
                self._turn()
            self._deliver_and_commit(is_last=True)
        finally:
            # With nobody there to tell, leaving the group would wait for its own timeout.
            if self._watch.answers:
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
                self._watch.lost(error)
                continue
            self._watch.found()
            missing = [topic for topic in self._topics if topic not in known]
            if not missing:
                self._health.better("topics")
                return True
            sentence = f"{missing[0]} doesn't exist; run `hypervisor-telemetry topics apply`."
            self._health.trouble("topics", sentence)
            self._limited.log(logging.WARNING, "topics", "%s", sentence)
            self._consumer.poll(0.5)
        return False

    def _turn(self) -> None:
        messages = self._consumer.consume(BATCH, timeout=0.1)
        self._health.turned()
        by_place: dict[Place, list[Any]] = {}
        for message in messages:
            error = message.error()
            if error is None or error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                by_place.setdefault(_place_of(message), []).append(message)
            else:
                self._reading_trouble(message.topic(), error)
        for place, batch in by_place.items():
            if place in self._assigned:
                self._take(place, batch)
        self._resume_after_waits()
        if self._clock() >= self._next_commit:
            self._deliver_and_commit()
        self._watch.look()
        self._look_around()

    def _take(self, place: Place, batch: Iterable[Any]) -> None:
        self._health.better(place.topic)
        results: Counter[str] = Counter()
        position: int | None = None
        for message in batch:
            offset = message.offset()
            if message.error() is not None:
                self._processor.advanced(place, offset)
                position = offset
                continue
            try:
                event = self._decoder.decode(message.value())
                result = self._processor.apply(place, offset, event).value
            except RecordError as error:
                result = error.reason
                self._processor.advanced(place, offset + 1)
                self._limited.log(
                    logging.WARNING,
                    error.reason,
                    "A record was passed over (%s), topic %s, partition %d, offset %d: %s",
                    error.reason,
                    *place,
                    offset,
                    error,
                )
            except RegistryUnavailable as error:
                self._wait_with(place, offset, error)
                break
            results[result] += 1
            position = offset + 1
            if self._waits:
                self._end_wait(place)
        if position is not None:
            self.ledger.add(place, results, position)

    def _wait_with(self, place: Place, offset: int, error: Exception) -> None:
        """Stop at this record and try it again after a while."""
        sentence = f"{error} Partitions with records that need it wait."
        self._health.trouble("registry", sentence)
        self._limited.log(logging.WARNING, "registry", "%s", sentence)
        wait = self._waits.setdefault(place, _Wait(self._clock()))
        wait.again(self._clock())
        self._consumer.seek(TopicPartition(*place, offset))
        self._consumer.pause([TopicPartition(*place)])

    def _resume_after_waits(self) -> None:
        now = self._clock()
        for place, wait in self._waits.items():
            if wait.is_pausing and now >= wait.until:
                wait.is_pausing = False
                # While the output is down too, resuming is left to the delivery.
                if self._delivery_wait is None:
                    self._consumer.resume([TopicPartition(*place)])

    def _end_wait(self, place: Place) -> None:
        if self._waits.pop(place, None) is not None and not self._waits:
            self._health.better("registry")

    def _deliver_and_commit(self, *, is_last: bool = False) -> None:
        now = self._clock()
        if self._delivery_wait is not None and now < self._delivery_wait.until and not is_last:
            return
        self._next_commit = now + self._commit_interval
        try:
            offsets = self._processor.deliver()
        except (OSError, OutputUnavailable) as error:
            sentence = f"The output doesn't take what was read ({error}). It is tried again; nothing is lost."
            self._health.trouble("output", sentence)
            self._limited.log(logging.WARNING, "output", "%s", sentence)
            if self._delivery_wait is None:
                self._delivery_wait = _Wait(now)
                self._consumer.pause([TopicPartition(*place) for place in self._assigned])
            self._delivery_wait.again(now)
            return
        if self._delivery_wait is not None:
            self._delivery_wait = None
            self._health.better("output")
            waiting = {place for place, wait in self._waits.items() if wait.is_pausing}
            self._consumer.resume([TopicPartition(*place) for place in self._assigned - waiting])
        self._commit(offsets, is_last=is_last)

    def _commit(self, offsets: Mapping[Place, int], *, is_last: bool) -> None:
        new = {place: offset for place, offset in offsets.items() if self._committed.get(place) != offset}
        if not new:
            return
        positions = [TopicPartition(*place, offset) for place, offset in new.items()]
        self._committed.update(new)
        try:
            if is_last and self._watch.answers:
                self._on_commit(None, self._consumer.commit(offsets=positions, asynchronous=False) or [])
            else:
                self._consumer.commit(offsets=positions, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], positions)

    def _on_commit(self, error: Any, positions: list[TopicPartition]) -> None:
        """An offset that was not committed is tried again at the next interval.

        What is delivered twice because of it is the same twice: outputs have ids of their own.
        """
        for position in positions:
            reason = error or position.error
            if reason is not None:
                self._committed.pop(Place(position.topic, position.partition), None)
                self._limited.log(logging.WARNING, "commit", "Offsets were not committed: %s", reason.str())

    def _look_around(self) -> None:
        restored = True
        for place in self._assigned:
            is_restored = self._processor.is_restored(place)
            restored = restored and is_restored
            _low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            if high >= 0:
                self.ledger.seen(place, high, is_restored=is_restored)
        if not self._watch.answers:
            self._waiting_since = self._clock()
        elif not self._joined:
            # With KIP-848 a member that gets nothing is told nothing.
            self._joined = self._clock() - self._waiting_since > NOTHING_CAME_AFTER
        if self._joined and restored:
            self._health.became_ready()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = []
        positions = self._until_answered(lambda: find_positions(consumer, self._watch.admin, partitions))
        for known in positions or ():
            begin = self._until_answered(partial(self._processor.assigned, *known))
            if begin is None:
                break
            self.ledger.opened(known.place, begin, known.end)
            self._assigned.add(known.place)
            starts.append(TopicPartition(*known.place, begin))
        consumer.incremental_assign(starts)
        # A partition that was paused when it went comes back so.
        if self._delivery_wait is None:
            consumer.resume(starts)
        else:
            consumer.pause(starts)
        self._joined = True
        self._health.better("group")
        log.info("%d partitions came, %d in all", len(partitions), len(self._assigned))

    def _until_answered(self, question: Callable[[], T]) -> T | None:
        """Ask Kafka or the output until it answers: an assignment can't be begun without.

        Returns:
            The answer; None if the service was told to stop.

        Raises:
            KafkaError: No answer in three minutes.
        """
        give_up_at = self._clock() + _ASSIGNMENT_WITHIN
        while not self._should_stop():
            self._health.turned()
            try:
                answer = question()
            except (KafkaException, TimeoutError) as error:
                self._watch.lost(error)
                self._watch.renew()
            except OutputUnavailable as error:
                self._health.trouble("assignment", f"The output can't be asked where it stands ({error}).")
            else:
                self._watch.found()
                self._health.better("assignment")
                return answer
            if self._clock() > give_up_at:
                raise KafkaError("A new assignment could not be begun in three minutes; another copy has to.")
            time.sleep(0.2)
        return None

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._deliver_and_commit(is_last=True)
        self._on_lost(consumer, partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            place = Place(partition.topic, partition.partition)
            self._assigned.discard(place)
            self._end_wait(place)
            self._committed.pop(place, None)
            self._processor.revoked(place)
            self.ledger.closed(place)
        consumer.incremental_unassign(partitions)
        log.info("%d partitions went, %d left", len(partitions), len(self._assigned))

    def _connection_trouble(self, error: Any) -> None:
        """What a connection met. librdkafka connects again by itself; whether Kafka answers, the watch says."""
        self._limited.log(logging.INFO, error.name(), "Kafka: %s", error.str())
        if error.code() == confluent_kafka.KafkaError._ALL_BROKERS_DOWN:
            # Also said when the only connection was closed because nobody used it.
            self._watch.look(soon=True)
        else:
            self._watch.heard(error.str())

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
            self._health.trouble("group", sentence, lasting=_GROUP_TROUBLE_LASTS)
        else:
            self._health.trouble(topic, sentence)
        self._limited.log(logging.WARNING, error.name(), "Kafka: %s", error.str())


_UNSUPPORTED = confluent_kafka.KafkaError(confluent_kafka.KafkaError.UNSUPPORTED_VERSION).str()


def _place_of(message: Any) -> Place:
    return Place(message.topic(), message.partition())


class _Wait:
    """Waiting before another try, each time twice as long."""

    def __init__(self, now: float) -> None:
        self.until = now
        self.is_pausing = False
        self._seconds = _FIRST_WAIT

    def again(self, now: float) -> None:
        self.until = now + self._seconds
        self.is_pausing = True
        self._seconds = min(2 * self._seconds, _LONGEST_WAIT)
