"""Ring events by the hundred thousand, and plain Kafka clients to write and to read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from threading import Event

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.wire.codec import encode_event
from tests.chaos.harness import RING_EVENT_TYPES
from tests.support.service_processes import Fleet

__all__ = [
    "SERIES",
    "SETTINGS",
    "Record",
    "each_ring_record",
    "emit_steadily",
    "producer",
    "read_plainly",
    "read_to_end",
    "ring_event",
    "ring_records",
    "working_off",
    "write_plainly",
]

Record = tuple[bytes, bytes]
"""A record: key and value."""

SERIES = 10_000
PATIENCE = 120.0
SETTINGS: Mapping[str, str | int] = {
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": 20,
    "enable.idempotence": True,
}
"""The settings of every producer here, as a publisher has them."""


def ring_event(number: int, series: int = SERIES) -> HypervisorEvent:
    """Make an event of about 160 bytes as Avro; one series per session, no two payloads alike."""
    which = number * 7919 % series
    return HypervisorEvent(
        event_type=RING_EVENT_TYPES[number % len(RING_EVENT_TYPES)],
        session_id=f"session-{which:08d}",
        agent_did=f"did:mesh:{which % 1000:032x}",
        payload={"ring": number % 4, "reason": f"step {number:08d} of plan"},
    )


def each_ring_record(count: int, series: int = SERIES) -> Iterator[Record]:
    for number in range(count):
        event = ring_event(number, series)
        yield (event.session_id or "").encode(), encode_event(event)


@lru_cache(maxsize=2)
def ring_records(count: int, series: int = SERIES) -> Sequence[Record]:
    """Make records; cached, as several cases use the same."""
    return list(each_ring_record(count, series))


def producer(fleet: Fleet, **settings: str | int) -> Producer:
    return Producer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            **SETTINGS,
            "queue.buffering.max.messages": 1_000_000,
            "log_level": 2,  # a coordinator that is only being found isn't worth a line
            **settings,
        }
    )


def write_plainly(fleet: Fleet, topic: str, records: Iterable[Record]) -> float:
    """Produce the records; return the seconds until Kafka has all of them."""
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
    """Return the seconds of `consume()` alone, from the record after the first `skipped` to the last of `count`."""
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


def read_to_end(fleet: Fleet, topics: Sequence[str]) -> Iterator[Sequence[Message]]:
    """Yield batches of committed records of these topics, up to their ends; the first may take long."""
    consumer = Consumer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "group.id": f"{fleet.prefix}reader",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 10,
            "fetch.wait.max.ms": 10,
        }
    )
    known = consumer.list_topics(timeout=30).topics
    places = [TopicPartition(topic, number, 0) for topic in topics for number in known[topic].partitions]
    consumer.assign(places)
    left = len(places)
    while left:
        messages = consumer.consume(1000, timeout=0.01)  # waits so long where there are fewer
        records = [message for message in messages if message.error() is None]
        left -= len(messages) - len(records)
        if records:
            yield records
    consumer.close()


def working_off(fleet: Fleet, group: str, topic: str, count: int, skipped: int = 0) -> float:
    """Return the events per second, by the offsets that the group commits, after the first `skipped`.

    Raises:
        TimeoutError: Nothing was committed for so many seconds.
    """
    offset_queries = Consumer({"bootstrap.servers": fleet.bootstrap_servers, "group.id": group, "log_level": 0})
    partitions = offset_queries.list_topics(topic, timeout=30).topics[topic].partitions
    places = [TopicPartition(topic, number) for number in partitions]
    began = first = last = 0.0
    started = moved = time.perf_counter()
    while True:
        done = _committed(offset_queries, places)
        now = time.perf_counter()
        if done > last:
            last, moved = done, now
        if done > skipped and not began:
            began, first = now, done
        if done >= count:
            offset_queries.close()
            if now == began:  # Kafka's answers were long in coming: a lower bound is all that can be told
                began, first = started, skipped
            return (done - first) / (now - began)
        if now > moved + PATIENCE:
            raise TimeoutError(
                f"{group} has committed {done:,} of {count:,} events, and nothing for {PATIENCE:g} s"
            )
        time.sleep(0.02)  # asked often enough, and not all the time


def _committed(offset_queries: Consumer, places: list[TopicPartition]) -> int:
    try:
        return sum(max(0, one.offset) for one in offset_queries.committed(places, timeout=10))
    except KafkaException:
        return 0  # as long as the group's coordinator is only being found


def emit_steadily(
    bus: HypervisorEventBus, make: Callable[[int], HypervisorEvent], per_second: int, over: Event
) -> None:
    """Emit so many events a second, at a steady rate, until `over` is set."""
    began, number = time.perf_counter(), 0
    while not over.is_set():
        due = int((time.perf_counter() - began) * per_second)
        for one in range(number, due):
            bus.emit(make(one))
        number = max(number, due)
        time.sleep(0.001)  # the load is steady
