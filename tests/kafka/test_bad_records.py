"""A record that can't be used is counted, logged and kept as a dead letter; a registry is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, Producer

from hypervisor_schemas.dead_letters import read_dead_letter
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, confluent_framing, encode_event
from tests.support.raw_produce import produce_raw
from tests.support.schema_registry import Registry, free_port, running
from tests.support.service_processes import Fleet, RunningService, eventually, sessions_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hypervisor_schemas.dead_letters import DeadLetter, Header

pytestmark = pytest.mark.kafka

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
FLOOD = "hypervisor_telemetry_dead_letter_flood"
SESSION, FIRST, LARGE, STRANGE = sessions_in(0, 2, count=4)
[ELSEWHERE] = sessions_in(1, 2)


def record(session: str = SESSION, framing: bytes = SINGLE_OBJECT, payload: Any = None) -> bytes:
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


def record_with_event_id(event_id: str) -> bytes:
    """A record of a writer that takes any text as an id: Avro's first field, a string."""
    whole = record()
    begin, end = len(SINGLE_OBJECT), len(SINGLE_OBJECT) + 1 + 16
    length, encoded = 2 * len(event_id), bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return whole[:begin] + bytes(encoded) + event_id.encode() + whole[end:]


GOOD = record()
BY_ID = record(framing=confluent_framing(7))
BAD = (
    ("undecodable", b"\xff\xfe no Avro at all"),
    ("undecodable", b""),
    ("undecodable", GOOD[:-3]),
    ("undecodable", GOOD + b"\x00"),
    ("undecodable", None),
    ("undecodable", record_with_event_id("")),
    ("undecodable", record_with_event_id("x" * 1025)),
    ("unknown_schema", b"\xc3\x01" + bytes(8) + GOOD[10:]),
    ("unknown_schema", BY_ID),
    ("invalid_payload", record_with_payload_text("[1, 2]")),
    ("invalid_payload", record_with_payload_text("{")),
)
BAD_RINGS = (
    ("invalid_payload", record(payload={"to_ring": 9})),
    ("invalid_payload", record(payload={"to_ring": "x"})),
)
"""Records that a service can't use if it reads the payload; the others can."""


