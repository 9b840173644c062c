"""The demo: a real Kafka, the four services, a fleet of agent processes, and an account that adds up."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hypervisor_schemas.errors import TelemetryError
from hypervisor_schemas.topics import CATEGORIES
from hypervisor_telemetry.local.child import Child
from hypervisor_telemetry.local.counting import COUNTED_BY, counted, governance_counted, status_of
from hypervisor_telemetry.local.demo_report import (
    print_account,
    print_addresses,
    print_facts,
    print_governance,
    print_next_commands,
    print_spans,
)
from hypervisor_telemetry.local.kafka_choice import local_kafka
from hypervisor_telemetry.local.waterfall import most_telling, waterfall
from hypervisor_telemetry.topic_admin import apply_topics

__all__ = ["run_demo"]

_START_SECONDS = 60.0
_SETTLE_SECONDS = 60.0


class DemoFailed(TelemetryError):
    """A part of the demo failed; the message names it and ends with its log."""


@dataclass(slots=True)
class _Service:
    name: str
    child: Child
    url: str


@dataclass(slots=True)
class _Agent:
    """An agent process, and the lines it printed."""

    number: int
    child: Child
    emitted: int = 0
    report: dict[str, Any] = field(default_factory=dict)

    def listen(self) -> None:
        """Read its lines until it ends; the last one is its report."""
        for line in self.child.stdout or ():
            progress = json.loads(line)
            self.emitted = progress["emitted"]
            if "categories" in progress:
                self.report = progress


def run_demo(
    *, events: int, agents: int, keep: bool, picture: Path | None = None, bootstrap_servers: str | None = None
) -> int:
    """Run the demo, with progress on standard output. Returns 0 only if every event is accounted for.

    `picture`: the file in which one of its traces is drawn.
    """
    console = Console(highlight=False)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_interruptible())
            return _Demo(console, stack, bootstrap_servers, picture).run(events, agents, keep)
        except KeyboardInterrupt:
            console.print("Stopped; taking everything down.")
            return 130
        finally:
            _ignore_interrupts()


class _Demo:
    """One run of the demo."""

    def __init__(
        self,
        console: Console,
        stack: contextlib.ExitStack,
        bootstrap_servers: str | None,
        picture: Path | None,
    ) -> None:
        self._console = console
        self._stack = stack
        self._given_bootstrap_servers = bootstrap_servers
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hypervisor-telemetry-")))
        self._picture = picture or self._folder / "waterfall.svg"

    def run(self, events: int, agents: int, keep: bool) -> int:
        started_at = time.monotonic()
        self._start_kafka()
        services = self._start_services()
        self._console.print(f"{agents} agent processes do real work with the agent-hypervisor package")
        fleet = self._run_fleet(events, agents, services)
        account = self._settle(fleet, services)
        reports = {agent.number: agent.report for agent in fleet}
        print_facts(self._console, reports)
        adds_up = (
            print_account(self._console, account)
            & print_spans(self._console, reports, self._spans())
            & print_governance(self._console, reports, _governance_counted(services))
        )
        emitted = sum(agent.emitted for agent in fleet)
        seconds = time.monotonic() - started_at
        if adds_up:
            self._console.print(f"[green]Every one of {emitted:,} events is accounted for[/] ({seconds:.0f} s).")
        else:
            self._console.print("[red]The account does not add up.[/]")
        urls = {service.name: service.url for service in services}
        if keep:
            self._print_addresses(urls)
            self._console.print("Running until Ctrl-C.")
            threading.Event().wait()
        else:
            print_next_commands(self._console, urls)
        return 0 if adds_up else 1

    def _start_kafka(self) -> None:
        self._console.print("starting Apache Kafka")
        kafka = self._stack.enter_context(
            local_kafka(self._given_bootstrap_servers, os.environ, self._console.print)
        )
        self.bootstrap_servers = kafka.bootstrap_servers
        self._environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("KAFKA_", "TELEMETRY_", "SCHEMA_REGISTRY_"))
        }
        self._environ["KAFKA_BOOTSTRAP_SERVERS"] = self.bootstrap_servers
        # A prefix of its own, so that the demo counts no other events on a Kafka that was there before.
        self.prefix = f"demo-{secrets.token_hex(3)}."
        self._environ["TELEMETRY_TOPIC_PREFIX"] = self.prefix
        created = [result for result in apply_topics(self._environ) if result.status == "created"]
        self._console.print(f"Kafka answers at {self.bootstrap_servers}; {len(created)} topics created")

    def _start_services(self) -> list[_Service]:
        options = {
            "ring-metrics": [],
            "saga-spans": ["--sink", f"jsonl:{self._folder / 'spans.jsonl'}"],
            "governance-metrics": [],
            "event-index": ["--database", f"sqlite:///{self._folder / 'events.db'}"],
        }
        children = {
            name: self._child(name, ["-m", "hypervisor_telemetry", name, "--port", "0", *more])
            for name, more in options.items()
        }
        services = []
        for name, child in children.items():
            line = child.stdout.readline().decode() if child.stdout else ""
            if not line:
                raise DemoFailed(f"{name} ended at once (status {child.wait(10)}): {self._log_tail(name)}")
            services.append(_Service(name, child, line.split()[1]))
        for service in services:
            self._wait_until_ready(service)
            self._console.print(f"{service.name} is ready at {service.url}")
        return services

    def _run_fleet(self, events: int, agents: int, services: Sequence[_Service]) -> list[_Agent]:
        share = -(-events // agents)
        fleet = [
            _Agent(
                number,
                self._child(
                    f"agent-{number}",
                    [
                        *("-m", "hypervisor_telemetry.local.demo_agent"),
                        *("--number", str(number), "--events", str(share)),
                    ],
                ),
            )
            for number in range(1, agents + 1)
        ]
        listeners = [threading.Thread(target=agent.listen, daemon=True) for agent in fleet]
        for listener in listeners:
            listener.start()
        with self._progress(fleet, share, services) as show:
            while any(listener.is_alive() for listener in listeners):
                show()
                time.sleep(0.2)
            show()
        for agent in fleet:
            if agent.child.wait(30) != 0 or not agent.report:
                raise DemoFailed(f"agent {agent.number} failed: {self._log_tail(f'agent-{agent.number}')}")
        return fleet

    @contextlib.contextmanager
    def _progress(
        self, fleet: Sequence[_Agent], share: int, services: Sequence[_Service]
    ) -> Iterator[Callable[[], None]]:
        columns = (TextColumn("{task.description:>18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            bars: dict[int, TaskID] = {
                agent.number: progress.add_task(f"agent {agent.number}", total=share) for agent in fleet
            }
            lines = {service.name: progress.add_task(service.name, total=None) for service in services}

            next_poll = 0.0

            def show() -> None:
                nonlocal next_poll
                for agent in fleet:
                    progress.update(bars[agent.number], completed=agent.emitted, total=max(share, agent.emitted))
                if time.monotonic() < next_poll:
                    return
                next_poll = time.monotonic() + 1
                for service in services:
                    progress.update(lines[service.name], completed=sum(_counted(service).values()))

            yield show

    def _settle(self, fleet: Sequence[_Agent], services: Sequence[_Service]) -> dict[str, dict[str, int]]:
        """The account by category, once it adds up, or after a minute."""
        published: Counter[str] = Counter()
        for agent in fleet:
            published.update(agent.report["categories"])
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            account = self._account(published, services)
            if all(len(set(row.values())) == 1 for row in account.values()) or time.monotonic() > deadline:
                return account
            time.sleep(0.3)

    def _account(self, published: Mapping[str, int], services: Sequence[_Service]) -> dict[str, dict[str, int]]:
        in_kafka = self._in_kafka()
        counted = {service.name: _counted(service) for service in services}
        account = {}
        for category in [*CATEGORIES, "other"]:
            if not (published.get(category) or in_kafka[category]):
                continue
            row = {"published": published.get(category, 0), "in Kafka": in_kafka[category]}
            if category in COUNTED_BY:
                row[COUNTED_BY[category]] = counted[COUNTED_BY[category]][category]
            row["event-index"] = counted["event-index"][category]
            account[category] = row
        return account

    def _in_kafka(self) -> Counter[str]:
        """The number of records in Kafka by category, by the logs' own offsets."""
        counts: Counter[str] = Counter()
        consumer = Consumer({"bootstrap.servers": self.bootstrap_servers, "group.id": f"{self.prefix}account"})
        try:
            for name, topic in consumer.list_topics(timeout=10).topics.items():
                if not name.startswith(f"{self.prefix}events."):
                    continue
                for partition in topic.partitions:
                    low, high = consumer.get_watermark_offsets(TopicPartition(name, partition), timeout=10)
                    counts[name.removeprefix(f"{self.prefix}events.")] += high - low
        finally:
            consumer.close()
        return counts

    def _spans(self) -> list[dict[str, Any]]:
        """The spans that the sink got; one of their traces is drawn."""
        with (self._folder / "spans.jsonl").open(encoding="utf-8") as lines:
            spans = [json.loads(line) for line in lines]
        if trace_id := most_telling(spans):
            self._picture.write_text(waterfall(spans, trace_id), "utf-8")
        return spans

    def _print_addresses(self, urls: Mapping[str, str]) -> None:
        print_addresses(
            self._console,
            urls,
            spans=self._folder / "spans.jsonl",
            picture=self._picture,
            bootstrap_servers=self.bootstrap_servers,
            prefix=self.prefix,
        )

    def _child(self, name: str, arguments: Sequence[str]) -> Child:
        with (self._folder / f"{name}.log").open("wb") as log:
            child = Child(
                [sys.executable, *arguments], env=self._environ, stdout=subprocess.PIPE, stderr=log, name=name
            )
        self._stack.callback(child.stop)
        return child

    def _log_tail(self, name: str) -> str:
        lines = (self._folder / f"{name}.log").read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-15:])

    def _wait_until_ready(self, service: _Service) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while status_of(f"{service.url}/readyz") != 200:
            if service.child.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed(f"{service.name} doesn't get ready: {self._log_tail(service.name)}")
            time.sleep(0.1)


def _counted(service: _Service) -> Counter[str]:
    return counted(service.name, service.url)


def _governance_counted(services: Sequence[_Service]) -> Counter[str]:
    return governance_counted(service.url for service in services if service.name == "governance-metrics")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does; while it takes everything down, neither cuts it short."""

    def interrupt(_number: int, _frame: object) -> None:
        _ignore_interrupts()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def _ignore_interrupts() -> None:
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
