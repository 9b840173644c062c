"""Whether Kafka answers, and its own word on where the group stands and the logs end."""

from __future__ import annotations

import threading

import confluent_kafka
import pytest
from confluent_kafka import KafkaError

from hypervisor_consumers.runtime.kafka.offset_queries import OffsetQueries
from hypervisor_consumers.runtime.ops.broker_monitor import BrokerMonitor
from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.records import TopicPartition
from tests.support.service_processes import eventually
from tests.support.word_count_service import SETTINGS, SOURCE, World

HERE, THERE = TopicPartition(SOURCE, 0), TopicPartition(SOURCE, 1)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def runtime_metrics() -> RuntimeMetrics:
    runtime_metrics = RuntimeMetrics()
    runtime_metrics.assignment.assign([HERE, THERE])
    for topic_partition in (HERE, THERE):
        runtime_metrics.restored(topic_partition, Account(0, 2, {"applied": 1}), 1)
    return runtime_metrics


@pytest.fixture
def broker_monitor(world: World, health: Health, runtime_metrics: RuntimeMetrics) -> BrokerMonitor:
    return BrokerMonitor(
        OffsetQueries(world.kafka, SETTINGS), "kafka:9092", health, runtime_metrics, runtime_metrics.assignment
    )


def values(runtime_metrics: RuntimeMetrics, name: str) -> dict[str, float]:
    families = runtime_metrics.families(now=0, dead_letter_rate=False, degraded=False)
    samples = [one for family in families for one in family.samples if one.name == f"hypervisor_telemetry_{name}"]
    return {one.labels["partition"]: one.value for one in samples}


def test_it_says_when_kafka_is_away_and_when_it_is_back(
    world: World, broker_monitor: BrokerMonitor, health: Health
):
    assert not broker_monitor.answers
    broker_monitor.step()
    assert broker_monitor.answers
    assert health.troubles == []

    world.kafka.away()
    broker_monitor.step()
    assert not broker_monitor.answers
    assert health.troubles == ["Kafka at kafka:9092 can't be reached: Local: Timed out."]

    world.kafka.back()
    broker_monitor.step()
    assert broker_monitor.answers
    assert health.troubles == []


def test_it_says_what_the_consumers_connection_met_until_kafka_answers(
    world: World, broker_monitor: BrokerMonitor, health: Health
):
    world.kafka.away()
    broker_monitor.heard("Connection refused")
    broker_monitor.step()
    assert health.troubles == ["Kafka at kafka:9092 can't be reached: Connection refused."]
    world.kafka.back()
    broker_monitor.step()
    world.kafka.away()
    broker_monitor.step()
    assert health.troubles == ["Kafka at kafka:9092 can't be reached: Local: Timed out."]


def test_it_brings_kafkas_word_into_the_ledger(
    world: World, broker_monitor: BrokerMonitor, runtime_metrics: RuntimeMetrics
):
    world.say(0, *"abcde")
    world.consumer().commit(offsets=[confluent_kafka.TopicPartition(*HERE, 2)], asynchronous=False)
    broker_monitor.step()
    assert values(runtime_metrics, "lag_records") == {"0": 0, "1": 0}, "no partition was named"

    for topic_partition in [HERE, THERE]:
        runtime_metrics.assignment[topic_partition].restored(None, 0)
    broker_monitor.step()

    assert values(runtime_metrics, "lag_records") == {"0": 3, "1": 0}
    assert values(runtime_metrics, "log_distance_offsets") == {"0": 2}
    assert values(runtime_metrics, "accounting_difference") == {"0": 1}


def test_it_looks_at_every_partition_of_the_topics_that_are_answered_for(
    world: World, health: Health, runtime_metrics: RuntimeMetrics
):
    broker_monitor = BrokerMonitor(
        OffsetQueries(world.kafka, SETTINGS),
        "kafka:9092",
        health,
        runtime_metrics,
        runtime_metrics.assignment,
        topics=[SOURCE, "t.not.made"],
        now=lambda: 5.0,
    )
    world.say(1, *"abc")
    broker_monitor.step()
    assert runtime_metrics.log_ends.ranges() == {HERE: (0, 0), THERE: (0, 3)}
    assert runtime_metrics.log_ends.longer_since(THERE, 3) == 5.0
    assert runtime_metrics.log_ends.longer_since(THERE, 2) is None


@pytest.mark.parametrize("operation", ["committed", "get_watermark_offsets"])
def test_an_answer_that_is_an_error_is_an_answer_and_the_next_question_has_a_new_connection(
    world: World, broker_monitor: BrokerMonitor, health: Health, runtime_metrics: RuntimeMetrics, operation: str
):
    world.say(0, "a", "b", "c")
    for topic_partition in [HERE]:
        runtime_metrics.assignment[topic_partition].restored(None, 0)
    world.kafka.fail_next(operation, KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION), before=True)
    broker_monitor.step()
    assert broker_monitor.answers
    assert health.troubles == []
    broker_monitor.step()
    assert values(runtime_metrics, "lag_records")["0"] == 1


def test_its_thread_asks_soon_when_something_looks_wrong_and_ends_when_it_is_told(
    world: World, broker_monitor: BrokerMonitor, health: Health
):
    stop = threading.Event()
    thread = threading.Thread(target=broker_monitor.run, args=(stop.is_set,))
    thread.start()
    try:
        eventually(lambda: broker_monitor.answers, bool, 10)
        world.kafka.away()
        broker_monitor.look()
        eventually(lambda: health.troubles, len, 1.5)  # sooner than by itself
        world.kafka.back()
        eventually(lambda: broker_monitor.answers, bool, 10)
    finally:
        stop.set()
        broker_monitor.look()
        thread.join(10)
    assert not thread.is_alive()
