"""Questions to Kafka that no record answers: which topics there are, where a group stands, where a log ends.

Asked by consumers that read nothing. An AdminClient has the better answers, but one whose question times out while
a broker is away can take the process with it (librdkafka #4605); and answers to a consumer that reads queue behind
its fetches.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaException, TopicPartition

from hypervisor_consumers.runtime.client import asker_settings
from hypervisor_consumers.runtime.kafka import Kafka
from hypervisor_consumers.runtime.processor import Place

__all__ = ["Asker"]

TIMEOUT = 4.0


class Asker:
    """Used from one thread; every method blocks, 4 s at most per question.

    Raises:
        KafkaException: From every method: Kafka didn't answer, or refused.
    """

    def __init__(self, kafka: Kafka, consumer: Mapping[str, Any]) -> None:
        self._kafka = kafka
        self._settings = asker_settings(consumer)
        self._any: Any = None
        self._stable: Any = None

    def partition_counts(self) -> dict[str, int]:
        """All topics that there are, and how many partitions they have."""
        return {
            name: len(topic.partitions)
            for name, topic in self._client().list_topics(timeout=TIMEOUT).topics.items()
        }

    def log_range(self, place: Place) -> tuple[int, int]:
        """Where a log begins, and where it ends; uncommitted records are part of it."""
        begin, end = self._client().get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT)
        return begin, end

    def log_ranges(self, places: Collection[Place]) -> dict[Place, tuple[int, int]]:
        """The same of many, in two questions for all; one whose leader is just being chosen is left out."""
        client = self._client()
        begins, ends = (
            {
                Place(one.topic, one.partition): one.offset
                for one in client.offsets_for_times(
                    [TopicPartition(*place, at) for place in places], timeout=TIMEOUT
                )
                if one.error is None and one.offset >= 0
            }
            for at in (OFFSET_BEGINNING, OFFSET_END)
        )
        return {place: (begins[place], end) for place, end in ends.items() if place in begins}

    def stable_end(self, place: Place) -> int:
        """Up to where a log can be read: where its first open transaction begins, or its end."""
        if self._stable is None:
            self._stable = self._kafka.consumer({**self._settings, "isolation.level": "read_committed"})
        _, end = self._stable.get_watermark_offsets(TopicPartition(*place), timeout=TIMEOUT)
        return int(end)

    def offsets(self, places: Collection[Place]) -> dict[Place, int | None]:
        """Where the group stands; None: nowhere yet."""
        return _offsets(self._client().committed([TopicPartition(*place) for place in places], timeout=TIMEOUT))

    def close(self) -> None:
        """Let go of the connections; the next question makes new ones."""
        for client in (self._any, self._stable):
            if client is not None:
                client.close()
        self._any = self._stable = None

    def _client(self) -> Any:
        if self._any is None:
            self._any = self._kafka.consumer({**self._settings, "isolation.level": "read_uncommitted"})
        return self._any


def _offsets(answer: Collection[TopicPartition]) -> dict[Place, int | None]:
    for one in answer:
        # An offset that couldn't be told looks like one that was never committed.
        if one.error is not None:
            raise KafkaException(one.error)
    return {Place(one.topic, one.partition): one.offset if one.offset >= 0 else None for one in answer}
