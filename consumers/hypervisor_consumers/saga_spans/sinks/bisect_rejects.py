"""Finding out which outputs a receiver refuses, when it only tells that it refuses some: send halves again.

What was taken already comes twice then. That does no harm: an output is known by its own ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["NotAll", "Send", "send_in_parts"]

T = TypeVar("T")


class NotAll(NamedTuple):
    """The answer of a receiver that will never take all of what it was sent."""

    reason: str
    """A sentence, the receiver's own where it has one."""
    refused: int | None = None
    """How many, where it says so; it has taken the others then."""
    is_doubtful: bool = False
    """Whether it may be the request that it doesn't like, whatever it holds: an address that is no receiver's."""


Send: TypeAlias = Callable[[Sequence[T]], NotAll | None]
"""One request. Returns None when all is taken; raises OutputUnavailable when nothing can be said about it."""


def send_in_parts(outputs: Sequence[T], send: Send[T], at_once: int) -> list[Refused]:
    """Send all, at most `at_once` in a request. Returns the refused ones in order.

    Before anything is refused for an answer that is doubtful, the receiver has to take something: a part of the
    outputs, or else a request that holds none, which every receiver takes.

    Raises:
        OutputUnavailable: From `send`, or the receiver refuses the empty request as well.
    """
    refused: list[Refused] = []
    # The leftmost on top: then outputs are sent, and refused, in their order.
    parts = [range(start, min(start + at_once, len(outputs))) for start in range(0, len(outputs), at_once)][::-1]
    is_receiver = False
    while parts:
        part = parts.pop()
        answer = send(outputs[part.start : part.stop])
        if answer is None or not answer.is_doubtful:
            is_receiver = True
        elif not is_receiver:
            _require_receiver(send)
            is_receiver = True
        if answer is None:
            continue
        if len(part) == 1 or answer.refused == len(part):
            refused.extend(Refused(index, answer.reason) for index in part)
        else:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
    return refused


def _require_receiver(send: Send[T]) -> None:
    answer = send(())
    if answer is not None:
        raise OutputUnavailable(f"A request without spans is refused, too: {answer.reason}")
