"""The open sagas and steps of one partition or one bus: tables of immutable values.

Every operation costs the same however many sagas and steps are open, except that closing a saga visits its own
open steps. So an agent that never ends anything makes the tables larger, not slower.

Every key that an operation sets is a record in the service's changelog. So a saga holds its open steps itself, as
long as they are few: a step's start is one record then, and so is its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import msgspec

from hypervisor_consumers.runtime.protocols import Table
from hypervisor_consumers.saga_spans.fold.span_stats import Total

__all__ = ["Checkpoint", "EndedSaga", "OpenFanOut", "OpenSaga", "OpenStep", "SagaKey", "SagaState"]

SagaKey: TypeAlias = tuple[str, str]
"""Session ("" without one) and saga id."""

_Key: TypeAlias = tuple[str, ...]

_HELD_STEPS = 8
_HELD_STEP_ID = 256
"""Characters. A saga that held eight ids as long as an event may be would be too large for a record."""


class _Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """In a list in order of opening: the keys of its neighbours.

    `newer` says nothing where `SagaState.newest` names this member: taking out the one behind it needn't touch it.
    """

    older: tuple[str, ...] | None = None
    newer: tuple[str, ...] | None = None


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Something that was saved within a saga or a step; `time` in seconds since the epoch."""

    time: float
    attributes: dict[str, str]


class OpenStep(_Member, frozen=True):
    """A step that has started and not ended; `start_time` in seconds since the epoch."""

    step_id: str
    """Its action where it has no id."""
    span_id: str
    start_time: float
    action: str = ""
    agent_did: str = ""
    causal_trace_id: str = ""
    parent_span_id: str = ""
    """Of the fan-out that it is a branch of; "" where the saga itself is its parent."""
    checkpoints: tuple[Checkpoint, ...] = ()


class OpenFanOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A fan-out that has started and is not resolved; `start_time` in seconds since the epoch."""

    fan_out_id: str
    """"" where its event gave none."""
    span_id: str
    start_time: float
    policy: str = ""
    branches: tuple[str, ...] = ()
    """The steps that it named."""
    agent_did: str = ""
    causal_trace_id: str = ""


class OpenSaga(_Member, frozen=True):
    """A saga that has not ended; `start_time` in seconds since the epoch."""

    trace_id: str
    span_id: str
    start_time: float
    steps: tuple[OpenStep, ...] = ()
    """Its open steps; those that it doesn't hold itself are in `SagaState.steps`."""
    seen_at: int = 0
    """When its first event was published, in milliseconds since 1970; 0 in an agent's process."""
    causal_trace_id: str = ""
    """That of its first event."""
    agent_did: str = ""
    """Who was heard of last."""
    fan_outs: tuple[OpenFanOut, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    done: int = 0
    """Steps that ended well."""
    failed: int = 0
    compensated: int = 0
    last_error: str = ""


class EndedSaga(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A saga that has ended, remembered for a while: what still comes of it must not open it again."""

    trace_id: str
    span_id: str
    ended_at: float
    """In seconds since the epoch, its last event's time."""
    forget_at: int
    """In milliseconds since 1970."""
    timed_out: bool = False
    """It was ended for want of an end; its own is not exported any more."""
    steps: tuple[OpenStep, ...] = ()
    """What was open when it ended, and what started late: their ends may still come."""
    fan_outs: tuple[OpenFanOut, ...] = ()


_M = TypeVar("_M", bound=_Member)


@dataclass(slots=True)
class SagaState:
    """The tables. Both kinds of key in `newest` differ in length, so they never meet."""

    sagas: Table[_Key, OpenSaga] = field(default_factory=lambda: Table(OpenSaga))
    """By `SagaKey`. The open sagas of one saga id are a list."""

    steps: Table[_Key, OpenStep] = field(default_factory=lambda: Table(OpenStep))
    """By session, saga id and step id: what the sagas don't hold themselves. Those of one saga are a list."""

    newest: Table[_Key, tuple[str, ...]] = field(default_factory=lambda: Table(tuple[str, ...]))
    """The last member of each list: of sagas by `(saga_id,)`, of steps by the saga's key."""

    ended: Table[_Key, EndedSaga] = field(default_factory=lambda: Table(EndedSaga))
    """By `SagaKey`, the sagas that ended lately; none in an agent's process."""

    totals: Table[tuple[str, str], Total] = field(default_factory=lambda: Table(Total))
    """By kind of span and result: what was exported, and what was not; none in an agent's process."""

    def latest_saga(self, saga_id: str) -> SagaKey | None:
        """The key of the open saga of this id that was opened last, in whichever session."""
        key = self.newest[(saga_id,)]
        return None if key is None else (key[0], key[1])

    def open_saga(self, key: SagaKey, saga: OpenSaga) -> OpenSaga:
        """Add a saga that is not open yet. Returns it as it is kept."""
        return self._append(self.sagas, (key[1],), key, saga)

    def close_saga(self, key: SagaKey) -> tuple[OpenSaga, list[OpenStep]] | None:
        """Take out a saga and its open steps, and give both. None: it is not open."""
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
        """The steps of `saga`, the open one of this key, those held apart last."""
        yield from saga.steps
        member = self.newest[key]
        while member is not None and (step := self.steps[member]) is not None:
            yield step
            member = step.older

    def find_step(self, key: SagaKey, saga: OpenSaga, step_id: str) -> OpenStep | None:
        """A step of `saga`, the open one of this key, as it is kept."""
        held = next((each for each in saga.steps if each.step_id == step_id), None)
        return held or self.steps[(*key, step_id)]

    def change_step(self, key: SagaKey, saga: OpenSaga, step: OpenStep) -> None:
        """Keep `step` in place of the one of its id that `find_step` has given."""
        if any(each.step_id == step.step_id for each in saga.steps):
            steps = tuple([step if each.step_id == step.step_id else each for each in saga.steps])
            self.sagas[key] = msgspec.structs.replace(saga, steps=steps)
        else:
            self.steps[(*key, step.step_id)] = step

    def start_step(self, key: SagaKey, saga: OpenSaga, step: OpenStep) -> None:
        """Add a step to `saga`, the open one of this key; it takes the place of an open step of the same id."""
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
        """Take out a step of `saga`, the open one of this key. None: it is not open."""
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
    """Tell a member, if there is one, of a new neighbour."""
    member = None if key is None else table[key]
    if key is not None and member is not None:
        table[key] = msgspec.structs.replace(member, **neighbour)
