"""The publisher's Kafka producer: the queue that events go into, and the thread that serves it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

import confluent_kafka

from hypervisor_producers.kafka_producer.batching import SMALL_BYTES, Record, RecordBatch
from hypervisor_producers.kafka_producer.delivery_reports import DeliveryReports
from hypervisor_producers.kafka_producer.librdkafka import is_fatal, queue_bound
from hypervisor_producers.kafka_producer.owned_producer import (
    PURGE_SECONDS,
    OwnedProducer,
    ProducerFactory,
    fork_guard,
)
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["ProducerClient"]

log = logging.getLogger(__name__)

_DEFAULTS: Mapping[str, Any] = {
    "client.id": "hypervisor-publisher",
    "compression.type": "lz4",
    "linger.ms": 20,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 64 * 1024,
    # An outage of any length: what the queue holds is kept until the broker is back or close() gives up.
    "message.timeout.ms": 0,
}
_FIXED: Mapping[str, Any] = {
    "enable.idempotence": True,
    # Java's default; librdkafka's own is another, and two agents of one session must meet in one partition.
    "partitioner": "murmur2_random",
}

_TURN_SECONDS = 0.1
"""The longest that one turn of the serving thread waits for news, and so the delay of `flush` and `close`."""

_REST_SECONDS = 0.01
"""The pause between turns while events are batched, and after a turn that had news, unless the queue is filling up.
Acknowledgements come partition by partition; each would wake this thread, which then wants the interpreter."""


class ProducerClient:
    """An idempotent producer, and the thread that serves it.

    Only that thread polls, flushes, purges, replaces and releases the producer; other threads only put events into
    its queue. So delivery reports run on one thread, and the counts they write need no lock. After a fatal error
    (a broker that lost its log, say) the thread makes a new producer and sends what the old one still held.

    While there are many events, small ones are batched for a hundredth of a second (see `RecordBatch`) and then go
    into librdkafka's queue in one call. Larger ones go into it at once, and so do all while there are few.

    Raises:
        SettingError: librdkafka refuses the settings.
    """

    def __init__(
        self, settings: Mapping[str, Any], max_event_bytes: int, make_producer: ProducerFactory | None = None
    ) -> None:
        all_settings = {
            "message.max.bytes": max(1_000_000, max_event_bytes + 64 * 1024),
            **_DEFAULTS,
            **settings,
            **_FIXED,
        }
        self.enqueued = 0
        self.was_full = False
        """Whether `produce` has ever refused an event because the queue was full: a cheap test before `is_full`."""
        self._max_queued = queue_bound(all_settings["queue.buffering.max.messages"])
        self._limited = RateLimitedLog(log)
        # Reentrant: a signal handler may publish, flush or close while its own thread is inside.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._flushing = 0
        """The number of threads inside `flush`."""
        self._give_up_at: float | None = None
        """The time (`time.monotonic`) at which the remaining events fail; None until `close`."""
        self._has_ended = False
        self._reports = DeliveryReports(self._limited)
        self._batch = RecordBatch(time.monotonic())
        self._producer = OwnedProducer(all_settings, self._limited, make_producer)
        threading.Thread(target=self._serve, name="hypervisor-publisher", daemon=True).start()

    def produce(self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, bytes] | None) -> bool:
        """Put an event into the queue; returns at once. False: the client is closed.

        Raises:
            BufferError: The queue is full.
            confluent_kafka.KafkaException: librdkafka refuses the event.
        """
        with self._lock:
            report = self._reports[topic]
            batch = self._batch
            if batch.capacity_left > 0 and not headers and key is not None and len(key) + len(value) <= SMALL_BYTES:
                # No call in between, so that no signal handler comes between an event and its count.
                batch.capacity_left -= 1
                self.enqueued += 1
                batch.records.append((topic, value, key, -1, report))
                return True
            if self._give_up_at is not None:
                return False
            record: Record = (topic, value, key, -1, report)
            self._produce_now((*record, None, 0, list(headers.items())) if headers else record)
        return True

    @property
    def queued(self) -> int:
        """The number of events that are neither acknowledged nor given up."""
        return self.enqueued - self._reports.delivered - self._reports.failed

    @property
    def is_full(self) -> bool:
        """Whether `produce` has refused an event because the queue was full, and would refuse any event now."""
        return self.was_full and self.queued >= self._max_queued

    def counts(self) -> tuple[int, int, int]:
        """The numbers of events enqueued, delivered and failed, at one moment."""
        with self._lock:
            return self.enqueued, self._reports.delivered, self._reports.failed

    def offsets(self) -> dict[tuple[str, int], int]:
        """Per topic and partition, the offset after the last acknowledged event."""
        return self._reports.next_offsets()

    def flush(self, timeout: float) -> int:
        """Wait for acknowledgements, at most `timeout` seconds. Returns how many are still missing."""
        with self._lock:
            self._flushing += 1
            try:
                self._push()
                self._changed.wait_for(lambda: self.queued <= 0, min(timeout, threading.TIMEOUT_MAX))
            finally:
                self._flushing -= 1
            return self.queued

    def close(self, timeout: float) -> None:
        """Take no more events, flush for `timeout` seconds, fail the rest, and release the producer."""
        give_up_at = time.monotonic() + min(timeout, threading.TIMEOUT_MAX / 2)
        with self._lock:
            if self._give_up_at is None or give_up_at < self._give_up_at:
                self._give_up_at = give_up_at
            self._batch.limit_capacity(0)
            self._changed.notify_all()
            # A name server may hold the thread up; closing doesn't wait for that.
            patience = max(0.0, give_up_at - time.monotonic()) + _TURN_SECONDS + 2 * PURGE_SECONDS
            self._changed.wait_for(lambda: self._has_ended, patience)

    def _produce_now(self, record: Record) -> None:
        """Put a record into librdkafka's queue, behind the batch. Called in the lock; raises as `produce`."""
        batch = self._batch
        if batch.is_pushing:
            self.enqueued += 1
            batch.records.append(record)
            return
        try:
            if (refusal := self._push()) is not None:
                raise refusal
            # Counted first: an acknowledgement must never be ahead of its event. Taken back for produce's own
            # errors only: what a signal handler raises may come after the event is in the queue.
            self.enqueued += 1
            try:
                self._producer.current.produce(*record)
            except (BufferError, confluent_kafka.KafkaException, TypeError, ValueError):
                self.enqueued -= 1
                raise
        except BufferError:
            self.was_full = True
            raise
        except confluent_kafka.KafkaException:
            batch.was_refused = True
            raise
        batch.limit_capacity(self._max_queued - self.queued)

    def _push(self) -> Exception | None:
        """Hand over the batch, in the lock. Returns the error if some of it has to stay, else None."""
        batch = self._batch
        while batch.records and not batch.is_pushing:
            try:
                batch.push(self._producer.current.produce)
            except BufferError as error:
                return error
            except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
                batch.was_refused = True
                if is_fatal(error):
                    return error
                refused = batch.records[0]
                # No call in between, as above.
                batch.records = batch.records[1:]
                self._reports.failed += 1
                self._limited.log(logging.WARNING, "refused", "An event for %s was refused: %s", refused[0], error)
        return None

    def _serve(self) -> None:
        while self._give_up_at is None:
            self._turn(_TURN_SECONDS, hurry=self._flushing > 0)
        while self.queued > 0 and (left := self._give_up_at - time.monotonic()) > 0:
            self._turn(min(left, _TURN_SECONDS), hurry=True)
        self._reports.is_final = True
        self._producer.drain()
        with self._lock:
            # Without this, a thread of librdkafka that is held up would make the counts not add up.
            self._reports.failed += max(0, self.queued)
            self._reports.unsent.clear()
            self._batch.records = []
            self._has_ended = True
            self._changed.notify_all()
        self._producer.release()

    def _turn(self, seconds: float, *, hurry: bool) -> None:
        """Serve delivery reports for at most `seconds`. In a hurry, librdkafka sends without its linger."""
        fatal = None
        try:
            self._turn_batch_over()
            is_filling_up = self.queued > self._max_queued // 2
            if hurry:
                self._producer.current.flush(seconds)
            elif self._batch.is_on:
                if not is_filling_up:
                    time.sleep(_REST_SECONDS)  # the batch grows meanwhile
                self._producer.current.poll(_REST_SECONDS if is_filling_up else 0)
            elif self._producer.current.poll(seconds) and not is_filling_up:
                time.sleep(_REST_SECONDS)  # so that more news comes together; `flush` no longer waits here
        except confluent_kafka.KafkaException as error:
            # Not by error_cb: confluent-kafka raises fatal errors from here.
            fatal = error.args[0]
        except Exception as error:  # noqa: BLE001 - this thread must live, whatever a callback met
            self._limited.log(logging.ERROR, "serving", "Serving Kafka's answers failed.", error=error)
        if fatal is not None or self._reports.unsent:
            self._take_over(fatal)
        if self._flushing:
            with self._lock:
                self._changed.notify_all()

    def _turn_batch_over(self) -> None:
        """Hand over the batch of the last turn, and decide whether batching goes on."""
        with self._lock:
            self._push()
            self._batch.decide(time.monotonic(), self.enqueued)
            self._batch.limit_capacity(0 if self._give_up_at is not None else self._max_queued - self.queued)

    def _take_over(self, fatal: confluent_kafka.KafkaError | None) -> None:
        """Replace a producer that can send no more, and send what it held.

        Events that were on their way may so arrive twice; their event ids tell. New events are refused meanwhile.
        """
        reason = "it lost its place in the log" if fatal is None else fatal.str()
        self._limited.log(
            logging.ERROR, "replaced", "The Kafka producer failed for good and is replaced: %s", reason
        )
        self._producer.drain()
        fresh = self._producer.make_next(self._reports.delivered, self._closes_within)
        with self._lock:
            unsent, self._reports.unsent = self._reports.unsent, []
            if fresh is None:
                self._reports.failed += len(unsent)
                return
            stopped, self._producer.current = self._producer.current, fresh
            # Still in the lock: events that come from now on go after these.
            for message in unsent:
                self._send_again(message)
        with fork_guard():
            del stopped

    def _closes_within(self, seconds: float) -> bool:
        with self._lock:
            return self._changed.wait_for(lambda: self._give_up_at is not None, seconds)

    def _send_again(self, message: confluent_kafka.Message) -> None:
        topic = str(message.topic())
        try:
            self._producer.current.produce(
                topic,
                message.value(),
                message.key(),
                on_delivery=self._reports[topic],
                headers=message.headers(),
            )
        except (BufferError, confluent_kafka.KafkaException):
            self._reports.failed += 1
