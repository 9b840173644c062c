"""Questions to Kafka that no record answers: the topics that there are, a group's offsets, the ends of logs.

Asked by consumers that read nothing. An AdminClient has the better answers, but one whose question times out while
a broker is away can take the process with it (librdkafka #4605); and answers to a consumer that reads queue behind
its fetches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import confluent_kafka
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaException

from hypervisor_consumers.runtime.kafka.client_config import query_settings
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.client_types import Consumer
from hypervisor_consumers.runtime.records import TopicPartition

__all__ = ["OffsetQueries"]

TIMEOUT_SECONDS = 4.0


class OffsetQueries:
    """Asks Kafka. Used from one thread; every method blocks, 4 s at most per question.

    Raises:
        KafkaException: From every method: Kafka didn't answer, or refused.
    """

    def __init__(self, clients: ClientFactory, consumer: Mapping[str, Any]) -> None:
        self._clients = clients
        self._settings = query_settings(consumer)
        self._any: Consumer | None = None
        self._stable: Consumer | None = None

    def partition_counts(self) -> dict[str, int]:
        """The partition count of every topic that there is."""
        return {
            name: len(topic.partitions)
            for name, topic in self._client().list_topics(timeout=TIMEOUT_SECONDS).topics.items()
        }

    def log_range(self, topic_partition: TopicPartition) -> tuple[int, int]:
        """The first offset of a log, and its end; uncommitted records are part of it."""
        begin, end = self._client().get_watermark_offsets(
            confluent_kafka.TopicPartition(*topic_partition), timeout=TIMEOUT_SECONDS
        )
        return begin, end

    def log_ranges(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The ranges of many logs, in two questions for all; one whose leader is just being chosen is left out."""
        client = self._client()
        begins, ends = (
            {
                TopicPartition(one.topic, one.partition): one.offset
                for one in client.offsets_for_times(
                    [confluent_kafka.TopicPartition(*topic_partition, at) for topic_partition in topic_partitions],
                    timeout=TIMEOUT_SECONDS,
                )
                if one.error is None and one.offset >= 0
            }
            for at in (OFFSET_BEGINNING, OFFSET_END)
        )
        return {
            topic_partition: (begins[topic_partition], end)
            for topic_partition, end in ends.items()
            if topic_partition in begins
        }

    def stable_end(self, topic_partition: TopicPartition) -> int:
        """The offset up to which a log can be read: where its first open transaction begins, or its end."""
        if self._stable is None:
            self._stable = self._clients.consumer({**self._settings, "isolation.level": "read_committed"})
        _, end = self._stable.get_watermark_offsets(
            confluent_kafka.TopicPartition(*topic_partition), timeout=TIMEOUT_SECONDS
        )
        return int(end)

    def offsets(self, topic_partitions: Collection[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The offsets of the group; None where it has none yet."""
        return _offsets(
            self._client().committed(
                [confluent_kafka.TopicPartition(*topic_partition) for topic_partition in topic_partitions],
                timeout=TIMEOUT_SECONDS,
            )
        )

    def close(self) -> None:
        """Let go of the connections; the next question makes new ones."""
        for client in (self._any, self._stable):
            if client is not None:
                client.close()
        self._any = self._stable = None

    def _client(self) -> Consumer:
        if self._any is None:
            self._any = self._clients.consumer({**self._settings, "isolation.level": "read_uncommitted"})
        return self._any


def _offsets(answer: Collection[confluent_kafka.TopicPartition]) -> dict[TopicPartition, int | None]:
    for one in answer:
        # An offset that couldn't be told looks like one that was never committed.
        if one.error is not None:
            raise KafkaException(one.error)
    return {TopicPartition(one.topic, one.partition): one.offset if one.offset >= 0 else None for one in answer}
