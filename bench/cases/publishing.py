"""`publish(event)`, until Kafka has acknowledged every event.

Beside `produce` of bytes that are ready, which is what librdkafka itself costs, and beside Confluent's
AvroSerializer, which does the same work. The events are made before the clock starts; every side has the same
client settings and the same bound of its queue. Where the queue is full, `produce` raises and `publish` says False:
all sides wait 1 ms then and try the same event again, `produce` with `poll`, which `publish` needs from nobody.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

import hypervisor_schemas
from bench.load import SETTINGS, ring_event, ring_records
from bench.peers.running import HERE, PYTHON
from bench.row import Row
from bench.setting import Setting, in_turn
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import HypervisorEvent
from tests.support.service_processes import Fleet

PARTITIONS = 12
SESSIONS, DISTINCT = 1_000, 10_000
"""Of the events, which then come again and again: an agent's events are new and so in the processor's cache, and of
a hundred thousand that were made beforehand none is."""

POLL_EVERY = 1_000
QUEUE: dict[str, str | int] = {
    **SETTINGS,
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 64 * 1024,
}
"""The publisher's queue limits, for the other producers."""

PEER = HERE / "avro_serializer.py"
SCHEMA = Path(hypervisor_schemas.__file__).parent / "avro" / "hypervisor_event.avsc"


BARE, SERIALIZER = "produce of ready bytes", "AvroSerializer + produce"
AIMS = {BARE: (0.4, 0.6), SERIALIZER: (2, 4)}


@dataclass
class Cost:
    """The cost of one round of one producer."""

    events: int
    seconds: float
    cpu_seconds: float


@dataclass
class Side:
    """The rounds of one producer; a call measures one more and returns its seconds."""

    run: Callable[[], Cost]
    costs: list[Cost] = field(default_factory=list)

    def __call__(self) -> float:
        self.costs.append(self.run())
        return self.costs[-1].seconds

    @property
    def by_time(self) -> list[float]:
        return [cost.events / cost.seconds for cost in self.costs]

    @property
    def by_cpu(self) -> list[float]:
        return [cost.events / cost.cpu_seconds for cost in self.costs]


def measure(setting: Setting) -> Iterable[Row]:
    count = 1_000_000 if setting.full else 200_000
    events = [ring_event(number, SESSIONS) for number in range(DISTINCT)] * (count // DISTINCT)
    records = list(ring_records(DISTINCT, SESSIONS)) * (count // DISTINCT)
    with setting.fleet(PARTITIONS) as fleet:
        sides = {
            "publish": Side(partial(publishing, fleet, events)),
            BARE: Side(partial(producing, fleet, records)),
            f"{BARE}, counting what is delivered": Side(partial(producing, fleet, records, counting=True)),
        }
        if PYTHON.exists():
            file = setting.folder / "events.jsonl"
            file.write_text("".join(json.dumps(event.to_dict()) + "\n" for event in events))
            sides[SERIALIZER] = Side(partial(serializing, fleet, file))
        else:
            setting.say("no AvroSerializer: the virtual environment of the peers is not there")
        for side in sides.values():
            side()  # Kafka's first records cost it more
            side.costs.clear()
        in_turn(2 * setting.rounds, sides, setting.say)
    ours, what = sides.pop("publish"), f"publish {count:,} events, acknowledged"
    for name, theirs in sides.items():
        floor, goal = AIMS.get(name, (None, None))
        note = f"confluent-kafka {peer_version()}, ours {version('confluent-kafka')}" if name == SERIALIZER else ""
        yield Row(what, "events/s", ours.by_time, name, theirs.by_time, floor, goal, note)
        note = "processor time of all threads of the process"
        yield Row(f"{what}, per CPU second", "events/s", ours.by_cpu, name, theirs.by_cpu, floor, goal, note)


def publishing(fleet: Fleet, events: Sequence[HypervisorEvent]) -> Cost:
    with EventPublisher(fleet.bootstrap_servers, topic_prefix=fleet.prefix, environ={}) as publisher:
        # A connection and the topic's metadata, as the other sides have them.
        publisher.publish(events[0])
        _must_be_empty(publisher.flush(30).pending)

        def run() -> None:
            publish = publisher.publish
            for event in events:
                while not publish(event):
                    time.sleep(0.001)  # the queue is full; as long as the others' `poll` waits
            _must_be_empty(publisher.flush(300).pending)

        return _cost(len(events), run)


def producing(fleet: Fleet, records: Sequence[tuple[bytes, bytes]], *, counting: bool = False) -> Cost:
    """Produce ready bytes; with `counting`, with a delivery report per record, which failures need."""
    delivered = itertools.count()

    def report(error: Any, _: Any) -> None:
        if error is None:
            next(delivered)

    settings: dict[str, Any] = {**QUEUE, "bootstrap.servers": fleet.bootstrap_servers}
    producer = Producer(settings | ({"on_delivery": report} if counting else {}))
    topic = fleet.topic("ring")
    producer.produce(topic, records[0][1], records[0][0])
    _must_be_empty(producer.flush(30))

    def run() -> None:
        produce = producer.produce
        for number, (key, value) in enumerate(records):
            while True:
                try:
                    produce(topic, value, key)
                    break
                except BufferError:
                    producer.poll(0.001)
            if number % POLL_EVERY == 0:
                producer.poll(0)
        _must_be_empty(producer.flush(300))

    return _cost(len(records), run)


def serializing(fleet: Fleet, events: Path) -> Cost:
    command = [str(PYTHON), str(PEER), "--bootstrap", fleet.bootstrap_servers, "--topic", fleet.topic("ring")]
    command += ["--schema", str(SCHEMA), "--events", str(events), "--settings", json.dumps(QUEUE)]
    said: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=600).stdout
    )
    return Cost(said["events"], said["seconds"], said["cpu_seconds"])


def peer_version() -> str:
    command = [str(PYTHON), "-c", "import confluent_kafka; print(confluent_kafka.__version__)"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _cost(events: int, run: Callable[[], None]) -> Cost:
    began, cpu = time.perf_counter(), time.process_time()
    run()
    return Cost(events, time.perf_counter() - began, time.process_time() - cpu)


def _must_be_empty(pending: int) -> None:
    if pending:
        raise TimeoutError(f"Kafka has not acknowledged {pending} records in time")
