"""One agent process of the demo: it works with the `agent-hypervisor` package and emits events about it.

The package emits nothing by itself. This program emits an event for each thing that it really did or refused: its
sessions and their audit, ring elevations that expire, breaches that its detector raised, its rate limiter's
refusals, its ring enforcer's decisions, and sagas of which some fail, compensate and escalate. It prints a JSON
line now and then, and its report as the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from hypervisor import Hypervisor, SessionConfig
from hypervisor.audit.delta import VFSChange
from hypervisor.models import ActionDescriptor, ExecutionRing
from hypervisor.rings.breach_detector import RingBreachDetector
from hypervisor.rings.elevation import RingElevation, RingElevationManager
from hypervisor.rings.enforcer import RingEnforcer
from hypervisor.saga.checkpoint import CheckpointManager
from hypervisor.saga.fan_out import FanOutOrchestrator
from hypervisor.saga.orchestrator import SagaOrchestrator
from hypervisor.saga.state_machine import SagaState, SagaStep
from hypervisor.security.rate_limiter import AgentRateLimiter

from hypervisor_telemetry import (
    CausalTraceId,
    EventPublisher,
    EventType,
    GovernanceEventType,
    HypervisorEvent,
    HypervisorEventBus,
)

__all__ = ["main"]

SESSIONS_AT_ONCE = 40
ELEVATION_SECONDS = 1
_LEFT_IN_A_RUNNING_SESSION = 37
_DEPLOY = ActionDescriptor("deploy", "deploy", "/deploy")
_READ = ActionDescriptor("file_read", "file_read", "/read", is_read_only=True)
_SHELL = ActionDescriptor("shell_exec", "shell_exec", "/shell", is_admin=True)
Emit = Callable[..., None]


class DemoAgent:
    """An orchestrating agent that delegates to a worker in every session it holds."""

    # size: an attribute for each part of agent-hypervisor that the agent works with

    def __init__(self, number: int, bus: HypervisorEventBus, chance: random.Random) -> None:
        self.did = f"did:mesh:orchestrator-{number}"
        self.worker = f"did:mesh:worker-{number}"
        self.facts: Counter[str] = Counter()
        self.governance: Counter[str] = Counter()
        """The counts that governance-metrics has to show for this agent and its worker."""
        self._bus = bus
        self._chance = chance
        self._hypervisor = Hypervisor()
        self._elevations = RingElevationManager()
        self._expiries: dict[str, asyncio.Future[RingElevation]] = {}
        self._detector = RingBreachDetector(baseline_rate=5.0)
        self._limiter = AgentRateLimiter()
        self._enforcer = RingEnforcer()
        self._fan_outs = FanOutOrchestrator()
        self._checkpoints = CheckpointManager()

    async def work(self, events: int, print_progress: Callable[[], None]) -> None:
        """Hold sessions, many at once, until at least `events` events were emitted."""
        expiring = asyncio.create_task(self._expire_elevations())
        for did in (self.did, self.worker):
            self._govern(GovernanceEventType.AGENT_REGISTERED, did)
        running: set[asyncio.Task[None]] = set()
        while running or self._bus.event_count < events:
            likely = self._bus.event_count + len(running) * _LEFT_IN_A_RUNNING_SESSION
            if likely < events and len(running) < SESSIONS_AT_ONCE:
                running.add(asyncio.create_task(self._session()))
                await asyncio.sleep(0)
                continue
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            print_progress()
        expiring.cancel()
        self._govern(GovernanceEventType.AGENT_DEREGISTERED, self.worker)
        self.governance["active"] = 1

    async def _session(self) -> None:
        trace = CausalTraceId()
        hypervisor = self._hypervisor
        managed = await hypervisor.create_session(SessionConfig(max_participants=4), creator_did=self.did)
        session = managed.sso.session_id
        lead = self._emitter(session, self.did, trace)
        aide = self._emitter(session, self.worker, trace.child())

        lead(EventType.SESSION_CREATED, model="gpt-4o", mode=managed.sso.consistency_mode)
        rings = {}
        for did, emit, trust in ((self.did, lead, 0.9), (self.worker, aide, 0.4)):
            rings[did] = await hypervisor.join_session(session, did, sigma_raw=trust)
            emit(EventType.SESSION_JOINED, trust=trust)
            emit(EventType.RING_ASSIGNED, ring=rings[did])
            self._govern(GovernanceEventType.TRUST_SCORE, did, session, score=trust * 1000)
        await hypervisor.activate_session(session)
        lead(EventType.SESSION_ACTIVATED, participants=managed.sso.participant_count)

        expiry = self._elevate(session, rings[self.did], lead)
        self._decide(self.did, session, ExecutionRing.RING_1_PRIVILEGED, _DEPLOY)
        self._decide(self.worker, session, rings[self.worker], _READ)
        self._decide(self.worker, session, rings[self.worker], _SHELL)
        await self._saga(
            managed.saga,
            session,
            lead,
            name="deploy",
            actions=["validate", "migrate"],
            branches=["switch-east", "switch-west"],
        )
        await self._saga(
            managed.saga, session, lead, name="import", actions=["fetch", "transform", "load"], fails="load"
        )
        await self._saga(
            managed.saga, session, aide, name="notify", actions=["send", "confirm"], fails="confirm", undo=False
        )
        self._write(managed, aide)
        self._overreach(session, rings[self.worker], aide)

        elevation = await expiry
        lead(
            EventType.RING_ELEVATION_EXPIRED,
            at=elevation.expires_at,
            from_ring=elevation.elevated_ring,
            to_ring=elevation.original_ring,
            elevation_id=elevation.elevation_id,
        )
        self.facts["expired"] += 1
        root = await hypervisor.terminate_session(session)
        lead(EventType.AUDIT_COMMITTED, hash_chain_root=root)
        lead(EventType.SESSION_TERMINATED, at=managed.sso.terminated_at)
        lead(EventType.SESSION_ARCHIVED, state=managed.sso.state)
        self.facts["sessions"] += 1

    def _emitter(self, session: str, did: str, trace: CausalTraceId) -> Emit:
        def emit(event_type: EventType, at: datetime | None = None, **payload: Any) -> None:
            self._bus.emit(
                HypervisorEvent(
                    event_type=event_type,
                    session_id=session,
                    agent_did=did,
                    causal_trace_id=trace.full_id,
                    payload=payload,
                    timestamp=at or datetime.now(UTC),
                )
            )

        return emit

    def _govern(self, kind: GovernanceEventType, did: str, session: str | None = None, **payload: Any) -> None:
        self._bus.emit(HypervisorEvent(event_type=kind, session_id=session, agent_did=did, payload=payload))

    def _decide(self, did: str, session: str, ring: ExecutionRing, action: ActionDescriptor) -> None:
        began = time.perf_counter()
        result = self._enforcer.check(ring, action, eff_score=0.5)
        took = (time.perf_counter() - began) * 1000
        self._decided(did, session, action.name, allowed=result.allowed, evaluation_ms=took)

    def _decided(self, did: str, session: str, tool: str, *, allowed: bool, **payload: Any) -> None:
        kind = GovernanceEventType.POLICY_DECISION
        self._govern(kind, did, session, tool_name=tool, allowed=allowed, **payload)
        self.governance["allowed" if allowed else "blocked"] += 1

    def _elevate(self, session: str, ring: ExecutionRing, emit: Emit) -> asyncio.Future[RingElevation]:
        elevation = self._elevations.request_elevation(
            self.did,
            session,
            current_ring=ring,
            target_ring=ExecutionRing.RING_1_PRIVILEGED,
            ttl_seconds=ELEVATION_SECONDS,
            attestation="change-4711",
            reason="deploy needs the production ring",
            trust_score=0.9,
        )
        emit(
            EventType.RING_ELEVATED,
            at=elevation.granted_at,
            from_ring=elevation.original_ring,
            to_ring=elevation.elevated_ring,
            reason=elevation.reason,
            elevation_id=elevation.elevation_id,
        )
        expiry: asyncio.Future[RingElevation] = asyncio.get_running_loop().create_future()
        self._expiries[elevation.elevation_id] = expiry
        return expiry

    async def _expire_elevations(self) -> None:
        while True:
            for elevation in self._elevations.tick():
                self._expiries.pop(elevation.elevation_id).set_result(elevation)
            await asyncio.sleep(0.02)

    async def _saga(
        self,
        orchestrator: SagaOrchestrator,
        session: str,
        emit: Emit,
        *,
        name: str,
        actions: list[str],
        branches: Sequence[str] = (),
        fails: str | None = None,
        undo: bool = True,
    ) -> None:
        """Run a saga. Where a step fails, undo the steps before it, or escalate where nothing can be undone.

        The steps that `branches` names come last, as a fan-out.
        """
        saga = orchestrator.create_saga(session)
        emit(EventType.SAGA_CREATED, at=saga.created_at, saga_id=saga.saga_id, name=name)
        for action in actions:
            step = orchestrator.add_step(
                saga.saga_id, action, self.did, f"/{name}/{action}", f"/{name}/{action}/undo" if undo else None
            )
            about = {"saga_id": saga.saga_id, "step_id": step.step_id, "step_action": action}

            async def work(action: str = action, step: SagaStep = step, about: dict[str, str] = about) -> str:
                emit(EventType.SAGA_STEP_STARTED, at=step.started_at, **about)
                await asyncio.sleep(self._chance.uniform(0.001, 0.01))
                if action == fails:
                    raise ConnectionError(f"{action}: the other side closed the connection")
                return f"{action} done"

            try:
                result = await orchestrator.execute_step(saga.saga_id, step.step_id, work)
            except ConnectionError as error:
                emit(EventType.SAGA_STEP_FAILED, at=step.completed_at, **about, error=step.error, reason=str(error))
                break
            emit(EventType.SAGA_STEP_COMMITTED, at=step.completed_at, **about, result=result)
        else:
            if branches:
                await self._fan_out(orchestrator, saga.saga_id, branches, emit)
            saga.transition(SagaState.COMPLETED)
            emit(EventType.SAGA_COMPLETED, at=saga.completed_at, saga_id=saga.saga_id)
            self.facts["sagas ok"] += 1
            return

        async def compensate(step: SagaStep) -> str:
            began = time.perf_counter()
            await asyncio.sleep(self._chance.uniform(0.001, 0.005))
            emit(
                EventType.SAGA_COMPENSATING,
                saga_id=saga.saga_id,
                step_id=step.step_id,
                step_action=f"undo-{step.action_id}",
                duration_seconds=time.perf_counter() - began,
            )
            return "undone"

        await orchestrator.compensate(saga.saga_id, compensate)
        if saga.state is SagaState.ESCALATED:
            emit(EventType.SAGA_ESCALATED, at=saga.completed_at, saga_id=saga.saga_id, reason=saga.error)
            self.facts["escalated"] += 1
        else:
            emit(EventType.SAGA_COMPLETED, at=saga.completed_at, saga_id=saga.saga_id, reason="compensated")
            self.facts["compensated"] += 1

    async def _fan_out(
        self, orchestrator: SagaOrchestrator, saga_id: str, actions: Sequence[str], emit: Emit
    ) -> None:
        group = self._fan_outs.create_group(saga_id)
        steps = [orchestrator.add_step(saga_id, action, self.did, f"/{action}") for action in actions]
        executors = {}
        for step in steps:
            self._fan_outs.add_branch(group.group_id, step)

            async def work(step: SagaStep = step) -> str:
                about = {"saga_id": saga_id, "step_id": step.step_id, "step_action": step.action_id}
                emit(EventType.SAGA_STEP_STARTED, at=step.started_at, **about, group_id=group.group_id)
                await asyncio.sleep(self._chance.uniform(0.001, 0.01))
                saved = self._checkpoints.save(saga_id, step.step_id, f"{step.action_id} answers")
                emit(
                    EventType.SAGA_CHECKPOINT_SAVED,
                    at=saved.achieved_at,
                    **about,
                    checkpoint_id=saved.checkpoint_id,
                    goal_description=saved.goal_description,
                )
                await asyncio.sleep(self._chance.uniform(0.001, 0.005))
                emit(EventType.SAGA_STEP_COMMITTED, **about, result="switched")
                return "switched"

            executors[step.step_id] = work
        about = {"saga_id": saga_id, "group_id": group.group_id, "policy": group.policy}
        emit(EventType.SAGA_FANOUT_STARTED, **about, branches=[step.step_id for step in steps])
        await self._fan_outs.execute(group.group_id, executors)
        emit(EventType.SAGA_FANOUT_RESOLVED, **about, policy_satisfied=group.policy_satisfied)
        self.facts["fan-outs"] += 1

    def _write(self, managed: Any, emit: Emit) -> None:
        edit = managed.sso.vfs.write("report.md", f"report of {self.worker}", self.worker)
        emit(EventType.VFS_WRITE, path=edit.path, content_hash=edit.content_hash)
        change = VFSChange(edit.path, "write", content_hash=edit.content_hash, agent_did=self.worker)
        delta = managed.delta_engine.capture(self.worker, [change])
        emit(
            EventType.AUDIT_DELTA_CAPTURED, at=delta.timestamp, delta_id=delta.delta_id, delta_hash=delta.delta_hash
        )
        self._govern(GovernanceEventType.AUDIT_EVENT, self.worker, entry=delta.delta_hash)
        self.governance["audited"] += 1

    def _overreach(self, session: str, ring: ExecutionRing, emit: Emit) -> None:
        """The worker calls into ring 0 until the rate limiter stops it."""
        refused = 0
        while refused < 2:
            breach = self._detector.record_call(self.worker, session, ring, ExecutionRing.RING_0_ROOT)
            if breach is not None:
                emit(
                    EventType.RING_BREACH_DETECTED,
                    at=breach.timestamp,
                    attempted_tool="shell_exec",
                    ring=ring,
                    severity=breach.severity,
                    anomaly_score=breach.anomaly_score,
                )
                self.facts["breaches"] += 1
            began = time.perf_counter()
            may_go_on = self._limiter.try_check(self.worker, session, ring)
            took = (time.perf_counter() - began) * 1000
            if not may_go_on:
                refused += 1
                self._decided(
                    self.worker, session, "shell_exec", allowed=False, evaluation_ms=took, rate_limited=True
                )
                self.governance["limited"] += 1
                stats = self._limiter.get_stats(self.worker, session)
                emit(EventType.RATE_LIMITED, ring=ring, rejected=stats.rejected_requests if stats else refused)
                self.facts["limited"] += 1


def main() -> None:
    """Read the options, work, flush, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--events", type=int, required=True)
    options = parser.parse_args()

    bus = HypervisorEventBus(max_events=None)
    publisher = EventPublisher()
    publisher.attach(bus)
    agent = DemoAgent(options.number, bus, random.Random(options.number))  # noqa: S311 - durations of the work

    def print_progress() -> None:
        print(json.dumps({"emitted": bus.event_count}), flush=True)  # noqa: T201 - read by the demo

    asyncio.run(agent.work(options.events, print_progress))
    pending = publisher.flush(60).pending
    publisher.close()
    stats = publisher.stats()
    categories: Counter[str] = Counter()
    for event_type, count in bus.type_counts().items():
        categories[event_type.partition(".")[0]] += count
    print(  # noqa: T201 - read by the demo
        json.dumps(
            {
                "emitted": bus.event_count,
                "delivered": stats.delivered,
                "categories": categories,
                "facts": agent.facts,
                "governance": agent.governance,
            }
        ),
        flush=True,
    )
    sys.exit(1 if pending or stats.delivered != bus.event_count else 0)


if __name__ == "__main__":
    main()
