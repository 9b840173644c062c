"""Chooses the Kafka for the tests and the demo."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hypervisor_schemas.settings import Settings
from hypervisor_telemetry.local.broker import LocalKafka
from hypervisor_telemetry.local.container import docker_kafka

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

__all__ = ["Kafka", "NamedKafka", "local_kafka"]


class Kafka(Protocol):
    """A Kafka that answers, wherever it runs."""

    @property
    def bootstrap_servers(self) -> str:
        """Its address, as librdkafka's `bootstrap.servers`."""


@dataclass(frozen=True)
class NamedKafka:
    """A Kafka that somebody else runs."""

    bootstrap_servers: str


def local_kafka(
    explicit: str | None, environ: Mapping[str, str], on_progress: Callable[[str], None] | None = None
) -> AbstractContextManager[Kafka]:
    """A Kafka, as a context manager: the first of these that is asked for.

    1. The one that is named by `explicit`, else by TELEMETRY_TEST_BOOTSTRAP_SERVERS. KAFKA_BOOTSTRAP_SERVERS is
       ignored: a shell that is set up for a real cluster must not have tests run on it.
    2. A container, with TELEMETRY_KAFKA=docker.
    3. A child process of this one.

    Raises:
        SettingError: TELEMETRY_KAFKA is set to something else.
    """
    if named := explicit or Settings.TEST_BOOTSTRAP_SERVERS.of(environ):
        return nullcontext(NamedKafka(named))
    if Settings.KAFKA.of(environ) == "docker":
        return docker_kafka()
    return LocalKafka(on_progress=on_progress)
