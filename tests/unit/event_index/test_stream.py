"""The stream of events, over a real server, with a store that grows meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from hypervisor_consumers.event_index.api import stream
from hypervisor_consumers.event_index.backends.store import EventStore, IndexRow, open_store
from hypervisor_consumers.event_index.query.offset_vector import OffsetVector
from hypervisor_consumers.runtime.ops.http import HttpServer
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.errors import IndexRefused, IndexUnavailable
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_telemetry.index_client.client import IndexClient, Message
from hypervisor_telemetry.index_client.stream_reconnect import follow
from tests.support.index_api import index_app

NOON = datetime(2025, 1, 15, 12, tzinfo=UTC)
A, B = ("t", 0), ("u", 7)
PATH = "/v1/events/stream"


class Log:
    """Partitions that are written to a store."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.next: dict[tuple[str, int], int | None] = {A: None, B: None}
        self.written = 0

    def write(self, topic_partition: tuple[str, int], count: int = 1, **fields: Any) -> list[str]:
        """Write events; returns their ids."""
        first = self.next[topic_partition] or 0
        events = [
            HypervisorEvent(
                event_id=f"{self.written + number:016x}",
                event_type=fields.get("event_type", EventType.RING_ASSIGNED),
                timestamp=NOON + timedelta(seconds=self.written + number),
                session_id=fields.get("session_id", "s"),
                payload=fields.get("payload", {}),
            )
            for number in range(count)
        ]
        rows = [IndexRow(*topic_partition, first + number, event) for number, event in enumerate(events)]
        self.store.write(rows, {topic_partition: (self.next[topic_partition], first + count)})
        self.next[topic_partition] = first + count
        self.written += count
        return [event.event_id for event in events]

    def skip(self, topic_partition: tuple[str, int], count: int) -> None:
        """Move past offsets that hold no event."""
        first = self.next[topic_partition]
        self.next[topic_partition] = (first or 0) + count
        self.store.write([], {topic_partition: (first, (first or 0) + count)})


@pytest.fixture
def log(database_url: str) -> Iterator[Log]:
    with closing(open_store(database_url)) as store:
        yield Log(store)


def served(log: Log) -> HttpServer:
    return HttpServer(index_app(log.store, now=lambda: 0.0), "127.0.0.1", 0)


@pytest.fixture
def server(log: Log) -> Iterator[HttpServer]:
    with closing(served(log)) as running:
        yield running


@pytest.fixture
def client(server: HttpServer) -> IndexClient:
    return IndexClient(server.url)


def ids(messages: Iterator[Message], count: int) -> list[str]:
    events = (message.event for message in messages if message.event is not None)
    return [event["event_id"] for event in islice(events, count)]


def opened(client: IndexClient, after: str | None = None, **parameters: Any) -> Iterator[Message]:
    """The messages of a stream; it begins with the first one that is read."""
    return client.stream(PATH, {name: str(value) for name, value in parameters.items()}, after=after)


def until_served(client: IndexClient) -> None:
    """Wait until one more stream is served."""
    deadline = time.monotonic() + 30
    while True:
        try:
            next(opened(client))
        except IndexUnavailable:
            assert time.monotonic() < deadline
        else:
            return


def test_without_an_id_it_begins_with_what_is_new(log: Log, client: IndexClient) -> None:
    log.write(A, 3)
    messages = opened(client)
    assert next(messages) == Message("t:0.3", None)
    new = log.write(A, 2) + log.write(B, 1)
    assert sorted(ids(messages, 3)) == new


def test_it_can_begin_with_the_last_so_many(log: Log, client: IndexClient) -> None:
    old = log.write(A, 3) + log.write(B, 2)
    messages = opened(client, limit=4)
    first = list(islice(messages, 4))
    assert [message.event["event_id"] for message in first if message.event] == old[-4:]
    assert [message.id for message in first] == [None, None, None, "t:0.3~u:7.2"]
    new = log.write(A)
    assert ids(messages, 1) == new


def test_behind_an_id_come_all_that_are_behind_it_and_none_that_is_before(log: Log, client: IndexClient) -> None:
    everything = log.write(A, 300) + log.write(B, 250)
    assert sorted(ids(opened(client, "t:0.0"), 550)) == everything
    assert sorted(ids(opened(client, "t:0.298~u:7.249"), 3)) == sorted([*everything[298:300], everything[-1]])
    assert sorted(ids(opened(client, last_event_id="t:0.299~u:7.249"), 2)) == [everything[299], everything[-1]]


def test_after_every_message_its_id_is_where_to_go_on(log: Log, client: IndexClient) -> None:
    everything = log.write(A, 12) + log.write(B, 9)
    got: list[str] = []
    at = "t:0.0"
    for _ in range(len(everything)):
        message = next(one for one in opened(client, at) if one.event is not None)
        assert message.event is not None
        assert message.id is not None
        got.append(message.event["event_id"])
        at = message.id
    assert sorted(got) == everything


def test_what_is_committed_late_is_not_missed(log: Log, client: IndexClient) -> None:
    """A copy that writes partition B commits after one that writes A, with older events."""
    messages = opened(client)
    next(messages)
    [first] = log.write(A)
    [seen] = [message for message in islice(messages, 1) if message.event]
    [late] = log.write(B)
    assert ids(messages, 1) == [late]
    assert seen.event is not None
    assert seen.event["event_id"] == first


