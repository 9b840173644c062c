"""The routes of `/v1/sagas`: the sagas that are open now. Read-only; only committed state is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.ops.auth import bearer_access
from hypervisor_consumers.runtime.ops.freshness import Freshness
from hypervisor_consumers.saga_spans.fold.state import (
    Checkpoint,
    EndedSaga,
    OpenFanOut,
    OpenSaga,
    OpenStep,
    SagaKey,
    SagaState,
)

__all__ = ["SagaFilter", "create_router", "open_sagas"]


class SagaFilter(BaseModel):
    """The query parameters of `/v1/sagas`; all that are given have to fit."""

    model_config = ConfigDict(extra="forbid")

    session_id: str | None = Field(None, max_length=1024)
    agent_did: str | None = Field(None, max_length=1024, description="Heard of last, or running one of its steps.")
    trace_id: str | None = Field(None, max_length=1024, description="Of the span, or of the causal trace.")
    min_age: float = Field(0, ge=0, le=1e9, description="Seconds since its first event was published, at least.")
    failed: bool | None = Field(None, description="Whether one of its steps has failed.")
    limit: int = Field(100, ge=1, le=1000, description="At most so many, the oldest.")


def create_router(
    shown: Callable[[], Shown[SagaState]], freshness: Freshness, now: Callable[[], float], token: str | None
) -> APIRouter:
    """The routes under `/v1`; if there is a token, requests need it.

    Answers: 200; 401 without the token; 404 for a saga that this copy doesn't know; 422 for a parameter that is
    wrong or unknown; 503 while this copy may not show anything.
    """
    router = APIRouter(prefix="/v1", tags=["sagas"], dependencies=[Depends(bearer_access(token))])

    @router.get("/sagas")
    def sagas(wanted: Annotated[SagaFilter, Query()]) -> Response:
        """The open sagas of this copy's partitions that fit every filter, the oldest first."""
        snapshot = _snapshot(shown)
        found = open_sagas(snapshot.states, now(), wanted)
        return _json({"sagas": found[: wanted.limit], "open": len(found), **_completeness(snapshot, freshness)})

    @router.get("/sagas/{saga_id:path}")
    def saga(
        saga_id: Annotated[str, Path(max_length=1024)],
        session_id: Annotated[str | None, Query(max_length=1024)] = None,
    ) -> Response:
        """The sagas of this id, one a session: open ones, and those that ended a short while ago."""
        snapshot = _snapshot(shown)
        found = [
            described
            for partition, state in sorted(snapshot.states.items())
            for (session, _), described in _of_id(state, partition, saga_id, now())
            if session_id in {None, session}
        ]
        if not found:
            raise HTTPException(
                404,
                f"No saga {saga_id!r} is open in the partitions of this copy ({_partitions(snapshot)}); it may "
                "have ended, or be another copy's.",
            )
        return _json({"sagas": found, **_completeness(snapshot, freshness)})

    return router


def open_sagas(states: Mapping[int, SagaState], now: float, wanted: SagaFilter) -> list[dict[str, Any]]:
    """The open sagas at `now` (seconds since 1970) that fit, the oldest first, without regard to the limit."""
    found = [
        _open(partition, key, saga, list(state.open_steps((key[0], key[1]), saga)), now)
        for partition, state in states.items()
        for key, saga in state.sagas.present()
        if _fits(state, (key[0], key[1]), saga, now, wanted)
    ]
    return sorted(found, key=lambda saga: (-saga["age_seconds"], saga["session_id"], saga["saga_id"]))


def _fits(state: SagaState, key: SagaKey, saga: OpenSaga, now: float, wanted: SagaFilter) -> bool:
    return (
        wanted.session_id in {None, key[0]}
        and _age_of(saga, now) >= wanted.min_age
        and wanted.failed in {None, saga.failed > 0}
        and wanted.trace_id in {None, saga.trace_id, saga.causal_trace_id.partition("/")[0]}
        and (
            wanted.agent_did in {None, saga.agent_did}
            or any(step.agent_did == wanted.agent_did for step in state.open_steps(key, saga))
        )
    )


