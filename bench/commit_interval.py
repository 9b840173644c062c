"""What exactly-once costs ring-metrics: transactions, changelog and delay, by commit interval.

    python -m bench.commit_interval [EVENTS_PER_SECOND]

On a Kafka of its own; every round is a fresh topic with 10,000 series, 12 partitions and a steady load.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import Producer

from hypervisor_schemas.codec import encode_event
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_telemetry.local.broker import LocalKafka
from tests.services import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Iterable

INTERVALS = (0.05, 0.2, 1.0)
SECONDS, SERIES, PARTITIONS = 20, 10_000, 12
SELF = "hypervisor_telemetry_"


def publish(fleet: Fleet, values: Iterable[tuple[bytes, bytes]], per_second: int) -> None:
    producer = Producer({"bootstrap.servers": fleet.bootstrap_servers, "partitioner": "murmur2_random"})
    began = time.monotonic()
    for n, (key, value) in enumerate(values):
        if n % 100 == 0:
            producer.poll(0)
            time.sleep(max(0.0, began + n / per_second - time.monotonic()))  # the load is steady
        producer.produce(fleet.topic("ring"), value, key)
    producer.flush(30)


def events(count: int) -> Iterable[tuple[bytes, bytes]]:
    for n in range(count):
        session = f"session-{n % SERIES}"
        kind = EventType.RING_ASSIGNED
        event = HypervisorEvent(event_type=kind, session_id=session, agent_did="did:agent", payload={"ring": n % 4})
        yield session.encode(), encode_event(event)


def value_of(service: RunningService, name: str) -> float:
    return sum(service.metrics(SELF + name).values())


def quantile(service: RunningService, share: float) -> str:
    """The bucket of the latency histogram that this share of the records is within."""
    buckets = service.metrics(SELF + "latency_seconds_bucket")
    total = buckets[f'{SELF}latency_seconds_bucket{{le="+Inf"}}']
    return next(series.split('"')[1] for series, count in buckets.items() if count >= share * total)


def measure(kafka: LocalKafka, folder: Path, interval: float, per_second: int, number: int) -> list[str]:
    fleet = Fleet(kafka.bootstrap_servers, f"bench{number}.", folder).make_topics(PARTITIONS)
    try:
        service = fleet.start("ring-metrics", TELEMETRY_COMMIT_INTERVAL=str(interval)).wait_ready()
        count = SECONDS * per_second
        publish(fleet, events(count), per_second)
        eventually(lambda: value_of(service, "records_total"), lambda seen: seen == count, 60)
        commits = value_of(service, 'transactions_total{outcome="committed"}')
        records = value_of(service, "changelog_records_total")
        size = value_of(service, "changelog_bytes_total")
        return [
            f"{interval:g} s",
            f"{commits / SECONDS:.1f}",
            f"{records / count:.2f}",
            f"{size / count:.0f}",
            quantile(service, 0.5),
            quantile(service, 0.99),
        ]
    finally:
        fleet.close()


def main() -> None:
    per_second = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    header = ["interval", "commits/s", "changelog records/event", "bytes/event", "p50 within s", "p99 within s"]
    print(f"{per_second} events/s, {SERIES} series, {PARTITIONS} partitions, {SECONDS} s each")
    print("  ".join(header))
    with LocalKafka() as kafka, tempfile.TemporaryDirectory() as folder:
        for number, interval in zip(itertools.count(), INTERVALS, strict=False):
            row = measure(kafka, Path(folder), interval, per_second, number)
            print("  ".join(cell.rjust(len(name)) for name, cell in zip(header, row, strict=True)), flush=True)


if __name__ == "__main__":
    main()
