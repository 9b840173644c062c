"""The HTTP API of the event index in this process: its application, its answers, and events to query."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from hypervisor_consumers.event_index.api.routes import create_router
from hypervisor_consumers.event_index.backends.store import EventStore
from hypervisor_consumers.event_index.tables import IndexRow
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_schemas.events import HypervisorEvent
from tests.support.app_client import Client

__all__ = ["answer", "index_app", "refusal", "write"]


def index_app(
    store: EventStore,
    token: str | None = None,
    *,
    runtime_metrics: RuntimeMetrics | None = None,
    now: Callable[[], float] = time.time,
) -> FastAPI:
    """The application that serves this store."""
    app = FastAPI()
    app.include_router(create_router(store, IndexFreshness(runtime_metrics or RuntimeMetrics(), now), token))
    return app


def write(store: EventStore, *events: HypervisorEvent, topic: str = "t") -> None:
    """Append events to partition 0 of a topic."""
    old = store.next_offset(topic, 0)
    first = old or 0
    rows = [IndexRow(topic, 0, first + number, event) for number, event in enumerate(events)]
    store.write(rows, {(topic, 0): (old, first + len(rows))})


def answer(client: Client, path: str = "/v1/events") -> dict[str, Any]:
    """The body of a response with status 200."""
    response = client.get(path)
    assert response.status_code == 200, response.text
    return dict(response.json())


def refusal(client: Client, path: str) -> tuple[list[str], str]:
    """The location and the sentence of the only error of a response with status 422."""
    response = client.get(path)
    assert response.status_code == 422, response.text
    [error] = response.json()["detail"]
    return error["loc"], error["msg"]
