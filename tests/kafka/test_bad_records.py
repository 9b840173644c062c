"""A record that can't be used is counted, logged and passed over; a registry that is away is waited for."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_schemas.codec import SINGLE_OBJECT, confluent_framing, encode_event, schema_text
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.services import Fleet, RunningService, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.kafka

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
RECORDS = "hypervisor_telemetry_records_total"


def record(session: str = "s", framing: bytes = SINGLE_OBJECT, payload: Any = None) -> bytes:
    payload = {"to_ring": 2} if payload is None else payload
    kind = EventType.RING_ASSIGNED
    return encode_event(
        HypervisorEvent(event_type=kind, agent_did="a", session_id=session, payload=payload), framing
    )


def record_with_payload_text(text: str) -> bytes:
    """A record of a writer that puts any text where the JSON object belongs: Avro's last field, a string."""
    end = encode_event(HypervisorEvent(payload={}))
    assert end.endswith(b"\x04{}")
    return end[:-3] + bytes([2 * len(text)]) + text.encode()


GOOD = record()
BAD = (
    ("undecodable", b"\xff\xfe no Avro at all"),
    ("undecodable", b""),
    ("undecodable", GOOD[:-3]),
    ("undecodable", GOOD + b"\x00"),
    ("undecodable", None),
    ("unknown_schema", b"\xc3\x01" + bytes(8) + GOOD[10:]),
    ("unknown_schema", record(framing=confluent_framing(7))),
    ("invalid_payload", record_with_payload_text("[1, 2]")),
    ("invalid_payload", record_with_payload_text("{")),
    ("invalid_payload", record(payload={"to_ring": 9})),
    ("invalid_payload", record(payload={"to_ring": "x"})),
)


def results(service: RunningService, topic: str, partition: int = 0) -> dict[str, float]:
    """How many records of a partition, by result."""
    begin = f'{RECORDS}{{partition="{partition}",result="'
    series = service.metrics(begin).items()
    return {name.removeprefix(begin).partition('"')[0]: count for name, count in series if f'"{topic}"' in name}


def assigned(service: RunningService, session: str) -> float | None:
    name = f'{TRANSITIONS}{{agent_did="a",event_type="ring.assigned",session_id="{session}"}}'
    return service.metrics(name).get(name)


@pytest.fixture(scope="module")
def service_after_bad_records(new_fleet: Callable[[int], Fleet]) -> tuple[Fleet, RunningService]:
    fleet = new_fleet(2)
    service = fleet.start("ring-metrics")
    fleet.produce("ring", [record(), *(value for _, bad in BAD for value in (bad, record()))])
    service.wait_ready()
    end = f'hypervisor_telemetry_position{{partition="0",topic="{fleet.topic("ring")}"}}'
    eventually(lambda: service.metrics(end), lambda position: position == {end: 1 + 2 * len(BAD)})
    return fleet, service


def test_bad_records_are_counted_by_reason_and_the_good_ones_between_them_are_exact(
    service_after_bad_records: tuple[Fleet, RunningService],
):
    fleet, service = service_after_bad_records

    good = len(BAD) + 1
    assert results(service, fleet.topic("ring")) == {
        "applied": good,
        "undecodable": 5,
        "unknown_schema": 2,
        "invalid_payload": 4,
    }
    assert assigned(service, "s") == good
    eventually(service.ready, lambda ready: ready == (200, "ok\n"))


@pytest.mark.parametrize("reason", ["undecodable", "unknown_schema", "invalid_payload"])
def test_the_first_bad_record_of_each_kind_is_logged_with_its_place(
    service_after_bad_records: tuple[Fleet, RunningService], reason: str
):
    fleet, service = service_after_bad_records

    offset = 1 + 2 * [kind for kind, _ in BAD].index(reason)
    lines = [line for line in service.log.splitlines() if f"passed over ({reason})" in line]
    assert len(lines) == 1
    assert f"topic {fleet.topic('ring')}, partition 0, offset {offset}: " in lines[0]


class Registry(ThreadingHTTPServer):
    """Knows schema id 1. With `status` it answers everything with that."""

    daemon_threads = True
    status: int | None = None

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), RegistryHandler)


class RegistryHandler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        known = self.path == "/schemas/ids/1"
        body = json.dumps({"schema": schema_text()} if known else {"error_code": 40403}).encode()
        self.send_response(self.server.status or (200 if known else 404))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running(registry: Registry) -> Iterator[Registry]:
    thread = Thread(target=registry.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        registry.shutdown()
        thread.join()
        registry.server_close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_records_wait_for_a_registry_that_is_away_while_other_partitions_go_on(new_fleet: Callable[[int], Fleet]):
    fleet, port = new_fleet(2), free_port()
    topic, url = fleet.topic("ring"), f"http://127.0.0.1:{port}"
    service = fleet.start("ring-metrics", SCHEMA_REGISTRY_URL=url).wait_ready()

    fleet.produce("ring", [record("first"), record("by-id", confluent_framing(1)), record("by-id")], partition=0)
    status, text = eventually(service.ready, lambda ready: "registry" in ready[1])
    assert status == 200
    assert text.startswith("degraded\n")
    assert f"The schema registry at {url} can't be reached" in text
    assert "Partitions with records that need it wait." in text

    fleet.produce("ring", [record("elsewhere") for _ in range(3)], partition=1)
    eventually(lambda: results(service, topic, 1), lambda counts: counts == {"applied": 3})
    assert results(service, topic, 0) == {"applied": 1}
    assert service.is_alive()
    assert fleet.members("ring-metrics") == 1

    with running(Registry(port)) as registry:
        registry.status = 500
        eventually(service.ready, lambda ready: "answered 500" in ready[1])
        assert results(service, topic, 0) == {"applied": 1}
        registry.status = None
        eventually(lambda: results(service, topic, 0), lambda counts: counts == {"applied": 3})
        eventually(service.ready, lambda ready: ready == (200, "ok\n"))

        fleet.produce("ring", [record("?", confluent_framing(2)), record("by-id", confluent_framing(1))])
        wanted = {"applied": 4, "unknown_schema": 1}
        eventually(lambda: results(service, topic, 0), lambda counts: counts == wanted)
    assert [assigned(service, session) for session in ("first", "by-id", "elsewhere")] == [1, 3, 3]
    eventually(service.ready, lambda ready: ready == (200, "ok\n"))
