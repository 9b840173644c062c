"""The open sagas and steps of one partition or one bus: tables of immutable values.

Every operation costs the same however many sagas and steps are open, except that closing a saga visits its own
open steps. So an agent that never ends anything makes the tables larger, not slower.

Every key that an operation sets is a record in the service's changelog. So a saga holds its open steps itself, as
long as they are few: a step's start is one record then, and so is its end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import msgspec

from hypervisor_consumers.runtime.contract import Table

__all__ = ["OpenSaga", "OpenStep", "SagaKey", "SagaState"]

SagaKey: TypeAlias = tuple[str, str]
"""Session ("" without one) and saga id."""

_Key: TypeAlias = tuple[str, ...]

_HELD_STEPS = 8
_HELD_STEP_ID = 256
"""Characters. A saga that held eight ids as long as an event may be would be too large for a record."""


class _Member(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """In a list in order of opening: the keys of its neighbours.

    `newer` says nothing where `SagaState.newest` names this member: taking out the one behind it needn't touch it.
    """

    older: tuple[str, ...] | None = None
    newer: tuple[str, ...] | None = None


class OpenStep(_Member, frozen=True):
    """A step that has started and not ended; `start_time` in seconds since the epoch."""

    step_id: str
    """Its action where it has no id."""
    span_id: str
    start_time: float


class OpenSaga(_Member, frozen=True):
    """A saga that has not ended; `start_time` in seconds since the epoch."""

    trace_id: str
    span_id: str
    start_time: float
    steps: tuple[OpenStep, ...] = ()
    """Its open steps; those that it doesn't hold itself are in `SagaState.steps`."""


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

    def latest_saga(self, saga_id: str) -> SagaKey | None:
        """The key of the open saga of this id that was opened last, in whichever session."""
        key = self.newest[(saga_id,)]
        return None if key is None else (key[0], key[1])

    def open_saga(self, key: SagaKey, saga: OpenSaga) -> OpenSaga:
        """Add a saga that is not open yet. Returns it as it is kept."""
        return self._append(self.sagas, (key[1],), key, saga)

    def close_saga(self, key: SagaKey) -> OpenSaga | None:
        """Take out a saga and drop its open steps. None: it is not open."""
        saga = self.sagas[key]
        if saga is None:
            return None
        member = self.newest[key]
        if member is not None:
            self.newest.remove(key)
        while member is not None and (step := self.steps[member]) is not None:
            self.steps.remove(member)
            member = step.older
        self._remove(self.sagas, (key[1],), key, saga)
        return saga

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
