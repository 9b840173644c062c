"""Protocols as tables of states and events, without I/O: the phases of a partition, and those of a transaction."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

__all__ = ["IllegalTransition", "StateTable", "next_state"]

S = TypeVar("S", bound=Enum)
E = TypeVar("E", bound=Enum)

StateTable = Mapping[S, Mapping[E, S]]
"""The next state by state and event. An event that a state does not name is a fault of the caller."""


class IllegalTransition(AssertionError):
    """An event came in a state that does not know it."""

    def __init__(self, state: Enum, event: Enum) -> None:
        super().__init__(f"{event.name} can't happen in {state.name}")


def next_state(table: StateTable[S, E], state: S, event: E) -> S:
    """The state that follows.

    Raises:
        IllegalTransition: The table has no such event in this state.
    """
    try:
        return table[state][event]
    except KeyError:
        raise IllegalTransition(state, event) from None
