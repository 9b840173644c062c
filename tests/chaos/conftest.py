"""Chaos comes short (in `make test`) or long (`make chaos`), from a seed that is printed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.service_processes import Fleet, fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hypervisor_telemetry.local.kafka_choice import Kafka


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", choices=["short", "long"], default="short", help="how long chaos lasts")
    parser.addoption("--chaos-seed", type=int, default=None, help="the seed of a run that is to be repeated")


@dataclass(frozen=True)
class Chaos:
    """The seed and the length of this run."""

    seed: int
    is_long: bool

    @property
    def random(self) -> Random:
        return Random(self.seed)

    def scaled(self, short: int, long: int) -> int:
        return long if self.is_long else short


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Chaos:
    seed = request.config.getoption("--chaos-seed")
    if seed is None:
        seed = secrets.randbelow(1_000_000)
    print(f"\nto repeat this run: --chaos-seed {seed}")
    return Chaos(seed, request.config.getoption("--chaos") == "long")


@pytest.fixture
def new_fleet(kafka: Kafka, tmp_path: Path) -> Iterator[Callable[[int], Fleet]]:
    """Makes a fleet on the shared Kafka with topics of so many partitions."""
    fleets = []

    def make(partitions: int) -> Fleet:
        it = fleet(kafka.bootstrap_servers, f"c{secrets.token_hex(4)}.", tmp_path)
        fleets.append(it)
        return it.__enter__().make_topics(partitions)

    yield make
    for it in fleets:
        it.__exit__(None, None, None)
