"""Fixtures of all tests: one Kafka for the run, and an environment without the user's own settings."""

from __future__ import annotations

import os
import secrets
import signal
from typing import TYPE_CHECKING

import pytest

from hypervisor_telemetry.local.broker import LocalKafka
from hypervisor_telemetry.local.kafka_choice import Kafka, local_kafka

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["tests.support.skips", "tests.support.postgres"]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So is a run that a shell started in the background; the processes of the tests would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

OF_A_CONFIGURED_SHELL = ("KAFKA_", "TELEMETRY_", "SCHEMA_REGISTRY_URL", "OTEL_EXPORTER_OTLP_")
FOR_THE_TESTS = {"TELEMETRY_TEST_BOOTSTRAP_SERVERS", "TELEMETRY_KAFKA"}


@pytest.fixture(scope="session", autouse=True)
def _no_settings_of_the_user() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environ:
        for name in list(os.environ):
            if name.startswith(OF_A_CONFIGURED_SHELL) and name not in FOR_THE_TESTS:
                environ.delenv(name)
        yield


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The Kafka of this test run, started when the first test asks for it."""
    with local_kafka(None, os.environ) as broker:
        yield broker


@pytest.fixture
def own_kafka() -> Iterator[LocalKafka]:
    """A local Kafka of this test's own, for tests that stop it."""
    with LocalKafka() as broker:
        yield broker


@pytest.fixture
def topic_prefix() -> str:
    """A fresh prefix for the topics and groups of one test."""
    return f"t{secrets.token_hex(4)}."
