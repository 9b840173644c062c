"""What one `consume()` brings, partition by partition. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from hypervisor_consumers.runtime.processor import Place

__all__ = ["by_place"]


def by_place(messages: Sequence[Any]) -> Mapping[Place, Sequence[Any]]:
    """The messages of each partition, in their order."""
    topics = [message.topic() for message in messages]
    partitions = [message.partition() for message in messages]
    found: dict[Place, Sequence[Any]] = {}
    at = 0
    while at < len(messages):
        # They come partition by partition as a rule; counting is many times as fast as looking at each.
        topic, partition = topics[at], partitions[at]
        end = at + partitions.count(partition)
        if partitions[at:end].count(partition) < end - at or topics[at:end].count(topic) < end - at:
            break
        found[Place(topic, partition)] = messages[at:end]
        at = end
    else:
        return found
    mixed: defaultdict[Place, list[Any]] = defaultdict(list)
    for topic, partition, message in zip(topics, partitions, messages, strict=True):
        mixed[Place(topic, partition)].append(message)
    return mixed
