"""Whether Kafka answers: asked every few seconds, on a connection of its own.

librdkafka says when it has lost all brokers; that they are back shows only in records, and there may be none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from hypervisor_consumers.runtime.client import admin_settings
from hypervisor_consumers.runtime.health import Health
from hypervisor_schemas.limited_log import LimitedLog

__all__ = ["BrokerWatch"]

log = logging.getLogger(__name__)

_EVERY, _EVERY_IN_TROUBLE, _ANSWER_WITHIN = 5.0, 1.0, 4.0


class BrokerWatch:
    """Holds the health's trouble "kafka". Used from one thread; no method blocks."""

    def __init__(self, consumer: Mapping[str, Any], health: Health, clock: Callable[[], float]) -> None:
        self._settings = admin_settings(consumer)
        self._where = consumer["bootstrap.servers"]
        self._health = health
        self._clock = clock
        self._limited = LimitedLog(log)
        self._admin: AdminClient | None = None
        self._question: Future[Any] | None = None
        self._next = clock()
        self._cause = ""
        self.answers = False
        """Whether the last question was answered."""

    @property
    def admin(self) -> AdminClient:
        """The connection, for other questions too."""
        if self._admin is None:
            self._admin = AdminClient(self._settings)
        return self._admin

    def renew(self) -> None:
        """Give the connection up: after a broker restart it can answer FENCED_LEADER_EPOCH for ever."""
        self._admin = self._question = None

    def look(self, *, soon: bool = False) -> None:
        """Take the answer if it is there, ask again if it is time; `soon`: something looks wrong, ask at once."""
        if self._question is not None:
            if not self._question.done():
                return
            question, self._question = self._question, None
            try:
                question.result()
            except KafkaException as error:
                self.lost(error)
            else:
                self.found()
        if soon or self._clock() >= self._next:
            self._next = self._clock() + _EVERY
            self._question = self.admin.describe_cluster(request_timeout=_ANSWER_WITHIN)

    def heard(self, cause: str) -> None:
        """What a connection of the consumer met; it says more than the missing answer to a question."""
        self._cause = cause

    def lost(self, error: Exception) -> None:
        """Kafka didn't answer a question."""
        missing = error.args[0].str() if isinstance(error, KafkaException) else "no answer in time"
        reason = self._cause or missing
        sentence = f"Kafka at {self._where} can't be reached: {reason}."
        self._health.trouble("kafka", sentence)
        self._limited.log(logging.WARNING, "lost", "%s", sentence)
        self.answers = False
        self._next = self._clock() + _EVERY_IN_TROUBLE

    def found(self) -> None:
        """Kafka answered a question."""
        self._health.better("kafka")
        self._cause = ""
        self.answers = True
