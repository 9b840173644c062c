"""Finds the outputs that a receiver refuses, where it only says that it refuses some: halves are sent again.

Outputs that were taken already then come twice. That does no harm: an output is known by its own ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["Rejection", "SendRequest", "send_bisecting"]

T = TypeVar("T")


class Rejection(NamedTuple):
    """The answer of a receiver that will never take all of what it was sent."""

    reason: str
    """A sentence, the receiver's own where it has one."""
    rejected: int | None = None
    """The number of outputs that are refused, where it is told; then the others are taken."""
    is_doubtful: bool = False
    """Whether the request itself may be refused, whatever it holds: the address may be no receiver's."""


SendRequest: TypeAlias = Callable[[Sequence[T]], Rejection | None]
"""Sends one request. None: all is taken. Raises OutputUnavailable where nothing is known about the outputs."""


def send_bisecting(outputs: Sequence[T], send: SendRequest[T], max_per_request: int) -> list[Refused]:
    """Send all, at most `max_per_request` in a request. Returns the refused ones in order.

    Before an output is refused for a doubtful answer, the receiver has to take something: a part of the outputs, or
    else a request that holds none, which every receiver takes.

    Raises:
        OutputUnavailable: From `send`, or the receiver refuses the empty request as well.
    """
    refused: list[Refused] = []
    starts = range(0, len(outputs), max_per_request)
    # A stack with the leftmost part on top: outputs are sent, and refused, in their order.
    parts = [range(start, min(start + max_per_request, len(outputs))) for start in starts][::-1]
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
        if len(part) == 1 or answer.rejected == len(part):
            refused.extend(Refused(index, answer.reason) for index in part)
        else:
            middle = len(part) // 2
            parts += [part[middle:], part[:middle]]
    return refused


def _require_receiver(send: SendRequest[T]) -> None:
    answer = send(())
    if answer is not None:
        raise OutputUnavailable(f"A request without spans is refused, too: {answer.reason}")
