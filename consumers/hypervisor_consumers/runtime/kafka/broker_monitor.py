"""Kafka's own word: whether it answers, where the group stands, where the logs end. Asked every few seconds.

librdkafka says when it has lost all brokers; that they are back shows only in records, and there may be none. Where
the group stands is held against the loop's own account.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection

from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.processor import TopicPartition
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["BrokerMonitor"]

log = logging.getLogger(__name__)

_EVERY, _EVERY_IN_TROUBLE = 2.0, 0.5


class BrokerMonitor:
    """Holds the health's trouble "kafka", and brings Kafka's word into the ledger. `run` by a thread of its own.

    `topics`: full names of those of which every partition is looked at, whoever reads it.
    """

    def __init__(
        self,
        offset_queries: OffsetQueries,
        bootstrap_servers: str,
        health: Health,
        runtime_metrics: RuntimeMetrics,
        *,
        topics: Collection[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._offset_queries = offset_queries
        self._topics = topics
        self._now = now
        self._where = bootstrap_servers
        self._health = health
        self._runtime_metrics = runtime_metrics
        self._limited = RateLimitedLog(log)
        self._wake = threading.Event()
        self._cause = ""
        self.topic_partitions: Collection[TopicPartition] = ()
        """The partitions to ask about; set anew by the loop, never changed in place."""
        self.begins: dict[TopicPartition, int] = {}
        """Where their logs began lately; grows by itself in time, as retention goes on."""
        self.answers = False
        """Whether the last question was answered."""

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Ask until told to stop."""
        while not should_stop():
            self.step()
            self._wake.wait(_EVERY if self.answers else _EVERY_IN_TROUBLE)
            self._wake.clear()
        self._offset_queries.close()

    def step(self) -> None:
        """Ask once; takes some seconds where Kafka doesn't answer."""
        try:
            counts = self._offset_queries.partition_counts()
            self.found()
            topic_partitions = self.topic_partitions
            if topic_partitions:
                for topic_partition, offset in self._offset_queries.offsets(topic_partitions).items():
                    if offset is not None:
                        self._runtime_metrics.kafka_says(topic_partition, offset)
                for topic_partition in topic_partitions:
                    self.begins[topic_partition], end = self._offset_queries.log_range(topic_partition)
                    self._runtime_metrics.ended(topic_partition, end)
            everything = [
                TopicPartition(topic, number) for topic in self._topics for number in range(counts.get(topic, 0))
            ]
            if everything:
                self._runtime_metrics.log_ends.saw(self._offset_queries.log_ranges(everything), self._now())
        except KafkaException as error:
            if error.args[0].code() < 0:
                self.lost(error)
            else:
                # An answer all the same: a partition is between two leaders. A client may never hear of the new.
                log.debug("Kafka answered a question with %s", error)
                self._offset_queries.close()

    def look(self) -> None:
        """Ask soon: something looks wrong."""
        self._wake.set()

    def heard(self, cause: str) -> None:
        """What a connection of the consumer met; it says more than the missing answer to a question."""
        self._cause = cause

    def lost(self, error: KafkaException) -> None:
        """Kafka didn't answer a question."""
        sentence = f"Kafka at {self._where} can't be reached: {self._cause or error.args[0].str()}."
        self._health.trouble("kafka", sentence)
        self._limited.log(logging.WARNING, "lost", "%s", sentence)
        self.answers = False

    def found(self) -> None:
        """Kafka answered a question."""
        self._health.better("kafka")
        self._cause = ""
        self.answers = True
