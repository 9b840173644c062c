"""Fixtures of the event index's tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from hypervisor_consumers.event_index.backends.store import EventStore, open_store
from tests.support.event_rows import Clock
from tests.support.postgres import Postgres


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    """An empty store, on each kind of database in turn."""
    with closing(open_store(database_url)) as opened:
        yield opened


@pytest.fixture
def url(postgres: Postgres) -> str:
    """The URL of an empty PostgreSQL database."""
    return postgres.new_database()


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock()