def _of_id(
    state: SagaState, partition: int, saga_id: str, now: float
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    for key, saga in state.sagas.present():
        if key[1] == saga_id:
            steps = list(state.open_steps((key[0], key[1]), saga))
            yield key, _open(partition, key, saga, steps, now)
    for key, ended in state.ended.present():
        if key[1] == saga_id:
            yield key, _ended(partition, key, ended)


def _open(
    partition: int, key: tuple[str, ...], saga: OpenSaga, steps: list[OpenStep], now: float
) -> dict[str, Any]:
    return {
        "session_id": key[0] or None,
        "saga_id": key[1],
        "state": "open",
        "trace_id": saga.trace_id,
        "span_id": saga.span_id,
        "causal_trace_id": saga.causal_trace_id or None,
        "agent_did": saga.agent_did or None,
        "start_time": saga.start_time,
        "age_seconds": round(_age_of(saga, now), 3),
        "current_steps": [_step(step) for step in sorted(steps, key=lambda step: step.start_time)],
        "fan_outs": [_fan_out(fan_out) for fan_out in saga.fan_outs],
        "checkpoints": [_checkpoint(saved) for saved in saga.checkpoints],
        "steps_done": saga.done,
        "steps_failed": saga.failed,
        "compensations": saga.compensated,
        "last_error": saga.last_error or None,
        "partition": partition,
    }


def _ended(partition: int, key: tuple[str, ...], ended: EndedSaga) -> dict[str, Any]:
    return {
        "session_id": key[0] or None,
        "saga_id": key[1],
        "state": "timed_out" if ended.timed_out else "ended",
        "trace_id": ended.trace_id,
        "span_id": ended.span_id,
        "end_time": ended.end_time,
        "current_steps": [_step(step) for step in ended.steps],
        "fan_outs": [_fan_out(fan_out) for fan_out in ended.fan_outs],
        "partition": partition,
    }


def _step(step: OpenStep) -> dict[str, Any]:
    return {
        "step_id": step.step_id,
        "step_action": step.action or None,
        "span_id": step.span_id,
        "agent_did": step.agent_did or None,
        "causal_trace_id": step.causal_trace_id or None,
        "start_time": step.start_time,
        "checkpoints": [_checkpoint(saved) for saved in step.checkpoints],
    }


def _fan_out(fan_out: OpenFanOut) -> dict[str, Any]:
    return {
        "fan_out_id": fan_out.fan_out_id or None,
        "span_id": fan_out.span_id,
        "policy": fan_out.policy or None,
        "branches": list(fan_out.branches),
        "start_time": fan_out.start_time,
    }


def _checkpoint(saved: Checkpoint) -> dict[str, Any]:
    return {"time": saved.time, **saved.attributes}


def _age_of(saga: OpenSaga, now: float) -> float:
    return max(0.0, now - saga.seen_at_ms / 1000)


def _snapshot(shown: Callable[[], Shown[SagaState]]) -> Shown[SagaState]:
    snapshot = shown()
    if not snapshot.states and snapshot.state_partitions is None:
        raise HTTPException(
            503, "This copy may not show anything now: its partitions are being restored, or Kafka is away."
        )
    return snapshot


def _completeness(snapshot: Shown[SagaState], freshness: Freshness) -> dict[str, Any]:
    return {
        "freshness": freshness.of(snapshot.accounts),
        # Other copies answer for the other partitions.
        "is_partial": snapshot.state_partitions is None or len(snapshot.states) < snapshot.state_partitions,
    }


def _partitions(snapshot: Shown[SagaState]) -> str:
    return ", ".join(str(partition) for partition in sorted(snapshot.states)) or "none"


def _json(answer: Any) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
