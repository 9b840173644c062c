"""How fast one copy of ring-metrics works off a backlog, with all its promises on, beside plain reading.

    python -m bench.throughput [EVENTS [ROUNDS]]

On a Kafka of its own; every round is a fresh topic with 10,000 series in 8 partitions. What is measured is how the
group's committed offsets advance, from the first that is seen to the end; so start-up and restoring don't count.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Producer, TopicPartition

from hypervisor_schemas.codec import encode_event
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_telemetry.local.broker import LocalKafka
from tests.chaos.harness import RING_EVENT_TYPES
from tests.services import Fleet

if TYPE_CHECKING:
    from collections.abc import Sequence

SERIES, PARTITIONS = 10_000, 8


def backlog(count: int) -> list[tuple[bytes, bytes]]:
    """Ring events of about 160 bytes: key and value."""
    records = []
    for n in range(count):
        session = f"session-{n * 7919 % SERIES:08d}"
        event = HypervisorEvent(
            event_type=RING_EVENT_TYPES[n % len(RING_EVENT_TYPES)],
            session_id=session,
            agent_did=f"did:mesh:{n * 7919 % SERIES % 1000:032x}",
            payload={"ring": n % 4, "reason": "a reason of some length"},
        )
        records.append((session.encode(), encode_event(event)))
    return records


def publish(fleet: Fleet, records: Sequence[tuple[bytes, bytes]]) -> float:
    """Returns the seconds that it took."""
    producer = Producer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    topic, began = fleet.topic("ring"), time.perf_counter()
    for n, (key, value) in enumerate(records):
        producer.produce(topic, value, key)
        if n % 10_000 == 0:
            producer.poll(0)
    producer.flush(120)
    return time.perf_counter() - began


def plain_reading(fleet: Fleet, count: int) -> float:
    """Events per second of `consume()` alone."""
    consumer = Consumer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "group.id": f"{fleet.prefix}plain",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    consumer.assign([TopicPartition(fleet.topic("ring"), number, 0) for number in range(PARTITIONS)])
    seen = len(consumer.consume(1, timeout=30))
    began = time.perf_counter()
    while seen < count:
        seen += len(consumer.consume(1000, timeout=1))
    took = time.perf_counter() - began
    consumer.close()
    return count / took


def working_off(fleet: Fleet, service: str, count: int) -> float:
    """Events per second, by the offsets that the group commits."""
    asker = Consumer({"bootstrap.servers": fleet.bootstrap_servers, "group.id": fleet.prefix + service})
    places = [TopicPartition(fleet.topic("ring"), number) for number in range(PARTITIONS)]
    began = first = 0.0
    while True:
        done = sum(max(0, one.offset) for one in asker.committed(places, timeout=10))
        now = time.perf_counter()
        if done and not began:
            began, first = now, done
        if done >= count:
            asker.close()
            return (done - first) / (now - began)
        time.sleep(0.02)  # asked often enough, and not all the time


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    records = backlog(count)
    print(f"{count:,} events of {len(records[0][1])} bytes, {SERIES:,} series, {PARTITIONS} partitions", flush=True)
    figures: dict[str, list[float]] = {"produce": [], "consume()": [], "ring-metrics": []}
    with LocalKafka() as kafka, tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            fleet = Fleet(kafka.bootstrap_servers, f"bench{number}.", Path(folder)).make_topics(PARTITIONS)
            try:
                figures["produce"].append(count / publish(fleet, records))
                figures["consume()"].append(plain_reading(fleet, count))
                fleet.start("ring-metrics")
                figures["ring-metrics"].append(working_off(fleet, "ring-metrics", count))
            finally:
                fleet.close()
            print("  ".join(f"{name} {values[-1]:,.0f}/s" for name, values in figures.items()), flush=True)
    medians = {name: statistics.median(values) for name, values in figures.items()}
    print(f"ring-metrics / consume(): {medians['ring-metrics'] / medians['consume()']:.2f}")


if __name__ == "__main__":
    main()
