"""Apache Kafka in a container, for machines with a Docker engine."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypervisor_schemas.errors import LocalKafkaError
from hypervisor_telemetry.local.broker import SETTINGS, wait_for_answer
from hypervisor_telemetry.local.jars import KAFKA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from testcontainers.core.container import DockerContainer

__all__ = ["DockerKafka", "docker_kafka"]

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
PORT = 9092
SCRIPT = "/tmp/start-kafka.sh"  # noqa: S108 - in the container
START_SECONDS = 120.0
LOG_LINES = 20

LISTENERS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.quorum.voters": "1@localhost:9094",
    "controller.listener.names": "CONTROLLER",
    # The address for clients is the host's; inside the container the broker reaches itself by another one.
    "inter.broker.listener.name": "BROKER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "listeners": f"PLAINTEXT://0.0.0.0:{PORT},BROKER://localhost:9093,CONTROLLER://localhost:9094",
}


@dataclass(frozen=True)
class DockerKafka:
    """A Kafka that runs in a container."""

    bootstrap_servers: str


@contextmanager
def docker_kafka() -> Iterator[DockerKafka]:
    """Run Apache Kafka in a container for the block; testcontainers removes it, even if this process dies.

    Raises:
        LocalKafkaError: No Docker engine answers, the container doesn't start, or testcontainers is missing.
    """
    try:
        from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise LocalKafkaError(
            "A Kafka in a container needs testcontainers, which is not installed; "
            "run: pip install 'hypervisor-telemetry[local]'"
        ) from error
    try:
        container = DockerContainer(IMAGE)
    except DockerException as error:
        raise LocalKafkaError(
            f"No Docker engine answers: {error}. Start one, or unset TELEMETRY_KAFKA, since Kafka runs without too."
        ) from error
    # Kafka must tell its clients the address that they reach it by, and that is known once the container
    # runs: so its command waits for a script that holds it. (KafkaContainer of testcontainers does the
    # same, but for the images of Confluent only.)
    container.with_exposed_ports(PORT)
    container.with_envs(**{_variable(name): value for name, value in (LISTENERS | dict(SETTINGS)).items()})
    container.with_command(["bash", "-c", f"until [ -s {SCRIPT} ]; do sleep 0.1; done; exec bash {SCRIPT}"])
    try:
        container.start()
        yield _started(container)
    except DockerException as error:
        raise LocalKafkaError(f"The container {IMAGE} can't be run: {error}.") from error
    finally:
        container.stop()


def _started(container: DockerContainer) -> DockerKafka:
    address = f"{container.get_container_host_ip()}:{container.get_exposed_port(PORT)}"
    advertised = f"PLAINTEXT://{address},BROKER://localhost:9093"
    script = f"export KAFKA_ADVERTISED_LISTENERS={advertised}; exec /etc/kafka/docker/run\n"
    container.copy_into_container(script.encode(), SCRIPT)

    def runs() -> bool:
        container.reload()
        return bool(container.status == "running")

    if not wait_for_answer(address, START_SECONDS, runs):
        log = b"".join(container.get_logs()).decode(errors="replace").splitlines()
        tail = "\n".join(log[-LOG_LINES:])
        raise LocalKafkaError(f"Kafka in the container {IMAGE} gives no answer. The last lines of its log:\n{tail}")
    return DockerKafka(address)


def _variable(setting: str) -> str:
    return "KAFKA_" + setting.upper().replace(".", "_")
