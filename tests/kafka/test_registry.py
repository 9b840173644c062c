"""A real schema registry beside a real Kafka: registering, refusing, and both sides while it is away."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import (
    SINGLE_OBJECT,
    SUBJECT,
    confluent_framing,
    encode_event,
    schema_fingerprint,
    schema_text,
)
from hypervisor_schemas.wire.registry import SchemaRegistry
from hypervisor_telemetry.schema_tools.registration import LEVEL, check_schema, register_schema
from tests.kafka.test_bad_records import letters_of
from tests.support.apicurio import Apicurio
from tests.support.service_processes import Fleet, eventually, run_command, sessions_in

pytestmark = [pytest.mark.full, pytest.mark.kafka]

HERE, ELSEWHERE = sessions_in(0, 2)[0], sessions_in(1, 2)[0]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    with Apicurio(tmp_path_factory.mktemp("apicurio")) as running:
        yield running


def changed(**field: Any) -> str:
    """The schema with one field more."""
    schema = json.loads(schema_text())
    return json.dumps({**schema, "fields": [*schema["fields"], {"name": "tenant", **field}]})


OPTIONAL, REQUIRED = changed(type=["null", "string"], default=None), changed(type="string")


def register(registry: Apicurio) -> int:
    done = run_command("schemas", "register", SCHEMA_REGISTRY_URL=registry.url)
    assert done.returncode == 0, done.stdout + done.stderr
    schema_id = SchemaRegistry(registry.url).id_of(SUBJECT, schema_text())
    assert schema_id is not None
    return schema_id


def ring(session: str, **more: Any) -> HypervisorEvent:
    kind, payload = EventType.RING_ASSIGNED, {"ring": 3, **more}
    return HypervisorEvent(event_type=kind, session_id=session, agent_did="did:a", payload=payload)


def framings(fleet: Fleet) -> list[bytes]:
    values = [message.value() for message in fleet.records(fleet.topic("ring"))]
    return [value[:5] if value[0] == 0 else value[:10] for value in values]


def test_registering_checking_and_refusing(registry: Apicurio):
    environ = {"SCHEMA_REGISTRY_URL": registry.url}
    missing = run_command("schemas", "check", **environ)
    assert missing.returncode == 1
    assert missing.stdout.split()[:2] == ["missing", SUBJECT]

    created = run_command("schemas", "register", **environ)
    assert created.returncode == 0, created.stdout + created.stderr
    assert [line.split()[0] for line in created.stdout.splitlines()] == ["created", "ok"]
    assert registry.get(f"/config/{SUBJECT}") == {"compatibilityLevel": LEVEL}

    again, checked = (run_command("schemas", command, **environ) for command in ("register", "check"))
    assert again.returncode == checked.returncode == 0
    assert again.stdout == checked.stdout
    assert registry.get(f"/subjects/{SUBJECT}/versions") == [1]

    # What would change is said before anybody changes it; what is incompatible is refused, in the registry's words.
    [wanted, _] = check_schema(environ, text=OPTIONAL)
    assert (wanted.status, wanted.is_fault) == ("different", True)
    assert 'It changes version 1: with tenant, ["null", "string"] with default null.' in wanted.sentence
    [would_be_refused, _] = check_schema(environ, text=REQUIRED)
    assert would_be_refused.status == "refused"
    [refused] = register_schema(environ, text=REQUIRED)
    assert refused.status == "refused"
    assert "tenant at /fields/8" in refused.sentence
    assert registry.get(f"/subjects/{SUBJECT}/versions") == [1]

    assert register_schema(environ, text=OPTIONAL)[0].status == "created"
    assert registry.get(f"/subjects/{SUBJECT}/versions") == [1, 2]
    assert run_command("schemas", "check", **environ).stdout == checked.stdout


def test_a_wrong_path_is_no_registry(registry: Apicurio):
    register(registry)
    for url in (registry.url.removesuffix("/ccompat/v7"), registry.url.removesuffix("/apis/ccompat/v7")):
        done = run_command("schemas", "check", SCHEMA_REGISTRY_URL=url)
        assert done.returncode == 1
        assert "check SCHEMA_REGISTRY_URL" in done.stderr


def test_what_an_agent_writes_with_an_id_a_service_and_confluents_own_client_read(
    registry: Apicurio, new_fleet: Callable[[int], Fleet]
):
    fleet, schema_id = new_fleet(2), register(registry)
    environ = {**fleet.environ, "SCHEMA_REGISTRY_URL": registry.url}
    service = fleet.start("ring-metrics", SCHEMA_REGISTRY_URL=registry.url).wait_ready()
    events = [ring(HERE, größe={"☃": [1, None]}) for _ in range(20)]

    with EventPublisher(environ=environ) as publisher:
        eventually(lambda: publisher._framing.current, lambda framing: framing == confluent_framing(schema_id))
        assert all(publisher.publish(event) for event in events)
    assert framings(fleet) == [confluent_framing(schema_id)] * 20
    eventually(lambda: service.results(fleet.topic("ring")), lambda counts: counts == {"applied": 20})

    read = by_confluents_client(registry, fleet)
    assert [record["event_id"] for record in read] == [event.event_id for event in events]
    assert read[0]["timestamp"] == events[0].timestamp.isoformat()
    assert json.loads(read[0]["payload"]) == events[0].payload


BY_CONFLUENTS_CLIENT = """
import json, sys
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

