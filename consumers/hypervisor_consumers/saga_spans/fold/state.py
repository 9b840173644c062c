"""The state of saga-spans: the open sagas and steps of one partition, or of one bus in an agent. Pure.

Every operation costs the same however many sagas and steps are open, except that closing a saga visits its own
open steps. So an agent that never ends anything makes the tables larger, not slower.

Every key that an operation sets is a record in the service's changelog. So a saga holds its open steps itself as
long as they are few: then the start of a step is one record, and so is its end.

Rows are written to the changelog as JSON objects (`Checkpoint` as an array): a field that is renamed keeps its name
there, and a new one has a default.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import msgspec

from hypervisor_consumers.runtime.protocols import Table
from hypervisor_consumers.saga_spans.fold.parsed_event import ParsedEvent, shortened
from hypervisor_consumers.saga_spans.fold.span_identity import (
    fan_out_span_id,
    saga_span_id,
    saga_trace_id,
    step_span_id,
)
from hypervisor_consumers.saga_spans.fold.span_stats import Total

__all__ = [
    "Checkpoint",
    "EndedSaga",
    "OpenFanOut",
    "OpenSaga",
    "OpenStep",
    "SagaKey",
    "SagaState",
    "new_fan_out",
    "new_saga",
    "new_step",
    "parent_span_of",
]

SagaKey: TypeAlias = tuple[str, str]
"""Session ("" without one) and saga id."""

_Key: TypeAlias = tuple[str, ...]

_HELD_STEPS = 8
_HELD_STEP_ID = 256
"""Characters. A saga that held eight ids as long as an event may be would be too large for a record."""


class _Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A member of a list in order of opening, with the keys of its neighbours.

    `newer` means nothing if `SagaState.newest` names this member: so the removal of the member behind it needn't
    change this one.
    """

    older: tuple[str, ...] | None = None
    newer: tuple[str, ...] | None = None


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A checkpoint that was saved within a saga or a step; `time` in seconds since 1970."""

    time: float
    attributes: dict[str, str]


class OpenStep(_Member, frozen=True):
    """A step that has started and not ended; `start_time` in seconds since 1970."""

    step_id: str
    """Its action if it has no id."""
    span_id: str
    start_time: float
    action: str = ""
    agent_did: str = ""
    causal_trace_id: str = ""
    parent_span_id: str = ""
    """The span of the fan-out that it is a branch of; "" if the saga itself is its parent."""
    checkpoints: tuple[Checkpoint, ...] = ()


class OpenFanOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A fan-out that has started and is not resolved; `start_time` in seconds since 1970."""

    fan_out_id: str
    """"" if its event gave none."""
    span_id: str
    start_time: float
    policy: str = ""
    branches: tuple[str, ...] = ()
    """The steps that its event named."""
    agent_did: str = ""
    causal_trace_id: str = ""


