"""A live run of the scenario: real services on a real Kafka, and a real Prometheus that scrapes them."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from observability.prometheus.log_owned import SERVICE_JOBS
from tests.observability.prometheus import CLUSTER, Prometheus, prometheus
from tests.observability.scenario import MAX_SERIES, PARTITIONS, Agent, Scenario
from tests.support.service_processes import Fleet, RunningService, eventually, fleet
from tests.support.span_receivers import PROTOBUF, HttpReceiver, Reply, Request, http_receiver
from tools.dashboards.expressions import PanelQuery, expressions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WINDOW = 300
"""The window of the rules' rates, and so of the panels', in seconds. The whole run fits into it."""

_RING = ("agent-hypervisor", "event-index")
"""The jobs that read ring events."""

PANELS: tuple[PanelQuery, ...] = tuple(
    expressions(
        {
            "cluster": CLUSTER,
            "governance": "governance-metrics",
            "job": "|".join(SERVICE_JOBS),
            "__rate_interval": f"{WINDOW}s",
            "__range": f"{WINDOW}s",
        }
    )
)


@dataclass
class LiveRun:
    """A run at its end; all processes still run."""

    prometheus: Prometheus
    fleet: Fleet
    receiver: HttpReceiver
    agent: Agent
    scenario: Scenario
    services: dict[str, RunningService]
    began: float
    ended: float
    """The time at which everything had been scraped; seconds since 1970."""


def _answer(request: Request) -> Reply:
    """Take all spans but the poisoned one."""
    is_refused = any("poison" in name for name in request.names)
    return Reply(400 if is_refused else 200, headers={"Content-Type": PROTOBUF})


@contextmanager
def live_run(bootstrap_servers: str, prefix: str, folder: Path) -> Iterator[LiveRun]:
    with (
        prometheus(folder / "prometheus") as server,
        http_receiver() as receiver,
        fleet(bootstrap_servers, prefix, folder) as services_fleet,
    ):
        receiver.answer = _answer
        services_fleet.make_topics(PARTITIONS)
        agent = Agent(bootstrap_servers, prefix)
        try:
            yield _run_scenario(server, services_fleet, receiver, agent)
        finally:
            agent.close()


def _run_scenario(server: Prometheus, services_fleet: Fleet, receiver: HttpReceiver, agent: Agent) -> LiveRun:
    began = time.time()
    ring = {"TELEMETRY_MAX_SERIES": str(MAX_SERIES)}
    services = {
        "agent-hypervisor": services_fleet.start("ring-metrics", **ring),
        "saga-spans": services_fleet.start("saga-spans", "--sink", f"otlp:{receiver.url}"),
        "event-index": services_fleet.start(
            "event-index",
            "--database",
            f"sqlite:///{services_fleet.folder}/index.db",
            TELEMETRY_INDEX_RETENTION="1d",
        ),
        "governance-metrics": services_fleet.start("governance-metrics"),
    }
    for job, service in services.items():
        server.scrape(job, service.wait_ready().url)
    server.scrape("agents", agent.url)
    # The zeros of each partition are there, before the first event.
    zeros = (
        "agent_hypervisor_ring_elevation_seconds_count",
        "agent_hypervisor_saga_oldest_open_seconds",
        'agent_governance_audit_events_total{job="governance-metrics"}',
        *(
            f'hypervisor_telemetry_records_total{{job="{job}",topic=~".+events.ring",result="applied"}}'
            for job in _RING
        ),
    )
    for name in zeros:
        eventually(lambda name=name: server.value(f"count({name})"), lambda count: count == PARTITIONS)
    eventually(lambda: server.value('count(up{job!="agent-governance"} == 1)'), lambda count: count == 5)

    scenario = Scenario(datetime.now(UTC))
    agent.emit(scenario.first())
    agent.govern_first()
    agent.flush()
    eventually(lambda: _scraped(server), lambda shown: shown == (7, 5, 2, 2), 60)

    # Partitions go to another copy and come back while the many are counted.
    other = services_fleet.start("ring-metrics", **ring).wait_ready()
    server.scrape("agent-hypervisor", services["agent-hypervisor"].url, other.url)
    restored = 'hypervisor_telemetry_partition_restored{job="agent-hypervisor",topic=~".+events.ring"} == 1'
    shared = f"count({restored}) == {PARTITIONS} and count(count by (instance) ({restored})) == 2"
    eventually(lambda: server.query(shared), bool, 60)
    many = list(scenario.many())
    half = len(many) // 2
    agent.emit(many[:half])
    agent.flush()
    other.terminate()
    agent.emit(many[half:])
    agent.govern_many()
    agent.drop()
    agent.flush()
    services_fleet.produce("ring", [b"nonsense"] * 3, partition=1)
    eventually(lambda: _scraped(server), lambda shown: shown == (7 + 14, 5 + 208, 2 + 8, 2 + 40), 90)
    # Long enough that half of a scrape at each end, which `rate` adds, is little.
    eventually(lambda: server.value('count_over_time(up{job="saga-spans"}[5m])'), lambda count: count >= 30, 60)
    # On a busy machine a scrape of a second may be late; the end is a moment at which none was.
    eventually(lambda: server.value('count(up{job!="agent-governance"} == 1)'), lambda count: count == 5)
    ended = time.time()
    assert ended - began < WINDOW, "the run no longer fits into the window of the rates"
    return LiveRun(server, services_fleet, receiver, agent, scenario, services, began, ended)


def _scraped(server: Prometheus) -> tuple[float, ...]:
    """Return Prometheus' counts of transitions, breaches, ended sagas and decisions."""
    totals = (
        "agent_hypervisor_ring_transitions_total",
        "agent_hypervisor_ring_breaches_total",
        "agent_hypervisor_sagas_total",
        'agent_governance_policy_decisions_total{job="governance-metrics"}',
    )
    return tuple(server.value(f"sum({total})") for total in totals)
