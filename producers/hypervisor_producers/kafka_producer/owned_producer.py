"""The librdkafka producer that belongs to this process: made, replaced, and never touched in a forked child."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeAlias
from weakref import WeakSet

import confluent_kafka

from hypervisor_producers.kafka_producer.librdkafka import quiet_logger
from hypervisor_schemas.backoff import Backoff
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["PURGE_SECONDS", "OwnedProducer", "ProducerFactory", "fork_guard"]

PURGE_SECONDS = 0.5
"""The time that purged messages may take. They come back from librdkafka's own threads, without the network."""

ProducerFactory: TypeAlias = Callable[[dict[str, Any]], confluent_kafka.Producer]
"""Makes a `confluent_kafka.Producer`, or what behaves like one, from librdkafka's settings."""


class OwnedProducer:
    """The `current` producer, and how the next one is made after a fatal error.

    Args:
        settings: librdkafka's.
        limited: The log of what goes wrong.
        make_producer: Makes producers; librdkafka's by default.

    Raises:
        SettingError: librdkafka refuses the settings.
    """

    def __init__(
        self, settings: Mapping[str, Any], limited: RateLimitedLog, make_producer: ProducerFactory | None = None
    ) -> None:
        self.current: confluent_kafka.Producer
        """The producer; absent after `release`."""
        self._settings = {**settings, "error_cb": self._report, "logger": quiet_logger()}
        self._limited = limited
        self._make_producer = make_producer or confluent_kafka.Producer
        self._backoff = Backoff(first_seconds=1.0, longest_seconds=60.0)
        self._delivered_before = 0
        _owned_producers.add(self)
        try:
            self.current = self._make()
        except confluent_kafka.KafkaException as error:
            raise SettingError("KAFKA_*", f"settings don't go together: {error.args[0].str()}.") from None

    def drain(self) -> None:
        """Make librdkafka hand back what it holds, through the delivery reports."""
        # confluent-kafka has this flag the wrong way round (2.15.1): False waits for librdkafka's threads, with the
        # interpreter's lock held. In a forked child they may never answer: glibc's getaddrinfo takes a lock that
        # another thread of the parent may have held.
        self.current.purge(blocking=True)
        ends_at = time.monotonic() + PURGE_SECONDS
        while len(self.current) and (left := ends_at - time.monotonic()) > 0:
            try:
                self.current.flush(left)
            except Exception as error:  # noqa: BLE001 - the serving thread must live, whatever a callback met
                self._limited.log(logging.ERROR, "serving", "Serving Kafka's answers failed.", error=error)

    def make_next(self, delivered: int, closes_within: Callable[[float], bool]) -> confluent_kafka.Producer | None:
        """A new producer, after a pause if nothing was delivered since the last time; None if the client is closed.

        The pause is 1, 2, 4 … 60 seconds, since the reason seems to last.

        Args:
            delivered: The count of delivered events.
            closes_within: Waits so many seconds; returns whether the client was closed meanwhile.
        """
        is_stuck, self._delivered_before = delivered == self._delivered_before, delivered
        if not is_stuck:
            self._backoff.reset()
        pause_seconds = self._backoff.next_seconds() if is_stuck else 0.0
        while True:
            if pause_seconds and closes_within(pause_seconds):
                return None
            try:
                return self._make()
            except confluent_kafka.KafkaException as error:
                self._limited.log(logging.ERROR, "no producer", "No Kafka producer: %s", error.args[0].str())
                self._backoff.exhaust()
                pause_seconds = self._backoff.next_seconds()

    def release(self) -> None:
        """Let go of the producer. This waits for librdkafka's threads, which a name server may hold up."""
        with _fork_guard:
            del self.current

    def abandon(self) -> None:
        """Keep the producer of a parent process for ever: taking it down would wait for threads that don't exist.

        An extra reference keeps the garbage collector and the interpreter's exit away from it.
        """
        with suppress(AttributeError):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.current))

    def _make(self) -> confluent_kafka.Producer:
        with _fork_guard:
            return self._make_producer(self._settings)

    def _report(self, error: confluent_kafka.KafkaError) -> None:
        self._limited.log(logging.WARNING, error.name(), "Kafka: %s", error.str())


_owned_producers: WeakSet[OwnedProducer] = WeakSet()

# Held while threads of librdkafka come or go: they take locks of OpenSSL then, and a child that is forked at that
# moment waits for one of them at its exit, for ever (seen in one of 500 forks right after a close()).
_fork_guard = threading.RLock()
_LONGEST_GUARD_SECONDS = 2.0


def fork_guard() -> AbstractContextManager[bool]:
    """The lock to hold while a producer is made or let go: no fork happens meanwhile."""
    return _fork_guard


def _before_fork() -> None:
    _fork_guard.acquire(timeout=_LONGEST_GUARD_SECONDS)


def _after_fork_in_parent() -> None:
    # It is not held if acquiring it took too long.
    with suppress(RuntimeError):
        _fork_guard.release()


def _after_fork_in_child() -> None:
    global _fork_guard  # noqa: PLW0603 - the thread that held it doesn't exist here
    _fork_guard = threading.RLock()
    for producer in list(_owned_producers):
        producer.abandon()
    _owned_producers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
    )