class OpenSaga(_Member, frozen=True):
    """A saga that has not ended; `start_time` in seconds since 1970."""

    # size: a row of the state; its fields are the format of the changelog.

    trace_id: str
    span_id: str
    start_time: float
    steps: tuple[OpenStep, ...] = ()
    """Its open steps, as far as it holds them; the others are in `SagaState.steps`."""
    seen_at_ms: int = msgspec.field(default=0, name="seen_at")
    """The time since 1970 at which its first event was published; 0 in an agent's process."""
    causal_trace_id: str = ""
    """The causal trace id of its first event."""
    agent_did: str = ""
    """The agent of its last event that names one."""
    fan_outs: tuple[OpenFanOut, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    done: int = 0
    """The number of steps that ended well."""
    failed: int = 0
    compensated: int = 0
    last_error: str = ""


class EndedSaga(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A saga that has ended, remembered for a while: its late events must not open it again."""

    trace_id: str
    span_id: str
    end_time: float = msgspec.field(name="ended_at")
    """The time of its last event, in seconds since 1970."""
    forget_at_ms: int = msgspec.field(name="forget_at")
    timed_out: bool = False
    """Whether it was ended because no end had come. If its own end still comes, it is not exported."""
    steps: tuple[OpenStep, ...] = ()
    """The steps that were open when it ended, or started late: their ends may still come."""
    fan_outs: tuple[OpenFanOut, ...] = ()


_M = TypeVar("_M", bound=_Member)


@dataclass(slots=True)
class SagaState:
    """The tables. The two kinds of key in `newest` differ in length, so they are never equal."""

    sagas: Table[_Key, OpenSaga] = field(default_factory=lambda: Table(OpenSaga))
    """By `SagaKey`. The open sagas of one saga id are a list."""

    steps: Table[_Key, OpenStep] = field(default_factory=lambda: Table(OpenStep))
    """By session, saga id and step id, the steps that sagas don't hold themselves. Those of one saga are a list."""

    newest: Table[_Key, tuple[str, ...]] = field(default_factory=lambda: Table(tuple[str, ...]))
    """The last member of each list: of sagas by `(saga_id,)`, of steps by the saga's key."""

    ended: Table[_Key, EndedSaga] = field(default_factory=lambda: Table(EndedSaga))
    """By `SagaKey`, the sagas that have ended recently; none in an agent's process."""

    totals: Table[tuple[str, str], Total] = field(default_factory=lambda: Table(Total))
    """By kind of span and result, the spans that were exported and the late events; none in an agent's process."""

    def latest_saga(self, saga_id: str) -> SagaKey | None:
        """The key of the open saga of this id that was opened last, in any session."""
        key = self.newest[(saga_id,)]
        return None if key is None else (key[0], key[1])

    def open_saga(self, key: SagaKey, saga: OpenSaga) -> OpenSaga:
        """Add a saga that is not open yet. Returns the row that is kept."""
        return self._append(self.sagas, (key[1],), key, saga)

    def close_saga(self, key: SagaKey) -> tuple[OpenSaga, list[OpenStep]] | None:
        """Remove a saga and its open steps. Returns both, or None if the saga is not open."""
        saga = self.sagas[key]
        if saga is None:
            return None
        steps = list(saga.steps)
        member = self.newest[key]
        if member is not None:
            self.newest.remove(key)
        while member is not None and (step := self.steps[member]) is not None:
            self.steps.remove(member)
            steps.append(step)
            member = step.older
        self._remove(self.sagas, (key[1],), key, saga)
        return saga, steps

    def open_steps(self, key: SagaKey, saga: OpenSaga) -> Iterator[OpenStep]:
        """The steps of `saga`, the open one of this key; first those that it holds itself."""
        yield from saga.steps
        member = self.newest[key]
        while member is not None and (step := self.steps[member]) is not None:
            yield step
            member = step.older

    def find_step(self, key: SagaKey, saga: OpenSaga, step_id: str) -> OpenStep | None:
        """An open step of `saga`, the open one of this key."""
        held = next((step for step in saga.steps if step.step_id == step_id), None)
        return held or self.steps[(*key, step_id)]

    def change_step(self, key: SagaKey, saga: OpenSaga, step: OpenStep) -> None:
        """Replace the step of this id that `find_step` has returned."""
        if any(each.step_id == step.step_id for each in saga.steps):
            steps = tuple([step if each.step_id == step.step_id else each for each in saga.steps])
            self.sagas[key] = msgspec.structs.replace(saga, steps=steps)
        else:
            self.steps[(*key, step.step_id)] = step

    def start_step(self, key: SagaKey, saga: OpenSaga, step: OpenStep) -> None:
        """Add a step to `saga`, the open one of this key; it replaces an open step of the same id."""
        member = (*key, step.step_id)
        started = self.steps[member]
        held = [each for each in saga.steps if each.step_id != step.step_id]
        if started is not None:
            self.steps[member] = msgspec.structs.replace(step, older=started.older, newer=started.newer)
        elif len(held) == _HELD_STEPS or len(step.step_id) > _HELD_STEP_ID:
            self._append(self.steps, key, member, step)
        else:
            self.sagas[key] = msgspec.structs.replace(saga, steps=(*held, step))

    def end_step(self, key: SagaKey, saga: OpenSaga, step_id: str) -> OpenStep | None:
        """Remove a step of `saga`, the open one of this key. Returns it, or None if it is not open."""
        for held in saga.steps:
            if held.step_id == step_id:
                others = tuple([each for each in saga.steps if each is not held])
                self.sagas[key] = msgspec.structs.replace(saga, steps=others)
                return held
        member = (*key, step_id)
        step = self.steps[member]
        if step is not None:
            self._remove(self.steps, key, member, step)
        return step

    def _append(self, table: Table[_Key, _M], owner: _Key, key: _Key, member: _M) -> _M:
        older = self.newest[owner]
        if older is None:
            self.newest.add(owner, key)
        else:
            self.newest[owner] = key
            _link(table, older, newer=key)
            member = msgspec.structs.replace(member, older=older)
        table.add(key, member)
        return member

    def _remove(self, table: Table[_Key, _M], owner: _Key, key: _Key, member: _M) -> None:
        table.remove(key)
        if self.newest[owner] != key:
            _link(table, member.newer, older=member.older)
            _link(table, member.older, newer=member.newer)
        elif member.older is not None:
            self.newest[owner] = member.older
        else:
            self.newest.remove(owner)


def _link(table: Table[_Key, _M], key: _Key | None, **neighbour: _Key | None) -> None:
    """Set a neighbour of a member, if there is that member."""
    member = None if key is None else table[key]
    if key is not None and member is not None:
        table[key] = msgspec.structs.replace(member, **neighbour)


def new_saga(event: ParsedEvent) -> OpenSaga:
    """The saga that this event opens as the first of its events."""
    trace_id = saga_trace_id(event.causal_trace_id, event.session_id, event.saga_id)
    return OpenSaga(
        trace_id,
        saga_span_id(trace_id, event.session_id, event.saga_id),
        event.time,
        seen_at_ms=event.seen_at_ms,
        causal_trace_id=shortened(event.causal_trace_id),
        agent_did=shortened(event.agent_did),
    )


def new_step(event: ParsedEvent, parent_span_id: str) -> OpenStep:
    """The step that this event starts, or ends without a start; `parent_span_id` is that of its fan-out, or ""."""
    return OpenStep(
        event.step,
        step_span_id(event.event_id),
        event.time,
        shortened(event.action),
        shortened(event.agent_did),
        shortened(event.causal_trace_id),
        parent_span_id,
    )


def new_fan_out(event: ParsedEvent, trace_id: str, key: SagaKey) -> OpenFanOut:
    """The fan-out that this event starts, or resolves without a start."""
    fan_out_id = event.fan_out_id
    return OpenFanOut(
        fan_out_id=fan_out_id,
        span_id=fan_out_span_id(trace_id, *key, fan_out_id) if fan_out_id else step_span_id(event.event_id),
        start_time=event.time,
        policy=event.policy,
        branches=event.branches,
        agent_did=shortened(event.agent_did),
        causal_trace_id=shortened(event.causal_trace_id),
    )


def parent_span_of(event: ParsedEvent, open_fan_outs: Sequence[OpenFanOut]) -> str:
    """The span id of the open fan-out that the event's step is a branch of; "" if it is a branch of none."""
    if not open_fan_outs:
        return ""
    fan_out_id, step = event.fan_out_id, event.step
    for fan_out in open_fan_outs:
        if fan_out.fan_out_id == fan_out_id if fan_out_id else step in fan_out.branches:
            return fan_out.span_id
    return ""
