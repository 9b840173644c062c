"""`topics apply` and `topics check` on a real broker."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewPartitions, NewTopic, ResourceType

from hypervisor_schemas.topics import TOPICS
from tests.support.service_processes import COMMAND, eventually, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypervisor_telemetry.local.kafka_choice import Kafka

pytestmark = pytest.mark.kafka


@pytest.fixture
def admin(kafka: Kafka) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})


@pytest.fixture(scope="module", autouse=True)
def asking_nobody() -> Iterator[subprocess.Popen[str]]:
    """Begun early: to give up takes it 10 s."""
    command = [*COMMAND, "topics", "check", "--bootstrap-servers", "127.0.0.1:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def environ(kafka: Kafka, prefix: str, **more: str) -> dict[str, str]:
    return {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": prefix, **more}


def partition_counts(admin: AdminClient, prefix: str) -> dict[str, int]:
    found = admin.list_topics(timeout=30).topics.items()
    return {name.removeprefix(prefix): len(topic.partitions) for name, topic in found if name.startswith(prefix)}


def test_apply_creates_every_topic_as_the_table_says_and_changes_nothing_when_it_runs_again(
    kafka: Kafka, admin: AdminClient, topic_prefix: str
):
    settings = environ(kafka, topic_prefix, TELEMETRY_REPLICATION_FACTOR="1", TELEMETRY_MIN_INSYNC_REPLICAS="1")

    missing = run_command("topics", "check", **settings)
    assert missing.returncode == 1
    assert [line.split()[:2] for line in missing.stdout.splitlines()] == [
        ["missing", topic_prefix + topic.name] for topic in TOPICS
    ]
    assert partition_counts(admin, topic_prefix) == {}

    created = run_command("topics", "apply", **settings)
    assert created.returncode == 0, created.stdout + created.stderr
    assert [line.split()[:2] for line in created.stdout.splitlines()] == [
        ["created", topic_prefix + topic.name] for topic in TOPICS
    ]
    assert partition_counts(admin, topic_prefix) == {topic.name: topic.partitions for topic in TOPICS}
    for topic in TOPICS:
        asked = ConfigResource(ResourceType.TOPIC, topic_prefix + topic.name)
        config = admin.describe_configs([asked])[asked].result(30)
        assert {key: config[key].value for key in topic.config} == topic.config
        assert config["min.insync.replicas"].value == "1"

    again, checked = run_command("topics", "apply", **settings), run_command("topics", "check", **settings)
    assert again.returncode == checked.returncode == 0
    assert again.stdout == checked.stdout
    # One replica is worth a warning, not a failure: this is how a laptop looks.
    assert {line.split()[0] for line in checked.stdout.splitlines()} == {"warning"}


def test_a_topic_with_another_partition_count_is_reported_and_left_alone(
    kafka: Kafka, admin: AdminClient, topic_prefix: str
):
    other = TOPICS[0]
    name = topic_prefix + other.name
    made = admin.create_topics([NewTopic(name, 5, 1, config={**other.config, "retention.ms": "1000000"})])
    made[name].result(30)

    applied = run_command("topics", "apply", **environ(kafka, topic_prefix))

    assert applied.returncode == 1
    first = applied.stdout.splitlines()[0]
    assert first.split()[:2] == ["different", name]
    assert "has 5 partitions, not 12" in first
    assert "has retention.ms=1000000, not 604800000" in first
    assert partition_counts(admin, topic_prefix) == {
        topic.name: 5 if topic is other else topic.partitions for topic in TOPICS
    }
    asked = ConfigResource(ResourceType.TOPIC, name)
    assert admin.describe_configs([asked])[asked].result(30)["retention.ms"].value == "1000000"
    assert run_command("topics", "check", **environ(kafka, topic_prefix)).returncode == 1

    accepted = run_command("topics", "apply", "--accept-differences", **environ(kafka, topic_prefix))

    assert accepted.returncode == 0
    assert accepted.stdout.splitlines()[0] == first


def test_the_state_of_a_service_gets_the_partitions_of_its_source_and_keeps_them_when_that_grows(
    kafka: Kafka, admin: AdminClient, topic_prefix: str
):
    source, state = f"{topic_prefix}events.saga", f"{topic_prefix}state.saga-spans"
    config = dict(next(topic for topic in TOPICS if topic.name == "events.saga").config)
    admin.create_topics([NewTopic(source, 3, 1, config=config)])[source].result(30)

    applied = run_command("topics", "apply", **environ(kafka, topic_prefix))

    assert partition_counts(admin, topic_prefix)["state.saga-spans"] == 3
    assert f"created    {state} " in applied.stdout

    admin.create_partitions([NewPartitions(source, 5)])[source].result(30)
    eventually(lambda: partition_counts(admin, topic_prefix)["events.saga"], lambda count: count == 5)
    again = run_command("topics", "apply", **environ(kafka, topic_prefix))
    assert partition_counts(admin, topic_prefix)["state.saga-spans"] == 3
    assert f"warning    {state} " in again.stdout  # one replica, and nothing else


def test_more_replicas_than_there_are_brokers_is_a_sentence(kafka: Kafka, admin: AdminClient, topic_prefix: str):
    applied = run_command("topics", "apply", **environ(kafka, topic_prefix, TELEMETRY_REPLICATION_FACTOR="3"))

    assert applied.returncode == 1
    assert applied.stderr.startswith(f"error: {topic_prefix}events.session can't be created: ")
    assert "replication factor" in applied.stderr
    assert len(applied.stderr.splitlines()) == 1
    assert partition_counts(admin, topic_prefix) == {}


def test_a_kafka_that_is_not_there_is_a_sentence(asking_nobody: subprocess.Popen[str]):
    _, text = asking_nobody.communicate(timeout=60)

    assert asking_nobody.returncode == 1
    assert text.startswith("error: Kafka at 127.0.0.1:1 didn't answer: ")
    assert len(text.splitlines()) == 1
