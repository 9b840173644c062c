"""Fleets on the shared Kafka."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.service_processes import Fleet, fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hypervisor_telemetry.local.kafka_choice import Kafka


@pytest.fixture(scope="module")
def new_fleet(kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Fleet]]:
    """Makes a fleet with topics of so many partitions, for the tests of this module."""
    with ExitStack() as stack:

        def make(partitions: int) -> Fleet:
            folder = tmp_path_factory.mktemp("fleet")
            it = fleet(kafka.bootstrap_servers, f"t{secrets.token_hex(4)}.", folder)
            return stack.enter_context(it).make_topics(partitions)

        yield make
