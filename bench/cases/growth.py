"""The cost as the work grows: series, copies of the service, partitions.

Commits are what grows with the number of series. So each size has the time that the transactions of `ring-metrics`
took beside that of a bare producer that writes the same records in as many transactions, and does nothing else: no
rows are built, no offsets go with them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from bench.load import Record, producer, read_to_end, ring_records, working_off, write_plainly
from bench.row import Curve, Row
from bench.setting import Setting
from tests.support.service_processes import Fleet, RunningService

SERVICE = "ring-metrics"
BUCKET = "hypervisor_telemetry_transaction_seconds"


def measure(setting: Setting) -> Iterable[Row | Curve]:
    yield from _series(setting)
    yield from _copies(setting)
    yield from _partitions(setting)


def _series(setting: Setting) -> Iterator[Row | Curve]:
    rates: list[tuple[float, float]] = []
    sizes = (10_000, 100_000, 1_000_000) if setting.full else (10_000, 100_000)
    for series in sizes:
        count = max(600_000, 2 * series)
        setting.say(f"{series:,} series: making {count:,} events")
        records = ring_records(count, series)
        ours, theirs = [], []
        for number in range(setting.rounds):
            setting.say(f"{series:,} series, round {number + 1} of {setting.rounds}")
            with setting.fleet(8) as fleet:
                write_plainly(fleet, fleet.topic("ring"), records)
                rate, service = _work_off(fleet, count)
                rates.append((series, rate))
                transactions, seconds = _transactions(service)
                service.close()
                written = _written(fleet)
                ours.append(len(written) / seconds)
                theirs.append(len(written) / _bare(fleet, written, transactions))
        yield Row(
            f"commits of {series:,} series",
            "records/s",
            ours,
            "bare transactional produce",
            theirs,
            0.6,
            note=f"{len(written):,} records in {transactions:,} transactions in the last round.",
        )
    yield Curve("ring-metrics as series grow", "series", "events/s", {"one copy": _medians(rates)})


def _copies(setting: Setting) -> Iterator[Row | Curve]:
    count = 1_000_000 if setting.full else 400_000
    records = ring_records(count)
    rates: list[tuple[float, float]] = []
    for copies in (1, 2, 4):
        for number in range(setting.rounds if setting.full else 1):
            setting.say(f"{copies} copies, round {number + 1}")
            with setting.fleet(8) as fleet:
                services = [fleet.start(SERVICE).wait_ready() for _ in range(copies)]
                write_plainly(fleet, fleet.topic("ring"), records)
                rates.append((copies, working_off(fleet, fleet.prefix + SERVICE, fleet.topic("ring"), count)))
                for service in services:
                    service.close()
    yield from _figures("copies", rates, "one machine of 2 cores, which the broker is on too")
    yield Curve("ring-metrics as copies grow", "copies", "events/s", {"all copies together": _medians(rates)})


def _partitions(setting: Setting) -> Iterator[Row | Curve]:
    count = 1_000_000 if setting.full else 400_000
    records = ring_records(count)
    rates: list[tuple[float, float]] = []
    for partitions in (8, 64):
        for number in range(setting.rounds if setting.full else 1):
            setting.say(f"{partitions} partitions, round {number + 1}")
            with setting.fleet(partitions) as fleet:
                write_plainly(fleet, fleet.topic("ring"), records)
                rates.append((partitions, _work_off(fleet, count)[0]))
    yield from _figures("partitions", rates)
    yield Curve("ring-metrics as partitions grow", "partitions", "events/s", {"one copy": _medians(rates)})


def _figures(what: str, rates: Sequence[tuple[float, float]], note: str = "") -> Iterator[Row]:
    for x, _ in _medians(rates):
        yield Row(f"ring-metrics, {x:g} {what}", "events/s", [rate for at, rate in rates if at == x], note=note)


def _medians(rates: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    by_x: dict[float, list[float]] = {}
    for x, rate in rates:
        by_x.setdefault(x, []).append(rate)
    return [(x, sorted(of)[len(of) // 2]) for x, of in by_x.items()]


def _work_off(fleet: Fleet, count: int) -> tuple[float, RunningService]:
    service = fleet.start(SERVICE)
    return working_off(fleet, fleet.prefix + SERVICE, fleet.topic("ring"), count), service


def _transactions(service: RunningService) -> tuple[int, float]:
    """Return the number of transactions, and their seconds in all."""
    figures = service.metrics(BUCKET)
    return int(figures[f"{BUCKET}_count"]), figures[f"{BUCKET}_sum"]


def _written(fleet: Fleet) -> list[tuple[str, int, Record]]:
    """Return the service's records, in their order per partition: topic, partition, key and value."""
    topics = (f"{fleet.prefix}state.{SERVICE}", f"{fleet.prefix}agent-rings")
    return [
        (message.topic() or "", message.partition() or 0, (message.key() or b"", message.value() or b""))
        for batch in read_to_end(fleet, topics)
        for message in batch
    ]


def _bare(fleet: Fleet, written: Sequence[tuple[str, int, Record]], transactions: int) -> float:
    """Return the seconds of writing these records again in so many transactions."""
    client = producer(fleet, **{"transactional.id": f"{fleet.prefix}bare"})
    client.init_transactions(30)
    each = -(-len(written) // transactions)
    took = 0.0
    for at in range(0, len(written), each):
        began = time.perf_counter()
        client.begin_transaction()
        for topic, partition, (key, value) in written[at : at + each]:
            client.produce(topic, value, key, partition)
        client.flush(30)
        client.commit_transaction(30)
        took += time.perf_counter() - began
    return took
