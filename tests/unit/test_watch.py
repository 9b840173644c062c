"""Whether Kafka answers, and its own word on where the group stands and the logs end."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka import KafkaError, TopicPartition

from hypervisor_consumers.runtime.account import Account
from hypervisor_consumers.runtime.asker import Asker
from hypervisor_consumers.runtime.health import Health
from hypervisor_consumers.runtime.metrics import Ledger
from hypervisor_consumers.runtime.processor import Place
from hypervisor_consumers.runtime.watch import BrokerWatch
from tests.services import eventually
from tests.words import SETTINGS, SOURCE, World

HERE, THERE = Place(SOURCE, 0), Place(SOURCE, 1)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger()
    ledger.rebalanced(came=[HERE, THERE])
    for place in (HERE, THERE):
        ledger.restored(place, Account(0, 2, {"applied": 1}), 1)
    return ledger


@pytest.fixture
def watch(world: World, health: Health, ledger: Ledger) -> BrokerWatch:
    return BrokerWatch(Asker(world.kafka, SETTINGS), "kafka:9092", health, ledger)


def values(ledger: Ledger, name: str) -> dict[str, float]:
    families = ledger.families(now=0, flood=False, degraded=False)
    samples = [one for family in families for one in family.samples if one.name == f"hypervisor_telemetry_{name}"]
    return {one.labels["partition"]: one.value for one in samples}


def test_it_says_when_kafka_is_away_and_when_it_is_back(world: World, watch: BrokerWatch, health: Health):
    assert not watch.answers
    watch.step()
    assert watch.answers
    assert health.troubles == []

    world.kafka.away()
    watch.step()
    assert not watch.answers
    assert health.troubles == ["Kafka at kafka:9092 can't be reached: Local: Timed out."]

    world.kafka.back()
    watch.step()
    assert watch.answers
    assert health.troubles == []


def test_it_says_what_the_consumers_connection_met_until_kafka_answers(
    world: World, watch: BrokerWatch, health: Health
):
    world.kafka.away()
    watch.heard("Connection refused")
    watch.step()
    assert health.troubles == ["Kafka at kafka:9092 can't be reached: Connection refused."]
    world.kafka.back()
    watch.step()
    world.kafka.away()
    watch.step()
    assert health.troubles == ["Kafka at kafka:9092 can't be reached: Local: Timed out."]


def test_it_brings_kafkas_word_into_the_ledger(world: World, watch: BrokerWatch, ledger: Ledger):
    world.say(0, *"abcde")
    world.consumer().commit(offsets=[TopicPartition(*HERE, 2)], asynchronous=False)
    watch.step()
    assert values(ledger, "lag_records") == {"0": 0, "1": 0}, "no partition was named"

    watch.places = [HERE, THERE]
    watch.step()

    assert values(ledger, "lag_records") == {"0": 3, "1": 0}
    assert values(ledger, "log_distance_offsets") == {"0": 2}
    assert values(ledger, "accounting_difference") == {"0": 1}


def test_it_looks_at_every_partition_of_the_topics_that_are_answered_for(
    world: World, health: Health, ledger: Ledger
):
    watch = BrokerWatch(
        Asker(world.kafka, SETTINGS), "kafka:9092", health, ledger, topics=[SOURCE, "t.not.made"], now=lambda: 5.0
    )
    world.say(1, *"abc")
    watch.step()
    assert ledger.logs.ranges() == {HERE: (0, 0), THERE: (0, 3)}
    assert ledger.logs.longer_since(THERE, 3) == 5.0
    assert ledger.logs.longer_since(THERE, 2) is None


@pytest.mark.parametrize("operation", ["committed", "get_watermark_offsets"])
def test_an_answer_that_is_an_error_is_an_answer_and_the_next_question_has_a_new_connection(
    world: World, watch: BrokerWatch, health: Health, ledger: Ledger, operation: str
):
    world.say(0, "a", "b", "c")
    watch.places = [HERE]
    world.kafka.fail_next(operation, KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION), before=True)
    watch.step()
    assert watch.answers
    assert health.troubles == []
    watch.step()
    assert values(ledger, "lag_records")["0"] == 1


def test_its_thread_asks_soon_when_something_looks_wrong_and_ends_when_it_is_told(
    world: World, watch: BrokerWatch, health: Health
):
    stop = threading.Event()
    thread = threading.Thread(target=watch.run, args=(stop.is_set,))
    thread.start()
    try:
        eventually(lambda: watch.answers, bool, 10)
        world.kafka.away()
        watch.look()
        eventually(lambda: health.troubles, len, 1.5)  # sooner than by itself
        world.kafka.back()
        eventually(lambda: watch.answers, bool, 10)
    finally:
        stop.set()
        watch.look()
        thread.join(10)
    assert not thread.is_alive()
