"""Where a stream stands: an offset of every partition, and the text of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.read_token import write_token

__all__ = ["Vector"]


class Vector:
    """Per partition the first offset that wasn't sent yet; 0 of one that isn't named.

    The text is that of a read token. It is made after every event, so only the topic that moved is written anew.
    """

    def __init__(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._offsets: dict[str, dict[int, int]] = {}
        for topic_partition, offset in offsets.items():
            self._offsets.setdefault(topic_partition.topic, {})[topic_partition.partition] = offset
        self._texts = {topic: _text(topic, parts) for topic, parts in sorted(self._offsets.items())}

    def of(self, topic_partition: TopicPartition) -> int:
        """The first offset of the partition that wasn't sent yet."""
        return self._offsets.get(topic_partition.topic, {}).get(topic_partition.partition, 0)

    def move(self, topic_partition: TopicPartition, offset: int) -> None:
        """Everything before this offset of the partition is sent."""
        parts = self._offsets.setdefault(topic_partition.topic, {})
        if offset <= parts.get(topic_partition.partition, 0):
            return
        parts[topic_partition.partition] = offset
        is_new = topic_partition.topic not in self._texts
        self._texts[topic_partition.topic] = _text(topic_partition.topic, parts)
        if is_new:
            self._texts = dict(sorted(self._texts.items()))

    def behind(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Those of `offsets` that are further than this."""
        return {
            topic_partition: offset
            for topic_partition, offset in offsets.items()
            if offset > self.of(topic_partition)
        }

    def __str__(self) -> str:
        return "~".join(self._texts.values())


def _text(topic: str, parts: Mapping[int, int]) -> str:
    return write_token({(topic, partition): offset for partition, offset in parts.items()})
