"""The HTTP side of a service, over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import fastapi
import httpx
import pytest
from prometheus_client.metrics_core import CounterMetricFamily, Metric

from hypervisor_consumers.runtime.ops.health import Health
from hypervisor_consumers.runtime.ops.http import HttpServer, make_app
from hypervisor_schemas.errors import SettingError


class Words:
    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily("words_total", "Words heard.", labels=["word"])
        family.add_metric(['"ä"\n'], 2)
        yield family


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


@pytest.fixture
def client(health: Health) -> Iterator[httpx.Client]:
    router = fastapi.APIRouter(prefix="/v1")
    router.add_api_route("/more", lambda: {"more": True})
    server = HttpServer(make_app("words", health, Words().collect, [router]), "127.0.0.1", 0)
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client
    server.close()


def test_metrics_are_the_prometheus_text_format(client: httpx.Client):
    answer = client.get("/metrics")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.text == (
        '# HELP words_total Words heard.\n# TYPE words_total counter\nwords_total{word="\\"ä\\"\\n"} 2.0\n'
    )


def test_metrics_are_openmetrics_for_who_asks_for_it(client: httpx.Client):
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text == (
        '# HELP words Words heard.\n# TYPE words counter\nwords_total{word="\\"ä\\"\\n"} 2.0\n# EOF\n'
    )


def test_healthz_fails_when_the_loop_has_stalled(client: httpx.Client, health: Health, clock: Clock):
    assert (client.get("/healthz").status_code, client.get("/healthz").text) == (200, "ok\n")

    clock.now += 30
    stalled = client.get("/healthz")
    assert (stalled.status_code, stalled.text) == (503, "stalled: the consumer loop has not turned for 30 s\n")

    health.turned()
    assert client.get("/healthz").status_code == 200


def test_readyz_says_what_it_waits_for_and_what_is_in_trouble(client: httpx.Client, health: Health):
    def ready() -> tuple[int, str]:
        answer = client.get("/readyz")
        return answer.status_code, answer.text

    assert ready() == (503, "restoring\n")
    health.trouble("kafka", "Kafka can't be reached.")
    assert ready() == (503, "degraded\nKafka can't be reached.\n")
    health.better("kafka")
    health.became_ready()
    assert ready() == (200, "ok\n")
    health.trouble("output", "The disk is full.")
    health.trouble("registry", "The registry is away.")
    assert ready() == (200, "degraded\nThe disk is full.\nThe registry is away.\n")


def test_what_the_service_adds_is_served_beside_it(client: httpx.Client):
    assert client.get("/v1/more").json() == {"more": True}
    assert client.get("/v1/none").status_code == 404


def test_a_port_that_is_taken_is_a_setting_error(health: Health):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(SettingError, match=rf"^--port {port} on 127.0.0.1 can't be used \(.*choose another"):
            HttpServer(make_app("words", health, list), "127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_an_address_that_cannot_be_bound_is_a_setting_error(health: Health, host: str):
    with pytest.raises(SettingError, match=rf"^--port 0 on {host} can't be used \("):
        HttpServer(make_app("words", health, list), host, 0)


def test_after_closing_the_port_is_free(health: Health):
    server = HttpServer(make_app("words", health, list), "127.0.0.1", 0)
    port = int(server.url.rpartition(":")[2])
    assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 200

    server.close()

    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_metrics_are_compressed_for_who_asks_for_it(client: httpx.Client, encoding: str):
    answer = client.get("/metrics", headers={"accept-encoding": encoding})

    assert answer.headers.get("content-encoding", "identity") == encoding
    assert answer.headers["vary"] == "accept, accept-encoding"
    assert answer.text.startswith("# HELP words_total Words heard.\n")


class Numbers:
    """Numbers that belong to the log, shown while the lease lasts; reading them may take long."""

    def __init__(self) -> None:
        self.is_valid = True
        self.freezes = False
        self.collected = 0

    def may_show(self) -> bool:
        return self.is_valid

    def collect(self) -> Iterable[Metric]:
        self.collected += 1
        family = CounterMetricFamily("numbers", "Of the log.", value=7 if self.is_valid else None)
        if self.freezes:
            self.is_valid = False
        yield family


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
def numbers_client(health: Health, numbers: Numbers) -> Iterator[httpx.Client]:
    server = HttpServer(make_app("numbers", health, numbers.collect, may_show=numbers.may_show), "127.0.0.1", 0)
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client
    server.close()


def test_what_was_collected_while_it_could_be_shown_is_not_given_out_after_that(
    numbers: Numbers, numbers_client: httpx.Client
):
    assert "numbers_total 7.0" in numbers_client.get("/metrics").text
    numbers.freezes = True

    assert numbers_client.get("/metrics").text == "# HELP numbers_total Of the log.\n# TYPE numbers_total counter\n"


@pytest.mark.parametrize("is_valid", [True, False])
def test_what_did_not_change_meanwhile_is_collected_once(
    numbers: Numbers, numbers_client: httpx.Client, is_valid: bool
):
    numbers.is_valid = is_valid
    numbers_client.get("/metrics")
    assert numbers.collected == 1


def test_the_body_of_an_answer_does_not_wait_until_its_head_is_acknowledged(health: Health):
    router = fastapi.APIRouter()

    @router.get("/no-delay")
    def no_delay(request: fastapi.Request) -> list[int]:
        return [
            connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for connection in _connections_here()
            if request.client is not None and connection.getpeername() == tuple(request.client)
        ]

    server = HttpServer(make_app("words", health, Words().collect, [router]), "127.0.0.1", 0)
    with closing(server), httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/no-delay").json() == [1]


def _connections_here() -> Iterator[socket.socket]:
    """Of this process; only to be looked at."""
    for descriptor in Path("/dev/fd").iterdir():
        try:
            connection = socket.socket(fileno=int(descriptor.name))
        except OSError:
            continue  # it has gone, or is none
        try:
            connection.getpeername()
        except OSError:
            continue  # a socket that is connected to nobody
        else:
            yield connection
        finally:
            connection.detach()
