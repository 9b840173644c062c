"""The series that ring-metrics keeps: a ceiling for each partition, labels that are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.service_processes import RunningService, eventually, sessions_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.service_processes import Fleet

pytestmark = pytest.mark.kafka

TRANSITIONS = "agent_hypervisor_ring_transitions_total"
BREACHES = "agent_hypervisor_ring_breaches_total"
KINDS = (EventType.RING_ASSIGNED, EventType.RING_ASSIGNED, EventType.RING_DEMOTED, EventType.RING_BREACH_DETECTED)
SESSIONS = [*sessions_in(0, 2, count=3), *sessions_in(1, 2, count=2)]
EVENTS = [
    HypervisorEvent(event_type=kind, agent_did=f"did:{number % 2}", session_id=session, payload={"ring": 1})
    for number, session in enumerate(SESSIONS)
    for kind in KINDS
]
"""Of each session three transitions and a breach; agent 0 has sessions in both partitions."""


@pytest.fixture(scope="module")
def services(new_fleet: Callable[[int], Fleet]) -> dict[str, RunningService]:
    """One with each setting, side by side."""
    settings = {
        "few": {"TELEMETRY_MAX_SERIES": "2"},
        "agents": {"TELEMETRY_RING_LABELS": "event_type,agent_did"},
        "sums": {"TELEMETRY_RING_LABELS": "session_id,agent_did"},
    }
    services = {}
    for name, environ in settings.items():
        fleet = new_fleet(2)
        fleet.publish(EVENTS)
        services[name] = fleet.start("ring-metrics", **environ)
    for service in services.values():
        eventually(lambda service=service: total(service), lambda count: count == len(EVENTS))
    return services


def total(service: RunningService) -> float:
    return sum(sum(service.metrics(metric).values()) for metric in (TRANSITIONS, BREACHES))


def test_series_beyond_the_ceiling_are_counted_in_one_overflow_series_and_the_sums_stay_right(
    services: dict[str, RunningService],
):
    service = services["few"]
    over = {"agent_did": "__overflow__", "session_id": "__overflow__", "partition": 0}

    # Partition 0 has three sessions and room for two; which was the third, the order of arrival decides.
    assert service.value(TRANSITIONS, **over, event_type="ring.assigned") == 2
    assert service.value(TRANSITIONS, **over, event_type="ring.demoted") == 1
    assert service.value(BREACHES, **over) == 1
    assert service.value("hypervisor_telemetry_series_overflow_total", partition=0) == 4
    assert service.value("hypervisor_telemetry_series_overflow_total", partition=1) == 0
    assert [name for name in service.metrics(BREACHES) if 'partition="1"' in name] == []


def test_counters_without_the_session_carry_the_partition_that_their_sums_lie_in(
    services: dict[str, RunningService],
):
    assert services["agents"].metrics(BREACHES) == {
        f'{BREACHES}{{agent_did="did:0",partition="0"}}': 2,
        f'{BREACHES}{{agent_did="did:1",partition="0"}}': 1,
        f'{BREACHES}{{agent_did="did:0",partition="1"}}': 1,
        f'{BREACHES}{{agent_did="did:1",partition="1"}}': 1,
    }


def test_counters_without_the_event_type_are_the_sums_over_it(services: dict[str, RunningService]):
    assert services["sums"].metrics(TRANSITIONS) == {
        f'{TRANSITIONS}{{agent_did="did:{number % 2}",session_id="{session}"}}': 3
        for number, session in enumerate(SESSIONS)
    }


def test_rings_of_agents_are_shown_whatever_labels_the_counters_keep(services: dict[str, RunningService]):
    current = "agent_hypervisor_ring_current"
    for name in ("agents", "sums"):
        wanted = {f'{current}{{agent_did="did:{n}"}}': 1 for n in range(2)}
        eventually(lambda name=name: services[name].metrics(current), lambda shown, wanted=wanted: shown == wanted)
