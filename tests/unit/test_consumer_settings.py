"""What a service asks of librdkafka, whatever the environment says."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient

from hypervisor_consumers.runtime.client import admin_settings, consumer_settings

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


@pytest.mark.parametrize("protocol", [{}, {"group.protocol": "classic"}])
def test_librdkafka_takes_the_settings_of_both_clients(protocol: dict[str, str], capfd: pytest.CaptureFixture[str]):
    settings = consumer_settings({**KAFKA, **protocol}, "g")

    Consumer(settings).close()
    AdminClient(admin_settings(settings))

    assert capfd.readouterr().err == "", "librdkafka warns of a property that has no effect"
