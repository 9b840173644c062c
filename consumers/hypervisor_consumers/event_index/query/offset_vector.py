"""The position of a stream: an offset for every partition, and its text. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.read_token import write_token

__all__ = ["OffsetVector"]


class OffsetVector:
    """For each partition the first offset that wasn't sent yet; 0 for a partition that isn't named.

    Its text is that of a read token. It is needed after every event, so only the changed topic is written anew.
    """

    def __init__(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._offsets: dict[str, dict[int, int]] = {}
        for (topic, partition), offset in offsets.items():
            self._offsets.setdefault(topic, {})[partition] = offset
        self._texts = {topic: _text(topic, partitions) for topic, partitions in sorted(self._offsets.items())}

    def of(self, topic_partition: TopicPartition) -> int:
        """The first offset of the partition that wasn't sent yet."""
        return self._offsets.get(topic_partition.topic, {}).get(topic_partition.partition, 0)

    def move(self, topic_partition: TopicPartition, offset: int) -> None:
        """Note that everything before this offset of the partition was sent."""
        topic, partition = topic_partition
        partitions = self._offsets.setdefault(topic, {})
        if offset <= partitions.get(partition, 0):
            return
        partitions[partition] = offset
        is_new = topic not in self._texts
        self._texts[topic] = _text(topic, partitions)
        if is_new:
            self._texts = dict(sorted(self._texts.items()))

    def behind(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Those of `offsets` that are further than this vector."""
        return {
            topic_partition: offset
            for topic_partition, offset in offsets.items()
            if offset > self.of(topic_partition)
        }

    def __str__(self) -> str:
        return "~".join(self._texts.values())


def _text(topic: str, partitions: Mapping[int, int]) -> str:
    return write_token({(topic, partition): offset for partition, offset in partitions.items()})
