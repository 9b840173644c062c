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
    """About 160 bytes as Avro; one series per session, and no payload like another."""
    which = number * 7919 % series
    return HypervisorEvent(
        event_type=RING_EVENT_TYPES[number % len(RING_EVENT_TYPES)],
        session_id=f"session-{which:08d}",
        agent_did=f"did:mesh:{which % 1000:032x}",
        payload={"ring": number % 4, "reason": f"step {number:08d} of plan"},
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
            "log_level": 2,  # a coordinator that is only being found isn't worth a line
            **settings,
        }
    )


def write_plainly(fleet: Fleet, topic: str, records: Iterable[Record]) -> float:
    """Returns the seconds until Kafka has them all."""
    client, began = producer(fleet), time.perf_counter()
    for key, value in records:
        while True:
            try:
                client.produce(topic, value, key)
                break
            except BufferError:
                client.poll(0.01)
    left = client.flush(300)
    if left:
        raise TimeoutError(f"{left} records were not written in 300 s")
    return time.perf_counter() - began


def read_plainly(fleet: Fleet, topic: str, partitions: int, count: int, skipped: int = 1) -> float:
    """Seconds of `consume()` alone, from the record after the first `skipped` to the last of `count`."""
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
    seen, began = 0, 0.0
    while seen < count:
        seen += len(consumer.consume(1000, timeout=1))
        if seen >= skipped and not began:
            began = time.perf_counter()
    took = time.perf_counter() - began
    consumer.close()
    return took
