"""The partition counts of topics, asked once each."""

from __future__ import annotations

from confluent_kafka import KafkaException

from hypervisor_consumers.runtime.kafka.client_types import Consumer

__all__ = ["PartitionCounts"]

_ANSWER_SECONDS = 5.0


class PartitionCounts:
    """The partition counts of topics. Only a source may grow while its service runs: `forget` lets ask anew."""

    def __init__(self) -> None:
        self._consumer: Consumer | None = None
        self._counts: dict[str, int] = {}

    def start(self, consumer: Consumer) -> None:
        """Ask by this consumer."""
        self._consumer = consumer

    def forget(self, topic: str) -> None:
        """Ask again when it is needed next."""
        self._counts.pop(topic, None)

    def of(self, topic: str) -> int:
        """The partition count of a topic.

        Raises:
            KafkaException: Kafka doesn't tell now.
        """
        count = self._counts.get(topic)
        if count is None:
            if self._consumer is None:
                raise AssertionError("start() comes first")
            found = self._consumer.list_topics(topic, timeout=_ANSWER_SECONDS).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            count = self._counts[topic] = len(found.partitions)
        return count
