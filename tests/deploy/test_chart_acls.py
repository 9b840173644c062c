"""The users of the Strimzi example on a Kafka with authentication: their rights are enough for their work."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_telemetry.local.broker import LocalKafka
from tests.deploy.chart import CHART, COMMANDS, Rendered, rendered
from tests.support.service_processes import RunningService, eventually, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.kafka

PASSWORDS = {"telemetry": "of-the-services", "agents": "of-the-agents"}

_TYPES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactionalId": ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}


def chart() -> Rendered:
    return rendered("strimzi", "topics.replicationFactor=1", "topics.minInsyncReplicas=1")


def acls_of_the_example() -> list[AclBinding]:
    """Make the ACLs as Strimzi's operator makes them from KafkaUsers."""
    documents = yaml.safe_load_all((CHART / "examples" / "strimzi.yaml").read_text("utf-8"))
    return [
        AclBinding(
            _TYPES[acl["resource"]["type"]],
            acl["resource"]["name"],
            {"prefix": ResourcePatternType.PREFIXED}[acl["resource"]["patternType"]],
            f"User:{user['metadata']['name']}",
            "*",
            _OPERATIONS[operation],
            AclPermissionType.ALLOW,
        )
        for user in documents
        if user["kind"] == "KafkaUser"
        for acl in user["spec"]["authorization"]["acls"]
        for operation in acl["operations"]
    ]


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Kafka that requires user and password; the test itself uses another listener, as its superuser."""
    open_port, port, controller = free_ports(3)
    users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
    overrides = {
        "listeners": f"PLAINTEXT://127.0.0.1:{open_port},USERS://127.0.0.1:{port},"
        f"CONTROLLER://127.0.0.1:{controller}",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,USERS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.users.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.users.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with LocalKafka(port=open_port, overrides=overrides) as kafka:
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})
        for made in admin.create_acls(acls_of_the_example()).values():
            made.result(30)
        yield f"127.0.0.1:{port}"


def environ_of(user: str, container: dict[str, Any], address: str, **more: str) -> dict[str, str]:
    """Return a container's own variables, with this Kafka, user and password."""
    own = {name: value for name, value in chart().environ(container).items() if isinstance(value, str)}
    return {
        **{name: value for name, value in own.items() if not name.startswith("KAFKA_SSL_")},
        "KAFKA_BOOTSTRAP_SERVERS": address,
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_MECHANISM": "PLAIN",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD": PASSWORDS[user],
        **more,
    }


def taken(service: RunningService) -> float:
    """Count the processed records, dead letters included: the service's own user writes those."""
    series = service.metrics("hypervisor_telemetry_records_total")
    return sum(count for name, count in series.items() if 'result="without_record"' not in name)


def test_the_services_user_may_do_what_services_do_and_the_agents_may_publish(address: str, tmp_path: Path):
    [topics] = chart().one("Job", "topics")["spec"]["template"]["spec"]["containers"]
    of_agents = environ_of("agents", topics, address)

    refused = run_command(*topics["args"], **of_agents)
    made = run_command(*topics["args"], **environ_of("telemetry", topics, address))

    assert refused.returncode == 1
    assert made.returncode == 0, made.stdout + made.stderr

    kinds = (EventType.RING_BREACH_DETECTED, EventType.SAGA_CREATED, "governance.policy_evaluated")
    events = [HypervisorEvent(event_type=kind, session_id="s", agent_did="a") for kind in kinds for _ in range(20)]
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(event.to_dict()) + "\n" for event in events))
    published = run_command("publish", str(file), **of_agents)
    assert published.returncode == 0, published.stderr
    assert "published 60," in published.stdout

    with ExitStack() as running:
        services = {}
        for command in COMMANDS:
            environ = environ_of(
                "telemetry",
                chart().container(command),
                address,
                TELEMETRY_DATABASE_URL=f"sqlite:///{tmp_path}/events.db",
                TELEMETRY_SPAN_SINKS="null",
            )
            services[command] = RunningService(tmp_path, command, environ=environ)
            running.callback(services[command].close)
        for command, service in services.items():
            service.wait_ready()
            expected = 60 if command == "event-index" else 20
            eventually(lambda service=service: taken(service), lambda count, least=expected: count >= least)
            assert service.ready()[1] == "ok\n", command
            assert "authoriz" not in service.log.lower(), service.log
            assert service.terminate()[0] == 0
