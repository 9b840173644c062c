"""Asking the index over HTTP: what can go wrong, each in a sentence, and what is never given away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse

from hypervisor_consumers.event_index.api.routes import create_router
from hypervisor_consumers.event_index.backends.store import EventStore, open_store
from hypervisor_consumers.runtime.ops.freshness import IndexFreshness
from hypervisor_consumers.runtime.ops.http import HttpServer
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_schemas.errors import IndexRefused, IndexUnavailable, SettingError
from hypervisor_telemetry import RemoteEventBus

TOKEN = "pässwört-日本"  # noqa: S105 - a test's own


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with closing(open_store(database_url)) as opened:
        yield opened


@pytest.fixture
def url(store: EventStore) -> Iterator[str]:
    app = FastAPI()
    app.include_router(create_router(store, IndexFreshness(RuntimeMetrics(), lambda: 0.0), TOKEN))

    with closing(HttpServer(app, "127.0.0.1", 0)) as server:
        yield server.url


def serving(answer: Response) -> HttpServer:
    app = FastAPI()
    app.add_api_route("/v1/stats", lambda: answer)
    return HttpServer(app, "127.0.0.1", 0)


def test_the_token_may_be_any_text(url: str) -> None:
    assert RemoteEventBus(f"{url}/", TOKEN).event_count == 0


@pytest.mark.parametrize("token", [None, "", "wrong"])
def test_without_the_right_token_the_services_sentence_is_the_errors(url: str, token: str | None) -> None:
    with pytest.raises(IndexRefused, match="answered 401: This needs the header") as raised:
        RemoteEventBus(url, token).query()
    assert "wrong" not in str(raised.value)


def test_a_value_out_of_bounds_is_refused_with_its_name(url: str) -> None:
    with pytest.raises(IndexRefused, match="answered 422: session_id: String should have at most 1024"):
        RemoteEventBus(url, TOKEN).query_by_session("x" * 1025)


def test_waiting_returns_when_the_index_includes_what_was_written(url: str, store: EventStore) -> None:
    bus = RemoteEventBus(url, TOKEN)
    bus.wait_for("")
    with pytest.raises(IndexUnavailable, match=r"answered 504: The index doesn't include partition 3 of t up to"):
        bus.wait_for("t:3.1", seconds=0)
    waited = threading.Thread(target=bus.wait_for, args=("t:3.1", 30))
    waited.start()
    store.write([], {("t", 3): (None, 1)})
    waited.join(60)
    assert not waited.is_alive()
    bus.wait_for("t:3.1", seconds=0)


def test_an_index_that_is_not_there_is_said_so_in_a_sentence() -> None:
    server = serving(Response())
    server.close()
    with pytest.raises(IndexUnavailable, match=r"The event index at http://127\.0\.0\.1:\d+ can't be reached: "):
        RemoteEventBus(server.url).type_counts()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"hello": "world"}', "\xff"])
def test_what_answers_otherwise_is_no_event_index(text: str) -> None:
    with (
        closing(serving(Response(text.encode("latin-1"), media_type="application/json"))) as server,
        pytest.raises(IndexRefused, match="is no event index"),
    ):
        RemoteEventBus(server.url).type_counts()


@pytest.mark.parametrize(("status", "error"), [(503, IndexUnavailable), (500, IndexRefused), (404, IndexRefused)])
def test_an_error_without_a_sentence_is_its_status(status: int, error: type[Exception]) -> None:
    with (
        closing(serving(Response("<html>", status))) as server,
        pytest.raises(error, match=rf"answered {status}\.$"),
    ):
        RemoteEventBus(server.url).type_counts()


def test_a_redirect_does_not_take_the_token_along(url: str) -> None:
    with (
        closing(serving(RedirectResponse(f"{url}/v1/stats"))) as server,
        pytest.raises(IndexRefused, match="answered 307"),
    ):
        RemoteEventBus(server.url, TOKEN).type_counts()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "127.0.0.1:8002",
        "ftp://host",
        "http://",
        "http://host:0",
        "http://host:x",
        "http://user:hunter2@host",
        "http://host?x=1",
        "file:///etc/passwd",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_at_once(address: str) -> None:
    with pytest.raises(SettingError, match="must be http://host") as raised:
        RemoteEventBus(address)
    assert "hunter2" not in str(raised.value)