def test_a_partitions_events_come_in_its_order_and_all_about_by_time(log: Log, client: IndexClient) -> None:
    inter = [log.write(topic_partition)[0] for topic_partition in (A, B, A, B, B, A)]
    assert ids(opened(client, "t:0.0"), 6) == inter


@pytest.mark.parametrize(
    "parameters", [{"session_id": "mine"}, {"event_type": "vfs.write"}, {"event_type": "vfs"}], ids=str
)
def test_only_what_fits_comes(log: Log, client: IndexClient, parameters: dict[str, str]) -> None:
    messages = opened(client, **parameters)
    next(messages)
    log.write(A, 5)
    mine = log.write(A, event_type=EventType.VFS_WRITE, session_id="mine")
    log.write(A, 5)
    assert ids(messages, 1) == mine


def test_a_filter_that_nothing_fits_still_tells_how_far_it_is(log: Log, client: IndexClient) -> None:
    messages = opened(client, session_id="nobody")
    next(messages)
    log.write(A, 30)
    log.skip(B, 20_123)
    positions = (message.id for message in messages)
    assert next(at for at in positions if at == "t:0.30~u:7.20123")


def test_following_goes_on_over_a_server_that_was_started_anew(log: Log) -> None:
    server = served(log)
    port = int(server.url.rpartition(":")[2])

    def pause(_: float) -> None:
        """Write events while there is no server, then start one."""
        nonlocal server
        log.write(A, 2)
        server = HttpServer(index_app(log.store, now=lambda: 0.0), "127.0.0.1", port)

    log.write(A, 2)
    events = follow(IndexClient(server.url), {}, 1, say=lambda _: None, pause=pause)
    got = [next(events)["event_id"]]
    server.close()
    got += [event["event_id"] for event in islice(events, 2)]
    assert got == [f"{number:016x}" for number in (1, 2, 3)]
    events.close()
    server.close()


def test_closing_the_server_ends_a_stream_at_once(log: Log, caplog: pytest.LogCaptureFixture) -> None:
    server = served(log)
    messages = opened(IndexClient(server.url))
    next(messages)
    ended = threading.Event()

    def read() -> None:
        list(messages)
        ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    server.close()
    assert ended.wait(30)
    reader.join()
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


def test_a_client_that_takes_nothing_holds_up_neither_ingest_nor_others(log: Log, server: HttpServer) -> None:
    stuck = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    stuck.sendall(f"GET {PATH}?last_event_id=t:0.0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    with closing(stuck):
        assert stuck.recv(12) == b"HTTP/1.1 200"
        everything = [each for _ in range(20) for each in log.write(A, 100, payload={"text": "x" * 10_000})]
        assert ids(opened(IndexClient(server.url), "t:0.0"), 2000) == everything


def test_a_client_that_takes_nothing_for_long_loses_its_stream(
    log: Log, server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS", 1)
    monkeypatch.setattr(stream, "_SEND_TIMEOUT_SECONDS", 0.2)
    for _ in range(20):
        log.write(A, 100, payload={"text": "x" * 10_000})
    stuck = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
    with closing(stuck):
        stuck.sendall(f"GET {PATH}?last_event_id=t:0.0 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert stuck.recv(12) == b"HTTP/1.1 200"
        until_served(IndexClient(server.url))


def test_of_too_many_streams_one_is_refused_with_a_sentence_and_served_when_another_ends(
    log: Log, client: IndexClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_STREAMS", 2)
    streams = [opened(client) for _ in range(2)]
    for messages in streams:
        next(messages)
    with pytest.raises(IndexUnavailable, match="503: 2 streams are open, more are not served"):
        next(opened(client))
    streams[0].close()  # type: ignore[attr-defined]
    log.write(A)  # with something to send the server finds out at once
    until_served(client)


@pytest.mark.parametrize("bad", ["?", "t", "t:0.0~", "x" * 17_000])
def test_what_is_no_id_is_refused(client: IndexClient, bad: str) -> None:
    with pytest.raises(IndexRefused, match=r"4(00|22|31)"):
        next(opened(client, last_event_id=bad))


def test_a_vector_is_a_read_token_whatever_moves() -> None:
    at = OffsetVector({TopicPartition("t", 1): 5})
    at.move(TopicPartition("s", 0), 3)
    at.move(TopicPartition("t", 0), 1)
    at.move(TopicPartition("t", 1), 4)  # not backwards
    assert str(at) == "s:0.3~t:0.1:1.5"
    assert at.behind(
        {TopicPartition("t", 0): 1, TopicPartition("t", 1): 6, TopicPartition("x", 0): 1, TopicPartition("y", 0): 0}
    ) == {
        TopicPartition("t", 1): 6,
        TopicPartition("x", 0): 1,
    }


def test_an_index_that_holds_nothing_has_an_id_all_the_same(log: Log, client: IndexClient) -> None:
    at = next(opened(client)).id
    everything = log.write(A, 2)
    assert ids(opened(client, at), 2) == everything
