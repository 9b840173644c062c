"""One Kafka producer of one process: it is never used, nor taken down, in a forked child."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias
from weakref import WeakSet

import confluent_kafka

from hypervisor_producers.kafka_producer.batching import SMALL_BYTES, Gathered, Record
from hypervisor_producers.kafka_producer.librdkafka import bound, is_fatal, quiet_logger
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import SettingError
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
# Errors of the producer, not of the event: another producer can send it.
_WORTH_ANOTHER_PRODUCER = frozenset(
    {
        confluent_kafka.KafkaError._PURGE_QUEUE,
        confluent_kafka.KafkaError._PURGE_INFLIGHT,
        confluent_kafka.KafkaError._FATAL,
        confluent_kafka.KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        confluent_kafka.KafkaError.UNKNOWN_PRODUCER_ID,
        confluent_kafka.KafkaError.INVALID_PRODUCER_EPOCH,
    }
)

# How long one turn of the serving thread waits for news, and so how long flush() and close() may go unheard.
_TURN = 0.1
# Between turns while events are gathered, and after one that had news, unless the queue is filling up:
# acknowledgements come partition by partition, and each would wake this thread, which then wants the interpreter.
_REST = 0.01
# Purged messages come back from librdkafka's own threads; nothing waits for the network here.
_PURGE_SECONDS = 0.5


DeliveryReport: TypeAlias = Callable[[Any, Any], None]
"""Gets the error, or None, and the message."""


class ProducerClient:
    """An idempotent producer, and the thread that serves it.

    Only that thread polls, flushes, purges, replaces and lets go of the producer; the others only put events into
    its queue. So callbacks run on one thread, and the counts they write need no lock. After a fatal error
    (a broker that lost its log, say) the thread makes a new producer and sends what the old one still held.

    While events are many, small ones are gathered for a hundredth of a second (see `Gathered`) and then go into
    librdkafka's queue in one call; larger ones, and all while events are few, go into it at once.

    Raises:
        SettingError: librdkafka refuses the settings.
    """

    def __init__(self, settings: Mapping[str, Any], max_event_bytes: int) -> None:
        self.enqueued = 0
        self.delivered = 0
        self.failed = 0
        self._last_offsets: dict[str, dict[int, int]] = {}
        self._reports: dict[str, DeliveryReport] = {}
        self._limited = RateLimitedLog(log)
        # Reentrant: a signal handler may publish, flush or close while its own thread is inside.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._flushing = 0
        self._give_up_at: float | None = None
        self._gave_up = False
        self._ended = False
        self._unsent: list[Any] = []
        self._backoff = Backoff(first_seconds=1.0, longest_seconds=60.0)
        self._delivered_before = 0
        self._settings = {
            "message.max.bytes": max(1_000_000, max_event_bytes + 64 * 1024),
            **_DEFAULTS,
            **settings,
            **_FIXED,
            "error_cb": self._trouble,
            "logger": quiet_logger(),
        }
        self._most = bound(self._settings["queue.buffering.max.messages"])
        self.was_full = False
        """Whether `produce` has ever refused an event for want of room; for a look before `is_full`."""
        self._gathered = Gathered(time.monotonic())
        self._producer: Any = None
        _clients.add(self)
        try:
            with _fork_guard:
                self._producer = confluent_kafka.Producer(self._settings)
        except confluent_kafka.KafkaException as error:
            raise SettingError("KAFKA_*", f"settings don't go together: {error.args[0].str()}.") from None
        self._thread = threading.Thread(target=self._serve, name="hypervisor-publisher", daemon=True)
        self._thread.start()

    def produce(self, topic: str, key: bytes | None, value: bytes, headers: Mapping[str, bytes] | None) -> bool:
        """Into the queue; returns at once. False: the client is closed.

        Raises:
            BufferError: The queue is full.
            confluent_kafka.KafkaException: librdkafka refuses it.
        """
        with self._lock:
            report = self._reports.get(topic) or self._report_of(topic)
            gathered = self._gathered
            if gathered.room > 0 and not headers and key is not None and len(key) + len(value) <= SMALL_BYTES:
                # No call in between, so that no signal handler comes between an event and its count.
                gathered.room -= 1
                self.enqueued += 1
                gathered.records.append((topic, value, key, -1, report))
                return True
            if self._give_up_at is not None:
                return False
            record: Record = (topic, value, key, -1, report)
            self._produce_now((*record, None, 0, list(headers.items())) if headers else record)
        return True

    def _produce_now(self, record: Record) -> None:
        """After what was gathered. In the lock; raises as `produce`."""
        gathered = self._gathered
        if gathered.is_pushing:
            self.enqueued += 1
            gathered.records.append(record)
            return
        try:
            if (trouble := self._push()) is not None:
                raise trouble
            # Counted first: an acknowledgement must never be ahead of its event. Taken back for produce's own
            # errors only: what a signal handler raises may come after the event is in the queue.
            self.enqueued += 1
            try:
                self._producer.produce(*record)
            except (BufferError, confluent_kafka.KafkaException, TypeError, ValueError):
                self.enqueued -= 1
                raise
        except BufferError:
            self.was_full = True
            raise
        except confluent_kafka.KafkaException:
            gathered.was_refused = True
            raise
        gathered.make_room(self._most - self.queued)

    def _push(self) -> Exception | None:
        """Hand over what was gathered. In the lock. Why some of it has to stay, or None."""
        gathered = self._gathered
        while gathered.records and not gathered.is_pushing:
            try:
                gathered.push(self._producer.produce)
            except BufferError as error:
                return error
            except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
                gathered.was_refused = True
                if is_fatal(error):
                    return error
                refused = gathered.records[0]
                # No call in between, as above.
                gathered.records = gathered.records[1:]
                self.failed += 1
                self._limited.log(logging.WARNING, "refused", "An event for %s was refused: %s", refused[0], error)
        return None

    def counts(self) -> tuple[int, int, int]:
        """Enqueued, delivered, failed, as they were at one moment."""
        with self._lock:
            return self.enqueued, self.delivered, self.failed

    @property
    def queued(self) -> int:
        """How many are neither acknowledged nor given up."""
        return self.enqueued - self.delivered - self.failed

    @property
    def is_full(self) -> bool:
        """Whether `produce` has refused an event for want of room, and would refuse whatever it is given now."""
        return self.was_full and self.queued >= self._most

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

    def offsets(self) -> dict[tuple[str, int], int]:
        """Per topic and partition, the offset after the last acknowledged event."""
        return {
            (topic, partition): offset + 1
            for topic, last in list(self._last_offsets.items())
            for partition, offset in last.copy().items()
        }

    def close(self, timeout: float) -> None:
        """Take no more events, flush for `timeout` seconds, fail what remains, let go of the connection."""
        give_up_at = time.monotonic() + min(timeout, threading.TIMEOUT_MAX / 2)
        with self._lock:
            if self._give_up_at is None or give_up_at < self._give_up_at:
                self._give_up_at = give_up_at
            self._gathered.make_room(0)
            self._changed.notify_all()
            # The thread may be held up by a name server; nobody who closes has to wait for that.
            patience = max(0.0, give_up_at - time.monotonic()) + _TURN + 2 * _PURGE_SECONDS
            self._changed.wait_for(lambda: self._ended, patience)

    def _abandon(self) -> None:
        if self._producer is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._producer))

    def _serve(self) -> None:
        while self._give_up_at is None:
            self._turn(_TURN, hurry=self._flushing > 0)
        while self.queued > 0 and (left := self._give_up_at - time.monotonic()) > 0:
            self._turn(min(left, _TURN), hurry=True)
        self._gave_up = True
        self._drain()
        with self._lock:
            # Without this, a thread of librdkafka that is held up would make the counts not add up.
            self.failed += max(0, self.queued)
            self._unsent.clear()
            self._gathered.records = []
            self._ended = True
            self._changed.notify_all()
        # Here, on this thread: it waits for librdkafka's threads, which may be held up by a name server.
        with _fork_guard:
            self._producer = None

    def _turn(self, seconds: float, *, hurry: bool) -> None:
        """Serve callbacks for at most `seconds`; in a hurry, librdkafka sends without its linger."""
        fatal = None
        try:
            self._look_whether_to_gather()
            is_filling_up = self.queued > self._most // 2
            if hurry:
                self._producer.flush(seconds)
            elif self._gathered.is_on:
                if not is_filling_up:
                    time.sleep(_REST)
                self._producer.poll(_REST if is_filling_up else 0)
            elif self._producer.poll(seconds) and not is_filling_up:
                time.sleep(_REST)  # for more news to gather, see above; who hurries gets here no more
        except confluent_kafka.KafkaException as error:
            # Not by error_cb: confluent-kafka raises fatal errors from here.
            fatal = error.args[0]
        except Exception as error:  # noqa: BLE001 - this thread must live, whatever a callback met
            self._limited.log(logging.ERROR, "serving", "Serving Kafka's answers failed.", error=error)
        if fatal is not None or self._unsent:
            self._take_over(fatal)
        if self._flushing:
            with self._lock:
                self._changed.notify_all()

    def _look_whether_to_gather(self) -> None:
        """Hand over what was gathered since the last turn, and decide whether that goes on."""
        with self._lock:
            self._push()
            self._gathered.decide(time.monotonic(), self.enqueued)
            self._gathered.make_room(0 if self._give_up_at is not None else self._most - self.queued)

    def _drain(self) -> None:
        """Make librdkafka hand back what it holds, through the callbacks."""
        # confluent-kafka has this flag the wrong way round (2.15.1): False waits for librdkafka's threads, with the
        # interpreter's lock held. In a forked child they may never answer: glibc's getaddrinfo takes a lock that
        # another thread of the parent may have held.
        self._producer.purge(blocking=True)
        ends_at = time.monotonic() + _PURGE_SECONDS
        while len(self._producer) and (left := ends_at - time.monotonic()) > 0:
            try:
                self._producer.flush(left)
            except Exception as error:  # noqa: BLE001 - as in _turn
                self._limited.log(logging.ERROR, "serving", "Serving Kafka's answers failed.", error=error)

    def _take_over(self, fatal: Any) -> None:
        """Replace a producer that can send no more, and send what it held.

        What was on its way may so arrive twice; its event id tells. If nothing was delivered since the last time,
        wait first, 1, 2, 4 … 60 seconds: the reason seems to last. New events are refused meanwhile.
        """
        why = "it lost its place in the log" if fatal is None else fatal.str()
        self._limited.log(logging.ERROR, "replaced", "The Kafka producer failed for good and is replaced: %s", why)
        self._drain()
        nothing_since, self._delivered_before = self.delivered == self._delivered_before, self.delivered
        if not nothing_since:
            self._backoff.reset()
        fresh = self._fresh_producer(self._backoff.next_seconds() if nothing_since else 0.0)
        with self._lock:
            unsent, self._unsent = self._unsent, []
            if fresh is None:
                self.failed += len(unsent)
                return
            stopped, self._producer = self._producer, fresh
            # Still in the lock: events that come from now on go after these.
            for message in unsent:
                self._send_again(message)
        with _fork_guard:
            del stopped

    def _fresh_producer(self, pause_seconds: float) -> Any:
        """A new producer, after the pause; None if the client is closed in the pause."""
        while True:
            with self._lock:
                if pause_seconds and self._changed.wait_for(lambda: self._give_up_at is not None, pause_seconds):
                    return None
            try:
                with _fork_guard:
                    return confluent_kafka.Producer(self._settings)
            except confluent_kafka.KafkaException as error:
                self._limited.log(logging.ERROR, "no producer", "No Kafka producer: %s", error.args[0].str())
                self._backoff.exhaust()
                pause_seconds = self._backoff.next_seconds()

    def _send_again(self, message: Any) -> None:
        try:
            self._producer.produce(
                message.topic(),
                message.value(),
                message.key(),
                on_delivery=self._reports[message.topic()],
                headers=message.headers(),
            )
        except (BufferError, confluent_kafka.KafkaException):
            self.failed += 1

    def _report_of(self, topic: str) -> DeliveryReport:
        """What librdkafka calls for each event of this topic. A function per topic, as asking for it costs more."""
        last_offsets = self._last_offsets.setdefault(topic, {})

        def report(error: Any, message: Any) -> None:
            if error is not None:
                self._not_delivered(error, message)
                return
            self.delivered += 1
            # librdkafka doesn't know it where a broker has only said that it had the message already.
            if (offset := message.offset()) is not None:
                last_offsets[message.partition()] = offset

        return self._reports.setdefault(topic, report)

    def _not_delivered(self, error: Any, message: Any) -> None:
        if error.code() in _WORTH_ANOTHER_PRODUCER and not self._gave_up:
            self._unsent.append(message)
        else:
            self.failed += 1
            self._limited.log(
                logging.WARNING, error.name(), "An event for %s was not delivered: %s", message.topic(), error.str()
            )

    def _trouble(self, error: Any) -> None:
        self._limited.log(logging.WARNING, error.name(), "Kafka: %s", error.str())


_clients: WeakSet[ProducerClient] = WeakSet()

# Held while threads of librdkafka come or go: they take locks of OpenSSL then, and a child that is forked at that
# moment waits for one of them at its exit, for ever (seen in one of 500 forks right after a close()).
_fork_guard = threading.RLock()
_LONGEST_GUARD = 2.0


def _before_fork() -> None:
    _fork_guard.acquire(timeout=_LONGEST_GUARD)


def _after_fork_in_parent() -> None:
    # Not held if it was too long in coming.
    with suppress(RuntimeError):
        _fork_guard.release()


def _after_fork_in_child() -> None:
    global _fork_guard  # noqa: PLW0603 - whoever held it doesn't exist here
    _fork_guard = threading.RLock()
    # Neither do the threads of the parent's producers, and taking a producer down would wait for them: an extra
    # reference keeps the garbage collector and the interpreter's exit away from it for ever.
    for client in list(_clients):
        client._abandon()
    _clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
