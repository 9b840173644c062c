"""The bytes that each fold's state is kept as. This version has to read what an older one wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hypervisor_consumers.governance_metrics.fold.event_fold import GovernanceFold
from hypervisor_consumers.ring_metrics.fold.event_fold import RingFold
from hypervisor_consumers.runtime.partitions.changelog import changes_of, load_change, tables_of
from hypervisor_consumers.runtime.protocols import Table
from hypervisor_consumers.saga_spans.fold.event_fold import SagaFold
from hypervisor_schemas.events import AnyEventType, EventType, GovernanceEventType, HypervisorEvent

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


def event(kind: AnyEventType, second: float, agent: str = "did:a", session: str = "s1", **payload: Any) -> Any:
    return HypervisorEvent(
        event_id=f"{int(second * 10):016x}",
        event_type=kind,
        timestamp=NOON + timedelta(seconds=second),
        agent_did=agent,
        session_id=session,
        causal_trace_id="a1b2c3d4e5f6/00000001",
        payload=payload,
    )


def ring_state() -> Any:
    fold = RingFold(max_series=2)
    return folded(
        fold,
        event(EventType.RING_ASSIGNED, 1, ring=3),
        event(EventType.RING_ELEVATED, 2, ring=1),
        event(EventType.RING_DEMOTED, 9),
        event(EventType.RING_ELEVATED, 10),
        event(EventType.RING_BREACH_DETECTED, 11),
        event(EventType.RING_BREACH_DETECTED, 12, agent="did:b"),
        event(EventType.RING_BREACH_DETECTED, 13, agent="did:c"),
    )


def governance_state() -> Any:
    decision = GovernanceEventType.POLICY_DECISION
    fold = GovernanceFold(labels=("agent_id", "tool_name"), max_series=2)
    return folded(
        fold,
        event(GovernanceEventType.AGENT_REGISTERED, 1),
        event(decision, 2, allowed=True, tool_name="shell", evaluation_ms=1.5),
        event(decision, 3, allowed=False, tool_name="shell", evaluation_ms=0.2, rate_limited=True),
        event(decision, 4, allowed=False, tool_name="mail"),
        event(GovernanceEventType.TRUST_SCORE, 5, score=812.5),
        event(GovernanceEventType.AUDIT_EVENT, 6, agent="did:b"),
        event(GovernanceEventType.AGENT_DEREGISTERED, 7),
    )


def saga_state() -> Any:
    fold = SagaFold(timeout_ms=3_600_000, grace_ms=60_000)
    state = folded(
        fold,
        event(EventType.SAGA_CREATED, 1, saga_id="g"),
        event(EventType.SAGA_FANOUT_STARTED, 2, saga_id="g", fan_out_id="f", policy="all", branches=["b1", "b2"]),
        event(EventType.SAGA_CHECKPOINT_SAVED, 3, saga_id="g", checkpoint_id="c", goal="done"),
        event(EventType.SAGA_STEP_STARTED, 4, saga_id="g", step_id="b1", action="work"),
        event(EventType.SAGA_CHECKPOINT_SAVED, 5, saga_id="g", step_id="b1", checkpoint_id="d"),
        event(EventType.SAGA_STEP_COMMITTED, 6, saga_id="g", step_id="other"),
        event(EventType.SAGA_STEP_FAILED, 7, saga_id="g", step_id="another", error="no"),
        event(EventType.SAGA_COMPENSATING, 8, saga_id="g", step_id="other"),
        *(event(EventType.SAGA_STEP_STARTED, 9, session="s2", saga_id="g", step_id=f"{n}") for n in range(10)),
        event(EventType.SAGA_FANOUT_STARTED, 10, saga_id="h", fan_out_id="f"),
        event(EventType.SAGA_STEP_STARTED, 11, saga_id="h", step_id="1", action="work"),
        event(EventType.SAGA_COMPLETED, 12, saga_id="h"),
        event(EventType.SAGA_CREATED, -3601, saga_id="i"),
        event(EventType.SAGA_CREATED, 13, saga_id="j"),
    )
    fold.expire(state, NOON_MS)
    return state


def folded(fold: Any, *events: HypervisorEvent) -> Any:
    state = fold.new_state()
    for each in events:
        fold.apply(state, each, int(each.timestamp.timestamp() * 1000) + 250)
    return state


STATES: dict[str, Callable[[], Any]] = {
    "ring-metrics": ring_state,
    "governance-metrics": governance_state,
    "saga-spans": saga_state,
}
ROWS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("state_rows.json").read_text("utf-8"))
"""The records of the changelog by service: key to value."""


def written(state: Any) -> dict[str, str]:
    return {key.decode(): (value or b"").decode() for key, value in changes_of(7, tables_of(state))}


@pytest.mark.parametrize("service", STATES)
def test_rows_are_written_as_ever(service: str) -> None:
    state = STATES[service]()
    assert written(state) == ROWS[service]
    assert all(tables_of(state).values())


@pytest.mark.parametrize("service", STATES)
def test_rows_are_read_as_ever(service: str) -> None:
    state = STATES[service]()
    tables = {name: Table(table.value_type) for name, table in tables_of(state).items()}
    for key, value in ROWS[service].items():
        load_change(7, tables, key.encode(), value.encode())
    assert tables == tables_of(state)
