"""The cost of exactly-once for ring-metrics under a steady load, by commit interval."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from bench.load import SERIES, Record, producer, ring_records
from bench.row import Curve, Row
from bench.setting import Setting
from tests.support.service_processes import Fleet, RunningService, eventually

INTERVALS = (0.05, 0.2, 1.0)
PER_SECOND, PARTITIONS = 5_000, 12
SELF = "hypervisor_telemetry_"


def measure(setting: Setting) -> Iterable[Row | Curve]:
    seconds = 20 if setting.full else 8
    records = ring_records(seconds * PER_SECOND)
    delays: list[tuple[float, float]] = []
    for interval in INTERVALS:
        setting.say(f"{PER_SECOND:,} events/s for {seconds} s, a commit every {interval:g} s")
        with setting.fleet(PARTITIONS) as fleet:
            service = fleet.start("ring-metrics", TELEMETRY_COMMIT_INTERVAL=str(interval)).wait_ready()
            _publish(fleet, records)
            eventually(lambda it=service: _value(it, "records_total"), lambda seen: seen == len(records), 60)
            for row in _rows(service, interval, seconds, len(records)):
                if row.unit == "ms":
                    delays.append((interval * 1000, row.figure))
                yield row
    yield Curve(
        f"Delay at {PER_SECOND:,} events/s by commit interval", "commit interval, ms", "ms", {"mean": delays}
    )


def _rows(service: RunningService, interval: float, seconds: int, count: int) -> Iterator[Row]:
    what = f"a commit every {interval * 1000:g} ms"
    note = f"{PER_SECOND:,} events/s, {SERIES:,} series, {PARTITIONS} partitions."
    delay = _value(service, "latency_seconds_sum") / _value(service, "latency_seconds_count")
    yield Row(f"{what}: published until committed, mean", "ms", [delay * 1000], note=note)
    yield Row(f"{what}: transactions", "/s", [_value(service, "transactions_total") / seconds])
    yield Row(f"{what}: changelog", "bytes/event", [_value(service, "changelog_bytes_total") / count])


def _value(service: RunningService, name: str) -> float:
    return sum(service.metrics(SELF + name).values())


def _publish(fleet: Fleet, records: Sequence[Record]) -> None:
    client, began = producer(fleet), time.monotonic()
    for number, (key, value) in enumerate(records):
        if number % 100 == 0:
            client.poll(0)
            time.sleep(max(0.0, began + number / PER_SECOND - time.monotonic()))  # the load is steady
        client.produce(fleet.topic("ring"), value, key)
    client.flush(30)
