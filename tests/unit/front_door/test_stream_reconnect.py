"""Following the index's stream over lost connections: nothing lost, nothing twice, and it is said."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
from fastapi import FastAPI, Header, Response
from fastapi.responses import StreamingResponse

from hypervisor_consumers.runtime.ops.http import HttpServer
from hypervisor_schemas.errors import IndexRefused, IndexUnavailable
from hypervisor_telemetry.index_client.client import IndexClient
from hypervisor_telemetry.index_client.stream_reconnect import follow


class Index:
    """Serves scripted connections, one after the other, and notes what was asked."""

    def __init__(self, *connections: Response | list[str]) -> None:
        self._connections = list(connections)
        self.asked: list[tuple[str | None, str | None]] = []
        app = FastAPI()
        app.add_api_route("/v1/events/stream", self._stream)
        self.server = HttpServer(app, "127.0.0.1", 0)

    def _stream(self, limit: str | None = None, last_event_id: str | None = Header(None)) -> Response:
        self.asked.append((limit, last_event_id))
        told = self._connections.pop(0)
        if isinstance(told, Response):
            return told
        return StreamingResponse(iter(told), media_type="text/event-stream")


def message(number: int) -> str:
    return f'id: t:0.{number + 1}\nevent: event\ndata: {{"event_id": "{number}"}}\n\n'


def numbers(found: Iterator[dict[str, Any]], count: int) -> list[int]:
    return [int(event["event_id"]) for event in islice(found, count)]


class Following:
    def __init__(self, index: Index, last: int = 10) -> None:
        self.said: list[str] = []
        self.pauses: list[float] = []
        self.events = follow(
            IndexClient(index.server.url), {}, last, say=self.said.append, pause=self.pauses.append
        )


@pytest.fixture
def serving() -> Iterator[Any]:
    opened: list[Index] = []

    def serve(*connections: Response | list[str]) -> Index:
        opened.append(Index(*connections))
        return opened[-1]

    yield serve
    for one in opened:
        one.server.close()


def test_a_connection_that_ends_goes_on_behind_the_last_message(serving: Any) -> None:
    index = serving([message(0), message(1)], [message(2)], [": alive\n\n", "id: t:0.9\n\n"], [message(9)])
    following = Following(index)
    assert numbers(following.events, 4) == [0, 1, 2, 9]
    assert index.asked == [("10", None), (None, "t:0.2"), (None, "t:0.3"), (None, "t:0.9")]
    assert following.said == []


def test_a_message_that_was_cut_off_is_not_taken(serving: Any) -> None:
    index = serving([message(0), message(1)[:-1]], [message(1)])
    assert numbers(Following(index).events, 2) == [0, 1]
    assert index.asked[1] == (None, "t:0.1")


def test_several_lines_of_data_and_carriage_returns_are_one_message(serving: Any) -> None:
    index = serving(['id:t:0.1\r\ndata:{"event_id":\r\ndata: "7"}\r\n\r\n'])
    assert numbers(Following(index).events, 1) == [7]


def test_an_index_that_is_in_trouble_is_asked_again_ever_more_slowly_and_that_is_said_once(serving: Any) -> None:
    trouble = [Response('{"detail": "The database is away."}', 503) for _ in range(7)]
    index = serving([message(0)], *trouble, [message(1)], [message(2)])
    following = Following(index)
    assert numbers(following.events, 3) == [0, 1, 2]
    assert following.said == [
        f"The event index at {index.server.url} answered 503: The database is away. Trying again until Ctrl-C.",
        "The event index answers again.",
    ]
    assert following.pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 0.25]


def test_the_first_connection_has_to_succeed(serving: Any) -> None:
    with pytest.raises(IndexUnavailable, match="503"):
        next(Following(serving(Response(status_code=503))).events)


def test_a_refusal_ends_it(serving: Any) -> None:
    following = Following(serving([message(0)], Response(status_code=401)))
    assert numbers(following.events, 1) == [0]
    with pytest.raises(IndexRefused, match="401"):
        next(following.events)


def test_what_is_no_stream_is_said_so(serving: Any) -> None:
    with pytest.raises(IndexRefused, match="is no event index"):
        next(Following(serving(Response("<html>", media_type="text/html"))).events)


def test_an_event_comes_before_the_connection_ends(serving: Any) -> None:
    """Else `tail` would show it when the next one comes."""
    let_go = threading.Event()

    def told() -> Iterator[str]:
        yield message(0)
        let_go.wait(60)

    index = serving(StreamingResponse(told(), media_type="text/event-stream"))
    with closing(Following(index).events) as events:
        assert next(events)["event_id"] == "0"
        let_go.set()
