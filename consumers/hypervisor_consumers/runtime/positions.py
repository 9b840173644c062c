"""Where partitions begin, end, and where their group stands: asked for all partitions at once.

On a connection of its own: a consumer's answers queue behind its fetches, which the broker holds for half a
second when there is nothing new. Asked one by one that way, 120 partitions took a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from hypervisor_consumers.runtime.processor import Place

__all__ = ["Positions", "find_positions"]

_TIMEOUT = 10.0


class Positions(NamedTuple):
    """The log reaches from `begin` to just before `end` (committed records); the group stands at `committed`."""

    place: Place
    committed: int | None
    begin: int
    end: int


def find_positions(consumer: Consumer, admin: AdminClient, partitions: Sequence[TopicPartition]) -> list[Positions]:
    """The positions of these partitions.

    Raises:
        KafkaException, TimeoutError: Kafka didn't answer in 10 s, or refused.
    """
    if not partitions:
        return []
    places = [TopicPartition(partition.topic, partition.partition) for partition in partitions]
    answers = [
        admin.list_offsets(
            dict.fromkeys(places, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=_TIMEOUT,
        )
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    ]
    committed = consumer.committed(places, timeout=_TIMEOUT)
    for here in committed:
        # An offset that couldn't be told looks like one that was never committed.
        if here.error is not None:
            raise KafkaException(here.error)
    begins, ends = (
        {(place.topic, place.partition): future.result(_TIMEOUT).offset for place, future in answer.items()}
        for answer in answers
    )
    return [
        Positions(
            place=Place(here.topic, here.partition),
            committed=here.offset if here.offset >= 0 else None,
            begin=begins[here.topic, here.partition],
            end=ends[here.topic, here.partition],
        )
        for here in committed
    ]
