"""The producer in memory that a thread serves."""

from __future__ import annotations

import threading
import time

import pytest

from hypervisor_telemetry.testing.memory.kafka import MemoryKafka


@pytest.fixture
def kafka() -> MemoryKafka:
    kafka = MemoryKafka()
    kafka.create_topic("topic", 1)
    return kafka


def test_a_record_is_in_the_log_at_once_and_its_report_comes_in_a_poll(kafka: MemoryKafka) -> None:
    producer = kafka.prompt_producer({})
    reports: list[int | None] = []
    producer.produce("topic", b"a", on_delivery=lambda error, message: reports.append(message.offset()))

    assert [record.value for record in kafka.log("topic", 0)] == [b"a"]
    assert (reports, len(producer)) == ([], 1)
    producer.poll(1)
    assert (reports, len(producer)) == ([0], 0)


def test_a_poll_ends_soon_though_nothing_comes(kafka: MemoryKafka) -> None:
    producer = kafka.prompt_producer({})
    began_at = time.monotonic()
    assert producer.poll(60) == 0
    assert time.monotonic() - began_at < 5


def test_one_thread_may_poll_while_others_produce(kafka: MemoryKafka) -> None:
    producer = kafka.prompt_producer({})
    delivered = 0

    def count(*_: object) -> None:
        nonlocal delivered
        delivered += 1

    def produce() -> None:
        for _ in range(1000):
            producer.produce("topic", b"a", on_delivery=count)

    threads = [threading.Thread(target=produce) for _ in range(3)]
    for thread in threads:
        thread.start()
    while delivered < 3000:
        producer.poll(1)
    for thread in threads:
        thread.join()
    assert kafka.end("topic", 0) == 3000
