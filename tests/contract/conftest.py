"""Each test of the contract runs on the Kafka in memory and on a real one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.contract.kafka_backends import Backend, InMemory, Moved, Real, World, settle

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", params=["memory", pytest.param("real", marks=pytest.mark.kafka)])
def backend(request: pytest.FixtureRequest) -> Backend:
    if request.param == "memory":
        return InMemory()
    return Real(request.getfixturevalue("kafka").bootstrap_servers)


@pytest.fixture
def world(backend: Backend) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(backend, stack)


@pytest.fixture(scope="module")
def moved(backend: Backend) -> Iterator[Moved]:
    with ExitStack() as stack:
        world = World(backend, stack)
        first = world.member()
        settle(world, first, counts=(3,))
        stale = first.metadata
        second = world.member()
        settle(world, first, second, counts=(1, 2))
        yield Moved(world, first, second, stale)
