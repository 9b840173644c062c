"""The demo's agents against services that run already, as docker compose starts them: copies, a token by file."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.service_processes import Fleet, eventually, fleet, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hypervisor_telemetry.local.kafka_choice import Kafka
    from tests.support.service_processes import RunningService

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]


@pytest.fixture
def running(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(kafka.bootstrap_servers, topic_prefix, tmp_path) as it:
        yield it.make_topics(2)


def start(running: Fleet, token: Path) -> dict[str, list[RunningService]]:
    copies = {
        "ring-metrics": [running.start("ring-metrics"), running.start("ring-metrics")],
        "saga-spans": [running.start("saga-spans", "--sink", "null")],
        "event-index": [
            running.start(
                "event-index",
                "--database",
                f"sqlite:///{running.folder}/events.db",
                TELEMETRY_API_TOKEN_FILE=str(token),
            )
        ],
        "governance-metrics": [running.start("governance-metrics")],
    }
    for services in copies.values():
        for service in services:
            service.wait_ready()
    return copies


def options(copies: dict[str, list[RunningService]]) -> list[str]:
    return [f"--{name}={service.url}" for name, services in copies.items() for service in services]


def test_what_a_fleet_publishes_is_counted_by_copies_that_counted_before(running: Fleet, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2\n")
    copies = start(running, token)
    # Somebody else's events, of before: they are not the fleet's.
    running.publish(
        HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id=f"s{n}", agent_did="did:before")
        for n in range(10)
    )
    topic = running.topic("ring")
    eventually(
        lambda: sum(copy.results(topic).get("applied", 0) for copy in copies["ring-metrics"]),
        lambda count: count == 10,
    )
    arguments = ["demo-fleet", "--agents", "2", "--events", "600", *options(copies)]

    done = run_command(*arguments, **running.environ, TELEMETRY_API_TOKEN_FILE=str(token))

    assert done.returncode == 0, done.stdout + done.stderr
    account = re.findall(r"^(.+?): (.+): adds up$", done.stdout, re.MULTILINE)
    assert {name for name, _ in account} >= {"session", "ring", "saga", "vfs", "security", "audit", "governance"}
    total = re.search(r"Every one of ([\d,]+) events is accounted for", done.stdout)
    assert total is not None
    assert int(total[1].replace(",", "")) >= 600
    assert all(copy.partitions() for copy in copies["ring-metrics"]), "both copies had a part in it"


def test_a_service_that_is_not_there_is_a_sentence(running: Fleet) -> None:
    done = run_command("demo-fleet", "--ring-metrics", "http://127.0.0.1:1", **running.environ)

    assert done.returncode == 1
    assert re.fullmatch(
        r"error: ring-metrics at http://127\.0\.0\.1:1 doesn't say what it counted: .*refused.*\n", done.stderr
    )


def test_an_index_that_lacks_events_does_not_add_up(
    running: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is another fleet's index."""
    from hypervisor_telemetry.local import fleet as module  # noqa: PLC0415

    token = tmp_path / "token"
    token.write_text("hunter2\n")
    copies = start(running, token)
    other = Fleet(running.bootstrap_servers, f"{running.prefix}other.", tmp_path).make_topics(1)
    try:
        elsewhere = other.start("event-index", "--database", f"sqlite:///{tmp_path}/other.db").wait_ready()
        monkeypatch.setattr(module, "_SETTLE_SECONDS", 1.0)
        said: list[str] = []

        status = module.run_fleet(
            events=100,
            agents=1,
            services={
                name: [copy.url for copy in of] for name, of in (copies | {"event-index": [elsewhere]}).items()
            },
            environ={**os.environ, **running.environ},
            token=None,
            say=said.append,
        )
    finally:
        other.close()

    assert status == 1
    assert said[-1] == "The account does not add up."
    assert any(line.startswith("session: ") and line.endswith("DOES NOT ADD UP") for line in said)