url, topic = sys.argv[1:]
read = AvroDeserializer(SchemaRegistryClient({"url": url}))
for line in sys.stdin:
    record = read(bytes.fromhex(line), SerializationContext(topic, MessageField.VALUE))
    print(json.dumps({**record, "timestamp": record["timestamp"].isoformat()}))
"""


def by_confluents_client(registry: Apicurio, fleet: Fleet) -> list[dict[str, Any]]:
    """In a process of its own: it leaves sockets open, and warns of its own imports."""
    topic = fleet.topic("ring")
    done = subprocess.run(
        [sys.executable, "-c", BY_CONFLUENTS_CLIENT, registry.url, topic],
        input="".join(f"{message.value().hex()}\n" for message in fleet.records(topic)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_agents_and_services_go_on_while_the_registry_is_away(
    registry: Apicurio, new_fleet: Callable[[int], Fleet]
):
    fleet, schema_id = new_fleet(2), register(registry)
    other = register_schema({"SCHEMA_REGISTRY_URL": registry.url}, text=OPTIONAL)
    other_id = int(other[0].sentence.partition("id ")[2].partition(",")[0])
    topic, environ = fleet.topic("ring"), {"SCHEMA_REGISTRY_URL": registry.url}
    service = fleet.start("ring-metrics", **environ).wait_ready()
    with EventPublisher(environ={**fleet.environ, **environ}) as publisher:
        eventually(lambda: publisher._framing.current, lambda framing: framing != SINGLE_OBJECT)
        assert publisher.publish(ring(HERE))
        assert publisher.flush(20).pending == 0
        eventually(lambda: service.results(topic), lambda counts: counts == {"applied": 1})

        registry.kill()

        # In flight: the id that both know is enough.
        assert publisher.publish(ring(HERE))
        assert publisher.flush(20).pending == 0
        eventually(lambda: service.results(topic), lambda counts: counts == {"applied": 2})
    # At an agent's start: the framing that needs no id.
    with EventPublisher(environ={**fleet.environ, **environ}) as publisher:
        assert publisher.publish(ring(HERE))
    eventually(lambda: service.results(topic), lambda counts: counts == {"applied": 3})

    # An id that the service hasn't met: its partition waits, the other one goes on.
    with_tenant = encode_event(ring(HERE), confluent_framing(other_id)) + b"\x00"
    fleet.produce("ring", [with_tenant], 0)
    fleet.produce("ring", [encode_event(ring(ELSEWHERE), confluent_framing(schema_id))], 1)
    eventually(service.ready, lambda ready: "Partitions with records that need it wait." in ready[1])
    eventually(lambda: service.results(topic, 1), lambda counts: counts == {"applied": 1})
    assert service.results(topic, 0) == {"applied": 3}
    # At a service's start: what it has to restore waits as well, and nothing is a dead letter.
    late = fleet.start("ring-metrics", **environ)
    eventually(late.ready, lambda ready: f"The schema registry at {registry.url} can't be reached" in ready[1])

    registry.start()
    eventually(
        lambda: sum(copy.results(topic).get("applied", 0) for copy in (service, late)),
        lambda count: count == 5,
    )
    assert letters_of(fleet, "ring-metrics", topic) == {}


def test_an_id_that_the_registry_does_not_know_is_a_dead_letter_and_is_asked_for_once(
    registry: Apicurio, new_fleet: Callable[[int], Fleet]
):
    fleet, schema_id = new_fleet(2), register(registry)
    topic = fleet.topic("ring")
    service = fleet.start("ring-metrics", SCHEMA_REGISTRY_URL=registry.url).wait_ready()
    unknown = [encode_event(ring(HERE), confluent_framing(999)) for _ in range(50)]

    fleet.produce("ring", [*unknown, encode_event(ring(HERE), confluent_framing(schema_id))])
    eventually(lambda: service.results(topic), lambda counts: counts == {"unknown_schema": 50, "applied": 1})

    letters = letters_of(fleet, "ring-metrics", topic)
    assert [letter.value for _, letter in sorted(letters.items())] == unknown
    assert registry.times_asked("/schemas/ids/999") == 1


def test_a_registry_that_is_asked_for_an_id_answers_with_a_schema_of_the_same_fingerprint(registry: Apicurio):
    """It writes the text anew; Avro's canonical form is the same."""
    text = SchemaRegistry(registry.url).schema_by_id(register(registry))
    assert schema_fingerprint(text) == SINGLE_OBJECT[2:]
