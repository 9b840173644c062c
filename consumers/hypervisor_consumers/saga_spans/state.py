"""The open sagas and steps of one partition or one bus: plain tables of immutable values.

Every operation costs the same however many sagas and steps are open, except that closing a saga visits its own
open steps. So an agent that never ends anything makes the tables larger, not slower.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec

__all__ = ["OpenSaga", "OpenStep", "SagaKey", "SagaState", "StepKey"]

SagaKey: TypeAlias = tuple[str, str]
"""Session ("" without one) and saga id."""

StepKey: TypeAlias = tuple[str, str, str]
"""The saga's key and the step's id (its action where it has none)."""

_Key: TypeAlias = tuple[str, ...]


class OpenSaga(msgspec.Struct, frozen=True):
    """A saga that has not ended; `start_time` in seconds since the epoch."""

    trace_id: str
    span_id: str
    start_time: float


class OpenStep(msgspec.Struct, frozen=True):
    """A step that has started and not ended; `start_time` in seconds since the epoch."""

    span_id: str
    start_time: float


class Links(NamedTuple):
    """The neighbours of a member in the order of opening."""

    older: _Key | None
    newer: _Key | None


@dataclass(slots=True)
class SagaState:
    """The tables.

    `newest` and `links` hold two kinds of list in order of opening: the open sagas of a saga id, under
    `(saga_id,)`, and the open steps of a saga, under its key. Keys of sagas and steps differ in length, so they
    never meet.
    """

    sagas: dict[SagaKey, OpenSaga] = field(default_factory=dict)
    steps: dict[StepKey, OpenStep] = field(default_factory=dict)
    newest: dict[_Key, _Key] = field(default_factory=dict)
    links: dict[_Key, Links] = field(default_factory=dict)

    def latest_saga(self, saga_id: str) -> SagaKey | None:
        """The key of the open saga of this id that was opened last, in whichever session."""
        key = self.newest.get((saga_id,))
        return None if key is None else (key[0], key[1])

    def open_saga(self, key: SagaKey, saga: OpenSaga) -> None:
        """Add a saga that is not open yet."""
        self.sagas[key] = saga
        self._append((key[1],), key)

    def close_saga(self, key: SagaKey) -> OpenSaga | None:
        """Take out a saga and drop its open steps. None: it is not open."""
        saga = self.sagas.pop(key, None)
        if saga is None:
            return None
        step = self.newest.pop(key, None)
        while step is not None:
            del self.steps[(step[0], step[1], step[2])]
            step = self.links.pop(step).older
        self._remove((key[1],), key)
        return saga

    def start_step(self, key: StepKey, step: OpenStep) -> None:
        """Add a step to an open saga; it takes the place of an open one of the same key."""
        if key not in self.steps:
            self._append(key[:2], key)
        self.steps[key] = step

    def end_step(self, key: StepKey) -> OpenStep | None:
        """Take out a step. None: it is not open."""
        step = self.steps.pop(key, None)
        if step is not None:
            self._remove(key[:2], key)
        return step

    def _append(self, owner: _Key, member: _Key) -> None:
        older = self.newest.get(owner)
        if older is not None:
            self.links[older] = self.links[older]._replace(newer=member)
        self.links[member] = Links(older, None)
        self.newest[owner] = member

    def _remove(self, owner: _Key, member: _Key) -> None:
        older, newer = self.links.pop(member)
        if older is not None:
            self.links[older] = self.links[older]._replace(newer=newer)
        if newer is not None:
            self.links[newer] = self.links[newer]._replace(older=older)
        elif older is not None:
            self.newest[owner] = older
        else:
            del self.newest[owner]