def counted(bad: Iterable[tuple[str, bytes | None]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason, _ in bad:
        counts[reason] = counts.get(reason, 0) + 1
    return counts


def assigned(service: RunningService, session: str) -> float | None:
    labels = {"agent_did": "a", "event_type": "ring.assigned"}
    return service.value(TRANSITIONS, **labels, session_id=session)


def _is_delivered(error: KafkaError | None, _: object) -> None:
    assert error is None, error


class Sent:
    """Records of any kind, in partition 0, with keys and headers of their own."""

    def __init__(self, fleet: Fleet, category: str) -> None:
        self._topic = fleet.topic(category)
        self._producer = Producer(
            {
                "bootstrap.servers": fleet.bootstrap_servers,
                "enable.idempotence": True,
                # A foreign client may be allowed more than ours; what counts is the topic's limit, for each batch.
                "message.max.bytes": 2_000_000,
                "log_level": 0,
            }
        )
        self.records: list[tuple[bytes | None, bytes | None, list[Header] | None]] = []

    def add(self, value: bytes | None, key: bytes | None = None, headers: list[Header] | None = None) -> None:
        self.records.append((key, value, headers))
        extra: dict[str, Any] = {"headers": headers} if headers else {}
        self._producer.produce(self._topic, value, key, partition=0, on_delivery=_is_delivered, **extra)

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def letters_of(fleet: Fleet, service: str, topic: str) -> dict[int, DeadLetter]:
    """The dead letters of a service, by the original's offset in partition 0."""
    records = fleet.records(f"{fleet.prefix}dead-letters")
    found = [read_dead_letter(each.key(), each.value(), each.headers()) for each in records]
    return {letter.offset: letter for letter in found if letter and letter.id[:2] == (service, topic)}


@pytest.fixture(scope="module")
def flooded(new_fleet: Callable[[int], Fleet]) -> tuple[Fleet, RunningService]:
    """Starts beside the others."""
    fleet = new_fleet(2)
    return fleet, fleet.start("ring-metrics")


@pytest.fixture(scope="module")
def services(
    flooded: object, new_fleet: Callable[[int], Fleet], tmp_path_factory: pytest.TempPathFactory
) -> Services:
    """All that read have taken all that was sent."""
    fleet = new_fleet(2)
    database = f"sqlite:///{tmp_path_factory.mktemp('index') / 'events.db'}"
    running = {
        "ring-metrics": fleet.start("ring-metrics"),
        "saga-spans": fleet.start("saga-spans", "--sink", "null"),
        "event-index": fleet.start("event-index", "--database", database),
    }
    sent = {category: Sent(fleet, category) for category in ("ring", "saga")}
    for category, ones in sent.items():
        ones.add(record())
        for _, bad in [*BAD, *(BAD_RINGS if category == "ring" else ())]:
            ones.add(bad, b"\x00\xffkey", [("trace", b"\xff\x00"), ("trace", None), ("", b"")])
            ones.add(record())
    # What Kafka takes from a foreign client: the topic allows 1 MiB. No event of ours is so large.
    sent["ring"].flush()
    sent["ring"].add(record(LARGE, payload={"to_ring": 2, "text": "x" * 1_047_000}), LARGE.encode())
    sent["ring"].flush()
    sent["ring"].add(b"\x00" * 1_048_000, b"large")
    for ones in sent.values():
        ones.flush()
    produce_raw(
        fleet.bootstrap_servers, fleet.topic("ring"), record(STRANGE), [(b"\xff\xfe", b"a name that is no UTF-8")]
    )
    it = Services(fleet, running, sent)
    ends = {"ring": len(sent["ring"].records) + 1, "saga": len(sent["saga"].records)}
    for name, category in (
        ("ring-metrics", "ring"),
        ("saga-spans", "saga"),
        *(("event-index", one) for one in ends),
    ):
        place = {"topic": fleet.topic(category), "partition": 0}
        eventually(
            lambda name=name, place=place: running[name].value("hypervisor_telemetry_position", **place),
            lambda position, category=category: position == ends[category],
        )
    return it


class Services(NamedTuple):
    fleet: Fleet
    running: dict[str, RunningService]
    sent: dict[str, Sent]


def test_bad_records_are_counted_by_reason_and_the_good_ones_between_them_are_exact(services: Services):
    fleet, running, _ = services

    # With the first one, the large one and the one with a strange header.
    good = len(BAD) + len(BAD_RINGS) + 3
    rings = counted([*BAD, *BAD_RINGS, ("unknown_schema", None)])
    assert running["ring-metrics"].results(fleet.topic("ring")) == {"applied": good, **rings}
    assert assigned(running["ring-metrics"], SESSION) == good - 2
    assert running["saga-spans"].results(fleet.topic("saga")) == {"ignored": len(BAD) + 1, **counted(BAD)}
    indexed = {**counted(BAD), "applied": good + len(BAD_RINGS)}
    indexed["unknown_schema"] += 1
    assert running["event-index"].results(fleet.topic("ring")) == indexed
    for service in running.values():
        eventually(service.ready, lambda ready: ready == (200, "ok\n"))


def test_a_valid_event_of_a_foreign_client_near_the_topics_limit_counts(services: Services):
    assert assigned(services.running["ring-metrics"], LARGE) == 1


def test_a_bad_record_near_the_topics_limit_is_a_dead_letter(services: Services):
    letters = letters_of(services.fleet, "ring-metrics", services.fleet.topic("ring"))

    assert max(len(letter.value or b"") for letter in letters.values()) == 1_048_000


def test_an_event_with_an_id_longer_than_an_id_may_be_is_a_dead_letter(services: Services):
    letters = letters_of(services.fleet, "ring-metrics", services.fleet.topic("ring"))

    assert "event_id has 1025 characters; an id has 1024 at most." in [letter.error for letter in letters.values()]


def test_a_header_name_that_is_not_utf_8_keeps_no_event_from_counting(services: Services):
    assert assigned(services.running["ring-metrics"], STRANGE) == 1


@pytest.mark.parametrize("reason", ["undecodable", "unknown_schema", "invalid_payload"])
def test_the_first_bad_record_of_each_kind_is_logged_with_its_place(services: Services, reason: str):
    fleet, running, _ = services

    offset = 1 + 2 * [kind for kind, _ in BAD].index(reason)
    lines = [line for line in running["ring-metrics"].log.splitlines() if f"can't be used ({reason})" in line]
    assert len(lines) == 1
    assert f"topic {fleet.topic('ring')}, partition 0, offset {offset}: " in lines[0]
    assert lines[0].endswith(" It is in the dead letters.")


@pytest.mark.parametrize(
    ("service", "category"),
    [("ring-metrics", "ring"), ("saga-spans", "saga"), ("event-index", "ring"), ("event-index", "saga")],
)
def test_every_bad_record_is_in_the_dead_letters_byte_for_byte_with_the_reason_and_its_place(
    services: Services, service: str, category: str
):
    fleet, _, sent = services
    topic = fleet.topic(category)
    reads_rings = service == "ring-metrics"
    reasons = dict.fromkeys(range(len(sent[category].records)), "")
    all_bad = [*BAD, *(BAD_RINGS if category == "ring" else ())]
    reasons |= {1 + 2 * at: reason for at, (reason, _) in enumerate(all_bad) if at < len(BAD) or reads_rings}
    if category == "ring":
        reasons[len(sent["ring"].records) - 1] = "unknown_schema"  # the large one

    letters = letters_of(fleet, service, topic)

    assert {offset: letter.reason for offset, letter in letters.items()} == {
        offset: reason for offset, reason in reasons.items() if reason
    }
    for offset, letter in letters.items():
        key, value, headers = sent[category].records[offset]
        assert (letter.key, letter.value, letter.original_headers) == (key, value, tuple(headers or ()))
        assert (letter.topic, letter.partition) == (topic, 0)
        assert letter.timestamp > 1_700_000_000_000
        assert letter.error
    by_id = 1 + 2 * [bad for _, bad in BAD].index(BY_ID)
    assert letters[by_id].schema_id == 7
    assert "Schema id 7" in letters[by_id].error


def test_a_flood_of_bad_records_is_said_and_good_ones_go_on(flooded: tuple[Fleet, RunningService]):
    fleet, service = flooded
    service.wait_ready()
    fleet.produce("ring", [b"rubbish"] * 120)

    said = "degraded\nThe last 120 records could not be used; they are in the dead letters.\n"
    eventually(service.ready, lambda ready: ready == (200, said))
    assert service.value(FLOOD) == service.value("hypervisor_telemetry_degraded") == 1
    assert service.is_alive()

    fleet.produce("ring", [record() for _ in range(5)])
    eventually(lambda: assigned(service, SESSION), lambda count: count == 5)
    said = "degraded\n120 of the last 125 records could not be used; they are in the dead letters.\n"
    eventually(service.ready, lambda ready: ready == (200, said))

    fleet.produce("ring", [record() for _ in range(500)])
    eventually(service.ready, lambda ready: ready == (200, "ok\n"))
    assert service.value(FLOOD) == 0
    wanted = {"applied": 505, "undecodable": 120}
    eventually(lambda: service.results(fleet.topic("ring")), lambda counts: counts == wanted)
    assert len(letters_of(fleet, "ring-metrics", fleet.topic("ring"))) == 120


def test_records_wait_for_a_registry_that_is_away_while_other_partitions_go_on(new_fleet: Callable[[int], Fleet]):
    fleet, port = new_fleet(2), free_port()
    topic, url = fleet.topic("ring"), f"http://127.0.0.1:{port}"
    service = fleet.start("ring-metrics", SCHEMA_REGISTRY_URL=url).wait_ready()

    fleet.produce("ring", [record(FIRST), record(SESSION, confluent_framing(1)), record(SESSION)], partition=0)
    status, text = eventually(service.ready, lambda ready: "registry" in ready[1])
    assert status == 200
    assert text.startswith("degraded\n")
    assert f"The schema registry at {url} can't be reached" in text
    assert "Partitions with records that need it wait." in text

    fleet.produce("ring", [record(ELSEWHERE) for _ in range(3)], partition=1)
    eventually(lambda: service.results(topic, 1), lambda counts: counts == {"applied": 3})
    assert service.results(topic, 0) == {"applied": 1}
    assert service.is_alive()
    assert fleet.members("ring-metrics") == 1

    with running(Registry(port)) as registry:
        registry.status = 500
        eventually(service.ready, lambda ready: "answered 500" in ready[1])
        assert service.results(topic, 0) == {"applied": 1}
        registry.status = None
        eventually(lambda: service.results(topic, 0), lambda counts: counts == {"applied": 3})
        eventually(service.ready, lambda ready: ready == (200, "ok\n"))

        fleet.produce("ring", [record(FIRST, confluent_framing(2)), record(SESSION, confluent_framing(1))])
        wanted = {"applied": 4, "unknown_schema": 1}
        eventually(lambda: service.results(topic, 0), lambda counts: counts == wanted)
    assert [assigned(service, session) for session in (FIRST, SESSION, ELSEWHERE)] == [1, 3, 3]
    eventually(service.ready, lambda ready: ready == (200, "ok\n"))
