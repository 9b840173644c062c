"""Asking Kafka every few seconds: whether it answers, where the group stands, where the logs end.

librdkafka says when it has lost all brokers; that they are back shows only in records, and there may be none. Where
the group stands is held against the loop's own account.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.client_errors import text_of
from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.assignment import AssignedPartition, Assignment
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.rate_limited_log import RateLimitedLog

__all__ = ["BrokerMonitor"]

log = logging.getLogger(__name__)

_INTERVAL_SECONDS, _INTERVAL_IN_TROUBLE_SECONDS = 2.0, 0.5


class BrokerMonitor:
    """Tells health whether Kafka answers, and brings offsets from Kafka. `run` by a thread of its own.

    Args:
        offset_queries: Asks Kafka.
        bootstrap_servers: The servers, as sentences name them.
        assignment: The partitions of this copy.
        topics: Full names of those of which every partition is looked at, whoever reads it.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        offset_queries: OffsetQueries,
        bootstrap_servers: str,
        health: Health,
        runtime_metrics: RuntimeMetrics,
        assignment: Assignment[Any],
        *,
        topics: Collection[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._offset_queries = offset_queries
        self._bootstrap_servers = bootstrap_servers
        self._health = health
        self._log_ends = runtime_metrics.log_ends
        self._assignment = assignment
        self._topics = topics
        self._now = now
        self._limited = RateLimitedLog(log)
        self._wake = threading.Event()
        self._cause = ""
        self.answers = False
        """Whether the last question was answered."""

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Ask until told to stop."""
        while not should_stop():
            self.step()
            self._wake.wait(_INTERVAL_SECONDS if self.answers else _INTERVAL_IN_TROUBLE_SECONDS)
            self._wake.clear()
        self._offset_queries.close()

    def step(self) -> None:
        """Ask once; takes some seconds where Kafka doesn't answer."""
        try:
            counts = self._offset_queries.partition_counts()
            self.found()
            self._look_at(self._assignment.events_read())
            everything = [
                TopicPartition(topic, number) for topic in self._topics for number in range(counts.get(topic, 0))
            ]
            if everything:
                self._log_ends.saw(self._offset_queries.log_ranges(everything), self._now())
        except KafkaException as error:
            if error.args[0].code() < 0:
                self.lost(error)
            else:
                # An answer all the same: a partition is between two leaders. A client may never hear of the new.
                log.debug("Kafka answered a question with %s", error)
                self._offset_queries.close()

    def _look_at(self, partitions: Sequence[AssignedPartition[Any]]) -> None:
        if not partitions:
            return
        offsets = self._offset_queries.offsets([one.topic_partition for one in partitions])
        for one in partitions:
            offset = offsets[one.topic_partition]
            if offset is not None:
                one.accounting.compare(offset)
        for one in partitions:
            one.log_start, end = self._offset_queries.log_range(one.topic_partition)
            one.accounting.saw_end(end, self._now())

    def look(self) -> None:
        """Ask soon: something looks wrong."""
        self._wake.set()

    def heard(self, cause: str) -> None:
        """Note what a connection of the consumer met; it says more than the missing answer to a question."""
        self._cause = cause

    def lost(self, error: KafkaException) -> None:
        """Kafka didn't answer a question."""
        sentence = f"Kafka at {self._bootstrap_servers} can't be reached: {self._cause or text_of(error)}."
        self._health.trouble("kafka", sentence)
        self._limited.log(logging.WARNING, "lost", "%s", sentence)
        self.answers = False

    def found(self) -> None:
        """Kafka answered a question."""
        self._health.better("kafka")
        self._cause = ""
        self.answers = True
