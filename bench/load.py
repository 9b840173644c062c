"""Ring events by the hundred thousand, and plain Kafka clients to write and to read them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import lru_cache

from confluent_kafka import Consumer, Producer, TopicPartition

from hypervisor_schemas.codec import encode_event
from hypervisor_schemas.events import HypervisorEvent
from tests.chaos.harness import RING_EVENT_TYPES
from tests.services import Fleet

__all__ = ["Record", "read_plainly", "ring_event", "ring_records", "write_plainly"]

Record = tuple[bytes, bytes]
"""Key and value."""

SERIES = 10_000


def ring_event(number: int, series: int = SERIES) -> HypervisorEvent:
    """About 160 bytes as Avro; one series per session."""
    which = number * 7919 % series
    return HypervisorEvent(
        event_type=RING_EVENT_TYPES[number % len(RING_EVENT_TYPES)],
        session_id=f"session-{which:08d}",
        agent_did=f"did:mesh:{which % 1000:032x}",
        payload={"ring": number % 4, "reason": "a reason of some length"},
    )


@lru_cache(maxsize=2)
def ring_records(count: int, series: int = SERIES) -> Sequence[Record]:
    """Kept, as several cases want the same."""
    events = (ring_event(number, series) for number in range(count))
    return [((event.session_id or "").encode(), encode_event(event)) for event in events]


def producer(fleet: Fleet, **settings: str | int) -> Producer:
    return Producer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
            "enable.idempotence": True,
            "queue.buffering.max.messages": 1_000_000,
            **settings,
        }
    )


def write_plainly(fleet: Fleet, topic: str, records: Iterable[Record]) -> float:
    """Returns the seconds until Kafka has them all."""
    client, began = producer(fleet), time.perf_counter()
    for number, (key, value) in enumerate(records):
        client.produce(topic, value, key)
        if number % 10_000 == 0:
            client.poll(0)
    left = client.flush(300)
    if left:
        raise TimeoutError(f"{left} records were not written in 300 s")
    return time.perf_counter() - began


def read_plainly(fleet: Fleet, topic: str, partitions: int, count: int) -> float:
    """Seconds of `consume()` alone, from the first record to the last of `count`."""
    consumer = Consumer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "group.id": f"{fleet.prefix}plain",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    seen = len(consumer.consume(1, timeout=30))
    began = time.perf_counter()
    while seen < count:
        seen += len(consumer.consume(1000, timeout=1))
    took = time.perf_counter() - began
    consumer.close()
    return took
