"""The freshness of answers of the event index, and waiting for a read token."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from hypervisor_consumers.event_index.api.read_your_writes import OffsetWaiter
from hypervisor_consumers.event_index.backends.store import EventStore, IndexRow
from hypervisor_consumers.event_index.errors import StoreUnavailable
from hypervisor_consumers.runtime.ops.runtime_metrics import RuntimeMetrics
from hypervisor_consumers.runtime.partitions.offset_accounting import Account
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.events import HypervisorEvent
from tests.support.app_client import Client
from tests.support.index_api import answer, index_app

RING, SAGA = TopicPartition("t.events.ring", 0), TopicPartition("t.events.saga", 11)
NOW = 1_000_000.0


@pytest.fixture
def runtime_metrics() -> RuntimeMetrics:
    return RuntimeMetrics()


@pytest.fixture
def app(store: EventStore, runtime_metrics: RuntimeMetrics) -> FastAPI:
    return index_app(store, runtime_metrics=runtime_metrics, now=lambda: NOW)


@pytest.fixture
def client(app: FastAPI) -> Client:
    return Client(app)


def move(store: EventStore, topic_partition: TopicPartition, offset: int) -> None:
    store.write([], {topic_partition: (store.next_offset(*topic_partition), offset)})


# --- freshness


@pytest.mark.parametrize("path", ["/v1/events", "/v1/stats", "/v1/events/e"])
def test_every_answer_tells_what_it_includes_and_what_is_behind(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics, path: str
) -> None:
    store.write([IndexRow(*RING, 6, HypervisorEvent(event_id="e"))], {RING: (None, 7)})
    move(store, SAGA, 20)
    runtime_metrics.log_ends.saw({RING: (0, 7), SAGA: (3, 20)}, NOW - 2.5)
    runtime_metrics.log_ends.saw({RING: (0, 10), SAGA: (3, 20)}, NOW)
    body = answer(client, path)
    assert body["freshness"] == {
        "includes": {"t.events.ring": {"0": 7}, "t.events.saga": {"11": 20}},
        "lag_records": 3,
        "lag_seconds": 2.5,
    }
    assert body["is_partial"] is False


def lag(client: Client) -> tuple[int | None, float | None]:
    freshness = answer(client)["freshness"]
    return freshness["lag_records"], freshness["lag_seconds"]


def test_what_is_read_further_than_kafka_told_is_no_lag(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    runtime_metrics.log_ends.saw({RING: (0, 5)}, NOW - 100)
    assert lag(client) == (0, 0)


def test_a_lag_that_is_not_known_is_null(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    move(store, SAGA, 20)
    assert lag(client) == (None, None)
    runtime_metrics.log_ends.saw({RING: (0, 10)}, NOW - 60)
    runtime_metrics.log_ends.saw({SAGA: (0, 20)}, NOW)
    assert lag(client) == (3, None), "when the first of them came isn't known"
    move(store, RING, 10)
    runtime_metrics.log_ends.saw({RING: (0, 11)}, NOW - 1)
    assert lag(client) == (1, 60), "it may have come right after the look that was 60 s ago"


def test_the_last_record_of_a_partition_that_this_copy_reads_tells_more_exactly(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    runtime_metrics.assignment.assign([RING])
    runtime_metrics.log_ends.saw({RING: (0, 10)}, NOW)
    runtime_metrics.assignment[RING].accounting.committed(Account(0, 7, {}, int(NOW * 1000) - 9000))
    assert lag(client) == (3, 9)


def test_the_lag_is_of_all_partitions_and_of_the_one_that_waits_longest(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    move(store, SAGA, 20)
    runtime_metrics.log_ends.saw({RING: (0, 7), SAGA: (0, 20)}, NOW - 30)
    runtime_metrics.log_ends.saw({RING: (0, 7), SAGA: (0, 21)}, NOW - 20)
    runtime_metrics.log_ends.saw({RING: (0, 8), SAGA: (0, 22)}, NOW - 10)
    assert lag(client) == (3, 30)
    move(store, SAGA, 21)
    assert lag(client) == (2, 20)


def test_what_retention_has_deleted_unread_is_no_lag(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    runtime_metrics.log_ends.saw({RING: (100, 110), SAGA: (5, 6)}, NOW)
    assert lag(client) == (11, None)


def test_a_topic_that_is_not_there_any_more_has_no_lag(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    move(store, SAGA, 20)
    runtime_metrics.log_ends.saw({RING: (0, 7)}, NOW)
    assert lag(client) == (0, 0)
    assert answer(client)["is_partial"] is False
    move(store, TopicPartition(RING.topic, 1), 5)
    assert lag(client) == (None, None), "a partition of a topic that is there"


def test_an_answer_is_partial_until_every_partition_is_in_the_index(
    client: Client, store: EventStore, runtime_metrics: RuntimeMetrics
) -> None:
    move(store, RING, 7)
    assert answer(client)["is_partial"] is True, "nothing is known of the logs"
    runtime_metrics.log_ends.saw({RING: (0, 7), SAGA: (0, 0)}, NOW)
    assert answer(client)["is_partial"] is False, "an empty log is not missing"
    runtime_metrics.log_ends.saw({SAGA: (5, 5)}, NOW)
    assert answer(client)["is_partial"] is False, "nor one that is empty again"
    runtime_metrics.log_ends.saw({SAGA: (5, 6)}, NOW)
    assert answer(client)["is_partial"] is True, "no copy has written anything of it"
    move(store, SAGA, 6)
    assert answer(client)["is_partial"] is False
    runtime_metrics.assignment.assign([TopicPartition(SAGA.topic, 0)])
    assert answer(client)["is_partial"] is True, "one that this copy reads"


# --- a read token


def test_what_is_included_already_is_answered(client: Client, store: EventStore) -> None:
    move(store, RING, 7)
    for offset in (0, 6, 7):
        answer(client, f"/v1/events?after=t.events.ring:0.{offset}&wait=0")
    answer(client, "/v1/stats?after=")


def test_what_does_not_come_in_time_is_504_with_a_sentence(client: Client, store: EventStore) -> None:
    move(store, RING, 7)
    response = client.get("/v1/events?after=t.events.ring:0.8~t.events.saga:11.1&wait=0.01")
    assert response.status_code == 504
    assert response.json()["detail"] == (
        "The index doesn't include partition 0 of t.events.ring up to offset 8 after 0.01 s; it is at 7, and of 1 "
        "more partitions neither. Ask again with the same token, or without it for what there is."
    )


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=yesterday", "after"),
        ("after=" + "x" * 20_000, "after"),
        ("after=t:0.1&wait=31", "wait"),
        ("after=t:0.1&wait=-1", "wait"),
        ("after=t:0.1&wait=nan", "wait"),
        ("after=t:0.1&wait=inf", "wait"),
    ],
)
def test_a_wrong_token_or_an_endless_wait_is_refused(client: Client, query: str, parameter: str) -> None:
    for path in ("/v1/events", "/v1/stats", "/v1/events/1"):
        response = client.get(f"{path}?{query}")
        assert response.status_code == 422
        assert [error["loc"] for error in response.json()["detail"]] == [["query", parameter]]


def test_many_waiting_requests_block_nobody_and_get_what_they_wait_for(app: FastAPI, store: EventStore) -> None:
    event = HypervisorEvent(session_id="s1")

    async def ask() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60) as client:
            path = "/v1/events?session_id=s1&wait=30&after=t.events.ring:0.1"
            waiting = [asyncio.create_task(client.get(path)) for _ in range(200)]
            for _ in range(20):
                assert (await client.get("/v1/stats")).json()["event_count"] == 0
            assert not any(task.done() for task in waiting)
            store.write([IndexRow(*RING, 0, event)], {RING: (None, 1)})
            for response in await asyncio.gather(*waiting):
                assert [one["event_id"] for one in response.json()["events"]] == [event.event_id]

    asyncio.run(ask())


def test_waiting_requests_share_each_poll() -> None:
    polls = 0

    def offsets() -> dict[TopicPartition, int]:
        nonlocal polls
        polls += 1
        return {RING: polls}

    async def wait() -> list[dict[TopicPartition, int]]:
        waiter = OffsetWaiter(offsets, poll_seconds=0)
        return await asyncio.gather(*(waiter.missing({RING: 5}, 30) for _ in range(300)))

    assert asyncio.run(wait()) == [{}] * 300
    assert polls == 5


def test_a_cancelled_request_does_not_end_the_wait_of_the_others() -> None:
    succeeded = asyncio.Event()
    here: dict[TopicPartition, int] = {}

    async def wait() -> None:
        waiter = OffsetWaiter(lambda: dict(here), poll_seconds=0)
        impatient, patient = (asyncio.create_task(waiter.missing({RING: 1}, 30)) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait({impatient})
        assert impatient.cancelled()
        here[RING] = 1
        assert await patient == {}
        succeeded.set()

    asyncio.run(wait())
    assert succeeded.is_set()


def test_a_database_that_cannot_be_read_is_503_for_a_waiting_request(app: FastAPI, store: EventStore) -> None:
    def away() -> dict[TopicPartition, int]:
        raise StoreUnavailable("It is away.")

    async def wait() -> None:
        waiter = OffsetWaiter(away)
        with pytest.raises(StoreUnavailable):
            await waiter.missing({RING: 1}, 30)

    asyncio.run(wait())
    with store._database.writer.begin() as connection:
        connection.exec_driver_sql("DROP TABLE offsets")
    response = Client(app).get("/v1/events?after=t:0.1")
    assert response.status_code == 503
