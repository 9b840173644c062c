"""What a service is made of: a pure fold over per-partition state, and an output for what the fold produces.

The runtime owns everything else: which partitions this copy has, offsets, threads, health. A fold and an output
know no Kafka; the same fold also runs in-process, fed by a bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from hypervisor_schemas.events import HypervisorEvent

__all__ = ["Fold", "Output"]

S = TypeVar("S")
O_co = TypeVar("O_co", covariant=True)
O_contra = TypeVar("O_contra", contravariant=True)


class Fold(Protocol[S, O_co]):
    """Events to state and outputs, without I/O, clocks or randomness: the same events give the same result.

    A state is a set of plain dicts from keys (strings or tuples of strings) to immutable values; `apply`
    replaces values, it never changes one in place. One state belongs to one partition (or to one bus) and sees
    its events in order.
    """

    def new_state(self) -> S:
        """The state before the first event."""
        ...

    def apply(self, state: S, event: HypervisorEvent) -> Sequence[O_co] | None:
        """Change `state` by one event. Returns what comes out of it (often nothing), or None: ignored.

        `event` may be the package's own class: only attributes are read, the type by its `.value`.

        Raises:
            InvalidPayload: The payload doesn't fit the type; `state` is as it was.
        """
        ...


class Output(Protocol[O_contra]):
    """Where a fold's outputs go. Called by the runtime's one thread."""

    def deliver(self, outputs: Sequence[O_contra]) -> None:
        """Hand over; when this returns, the outputs are as safe as this output makes them. May block.

        The same outputs may come again after a crash: an output is known by its own ids, not by its arrival.

        Raises:
            OSError, OutputUnavailable: Not delivered; the runtime keeps the batch and tries again.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. Called once, after the last `deliver`."""
        ...
