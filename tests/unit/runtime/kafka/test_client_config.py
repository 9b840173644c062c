"""The settings that a service gives librdkafka, whatever the environment says."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from hypervisor_consumers.runtime.kafka.client_config import (
    admin_settings,
    consumer_settings,
    query_settings,
    transaction_settings,
    writer_settings,
)
from hypervisor_schemas.topics import DEAD_LETTER_BYTES

KAFKA = {"bootstrap.servers": "127.0.0.1:1"}


def test_what_the_promises_rest_on_cannot_be_changed():
    changed = {
        "group.id": "another",
        "enable.auto.commit": "true",
        "enable.auto.offset.store": "true",
        "auto.offset.reset": "latest",
        "isolation.level": "read_uncommitted",
        "enable.partition.eof": "false",
        "group.remote.assignor": "uniform",
    }

    settings = consumer_settings({**KAFKA, **changed}, "hypervisor.ring-metrics")

    assert {name: settings[name] for name in changed} == {
        "group.id": "hypervisor.ring-metrics",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "group.remote.assignor": "range",
    }


def test_the_classic_protocol_is_taken_when_it_is_asked_for_and_always_cooperative():
    asked = {"group.protocol": "classic", "partition.assignment.strategy": "range", "session.timeout.ms": "9000"}

    settings = consumer_settings({**KAFKA, **asked}, "g")

    assert settings["group.protocol"] == "classic"
    assert settings["partition.assignment.strategy"] == "cooperative-sticky"
    assert settings["session.timeout.ms"] == "9000"
    assert "group.remote.assignor" not in settings


def test_the_environment_decides_everything_else():
    settings = consumer_settings({**KAFKA, "client.id": "mine", "reconnect.backoff.max.ms": "10"}, "g")

    assert settings["client.id"] == "mine"
    assert settings["reconnect.backoff.max.ms"] == "10"


def test_a_transaction_of_a_killed_copy_ends_after_10_s_and_all_takes_part_in_one():
    changed = {"transactional.id": "shared", "transaction.timeout.ms": "900000", "enable.idempotence": "false"}

    settings = transaction_settings(consumer_settings({**KAFKA, **changed}, "g"), "g-1")

    assert settings["transactional.id"] == "g-1"
    assert settings["transaction.timeout.ms"] == 10_000
    assert settings["enable.idempotence"] is True


@pytest.mark.parametrize("protocol", [{}, {"group.protocol": "classic"}])
def test_writers_take_what_is_the_connections_and_nothing_of_the_group(protocol: dict[str, str]):
    changed = {"message.max.bytes": "1000", "compression.type": "zstd", "sasl.username": "me"}

    settings = writer_settings(consumer_settings({**KAFKA, **changed, **protocol}, "g"))

    assert settings["bootstrap.servers"] == KAFKA["bootstrap.servers"]
    assert settings["sasl.username"] == "me"
    assert settings["compression.type"] == "zstd"
    assert settings["enable.idempotence"] is True
    assert settings["message.max.bytes"] == DEAD_LETTER_BYTES, (
        "what Kafka took must fit with a dead letter's headers"
    )
    assert not [name for name in settings if name.startswith(("group.", "auto.", "isolation.", "enable.auto."))]


def test_what_only_asks_is_of_the_group_and_reads_nothing():
    settings = query_settings(consumer_settings({**KAFKA, "sasl.username": "me"}, "g"))

    assert settings["group.id"] == "g"
    assert settings["sasl.username"] == "me"
    assert not [name for name in settings if name.startswith(("group.protocol", "auto.", "isolation.", "logger"))]


@pytest.mark.parametrize("protocol", [{}, {"group.protocol": "classic"}])
def test_librdkafka_takes_the_settings_of_all_clients(protocol: dict[str, str], capfd: pytest.CaptureFixture[str]):
    settings = consumer_settings({**KAFKA, **protocol}, "g")

    Consumer(settings).close()
    Consumer(query_settings(settings)).close()
    AdminClient(admin_settings(settings))
    Producer(writer_settings(settings))
    Producer(transaction_settings(settings, "g-1"))

    assert capfd.readouterr().err == "", "librdkafka warns of a property that has no effect"
