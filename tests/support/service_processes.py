"""Services as processes: started by their command, queried over HTTP, ended by SIGTERM or killed."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.topics import TOPICS, partition_of
from hypervisor_telemetry.local.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from hypervisor_schemas.events import HypervisorEvent

T = TypeVar("T")

_LABEL = re.compile(r'(\w+)="([^"]*)"')

COMMAND = (sys.executable, "-m", "hypervisor_telemetry")


class RunningService:
    """One process of a service; `log` is its standard error."""

    def __init__(self, folder: Path, name: str, *options: str, environ: Mapping[str, str]) -> None:
        self._log = folder / f"{name}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self._child = Child(
                [*COMMAND, name, "--port", "0", *options],
                env={**os.environ, **environ},
                stdout=subprocess.PIPE,
                stderr=log,
                name=name,
            )
        self._name = name

    @cached_property
    def url(self) -> str:
        """The address of the service; waits until the process prints it, so several can start side by side."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline().decode().split()
        assert line[:1] == [self._name], f"{self._name} didn't say where it is; its log:\n{self.log}"
        return line[1]

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, trust_env=False, timeout=10)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str, **parameters: str | int) -> httpx.Response:
        return self._http.get(path, params=parameters)

    def ready(self) -> tuple[int, str]:
        """Return status and text of /readyz."""
        answer = self.get("/readyz")
        return answer.status_code, answer.text

    def is_alive(self) -> bool:
        return self.get("/healthz").status_code == 200

    def wait_ready(self, seconds: float = 40) -> Self:
        eventually(self.ready, lambda ready: ready[0] == 200, seconds)
        return self

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Return every series whose name begins with `prefix`, as `/metrics` writes it, with its value."""
        lines = (line for line in self.get("/metrics").text.splitlines() if not line.startswith("#"))
        pairs = (line.rpartition(" ") for line in lines if line.startswith(prefix))
        return {series: float(value) for series, _, value in pairs}

    def value(self, name: str, **labels: object) -> float | None:
        """Return the value of one series; None without it."""
        text = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
        series = f"{name}{{{text}}}" if labels else name
        return self.metrics(series).get(series)

    def partitions(self) -> int:
        """Count the partitions of its topics that it has and has restored."""
        return int(sum(self.metrics("hypervisor_telemetry_partition_restored").values()))

    def results(self, topic: str, partition: int | None = None) -> dict[str, int]:
        """Return the results of a topic's offsets, zeros left out; of all its partitions here, or of one."""
        counts: Counter[str] = Counter()
        for series, count in self.metrics("hypervisor_telemetry_records_total").items():
            labels = dict(_LABEL.findall(series))
            if labels["topic"] == topic and partition in {None, int(labels["partition"])}:
                counts[labels["result"]] += int(count)
        return dict(+counts)

    def wait(self, seconds: float = 30) -> int:
        """Wait for a service that ends by itself; return its exit status."""
        return self._child.wait(seconds)

    def terminate(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit status and the seconds that the end took."""
        began = time.monotonic()
        os.kill(self.pid, signal.SIGTERM)
        status = self._child.wait(30)
        return status, time.monotonic() - began

    @property
    def status(self) -> int | None:
        """The exit status of a process that has ended; else None."""
        return self._child.poll()

    def kill(self) -> None:
        self._child.kill()
        self._child.wait(10)

    def close(self) -> None:
        if "_http" in vars(self):
            self._http.close()
        self.kill()  # nobody waits for a clean end here
        assert self._child.stdout is not None
        self._child.stdout.close()


class Fleet:
    """Topics with one prefix in one Kafka, and the services on them, which end with the block."""

    def __init__(self, bootstrap_servers: str, prefix: str, folder: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.prefix = prefix
        self.folder = folder
        self.admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._services: list[RunningService] = []

    @property
    def environ(self) -> dict[str, str]:
        return {"KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": self.prefix}

    def topic(self, category: str) -> str:
        return f"{self.prefix}events.{category}"

    def make_topics(self, partitions: int) -> Self:
        """Make all topics of the table, with fewer partitions than declared, which is faster."""
        wanted = [NewTopic(self.prefix + topic.name, partitions, 1, config=dict(topic.config)) for topic in TOPICS]
        for made in self.admin.create_topics(wanted).values():
            made.result(30)
        return self

    def start(self, name: str, *options: str, **environ: str) -> RunningService:
        service = RunningService(self.folder, name, *options, environ={**self.environ, **environ})
        self._services.append(service)
        return service

    def publish(self, events: Iterable[HypervisorEvent]) -> None:
        """Publish events; return when Kafka has all of them."""
        with EventPublisher(self.bootstrap_servers, topic_prefix=self.prefix, environ={}) as publisher:
            for event in events:
                assert publisher.publish(event)
            assert publisher.flush(30).pending == 0

    def produce(self, category: str, values: Iterable[bytes | None], partition: int = 0) -> None:
        """Produce raw records, in this order."""
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        for value in values:
            producer.produce(self.topic(category), value, partition=partition)
        assert producer.flush(30) == 0

    def records(self, topic: str, isolation: str = "read_committed") -> list[Any]:
        """Read all present records of a topic (its full name), partition by partition, in order."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": "unused",
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
                "log_level": 0,
            }
        )
        partitions = len(self.admin.list_topics(timeout=30).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        found: list[Any] = []
        ended: set[int] = set()
        while len(ended) < partitions:
            message: Any = consumer.poll(30)
            assert message is not None, f"no answer about {topic}"
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
        consumer.close()
        return sorted(found, key=lambda message: (message.partition(), message.offset()))

    def members(self, service: str) -> int:
        """Count the members of the service's group."""
        group = self.prefix + service
        return len(self.admin.describe_consumer_groups([group])[group].result(30).members)

    def close(self) -> None:
        for service in self._services:
            service.close()


@contextmanager
def fleet(bootstrap_servers: str, prefix: str, folder: Path) -> Iterator[Fleet]:
    it = Fleet(bootstrap_servers, prefix, folder)
    try:
        yield it
    finally:
        it.close()


def sessions_in(partition: int, partitions: int, count: int = 1) -> list[str]:
    """Return ids of sessions whose events go to this partition."""
    ids = (f"s{number}" for number in itertools.count())
    return list(
        itertools.islice((one for one in ids if partition_of(one.encode(), partitions) == partition), count)
    )


def eventually(look: Callable[[], T], is_right: Callable[[T], object], seconds: float = 30) -> T:
    """Call `look` until its result is right; fail with the last result."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if is_right(seen):
            return seen
        assert time.monotonic() < deadline, f"not right in {seconds:g} seconds; seen last: {seen!r}"
        time.sleep(0.05)


def run_command(*arguments: str, stdin: bytes | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, **environ},
        input=stdin or b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
