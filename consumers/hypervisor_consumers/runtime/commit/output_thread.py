"""Handing outputs over on a thread of its own: a receiver may hang for longer than the consumer may."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.partitions.pending import Outputs
from hypervisor_consumers.runtime.protocols import Output, Refused
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["MAX_BATCH_OUTPUTS", "OutputThread"]

log = logging.getLogger(__name__)

O = TypeVar("O")  # noqa: E741 - O for output, as in the protocols

MAX_BATCH_OUTPUTS = 2048
"""Outputs at most that are handed over together: what was taken doesn't come again when the next ones fail."""

_CLOSE_SECONDS = 1.0


@dataclass(slots=True)
class _Attempt(Generic[O]):
    outputs: Sequence[O]
    is_wanted: bool = True
    is_done: threading.Event = field(default_factory=threading.Event)
    refused: Sequence[Refused] = ()
    error: BaseException | None = None


class OutputThread(Generic[O]):
    """Delivers outputs, one batch at a time. The methods are for one thread, that of the loop.

    Args:
        output: Where outputs go.
        clock: Seconds, by whichever clock.
    """

    def __init__(self, output: Output[O], clock: Callable[[], float]) -> None:
        self._output = output
        self._clock = clock
        self._attempts: SimpleQueue[_Attempt[O] | None] = SimpleQueue()
        self._current: _Attempt[O] | None = None
        self._shares: list[tuple[Outputs[O], int]] = []
        """The outputs that the current attempt holds, and how many of each."""
        self._thread: threading.Thread | None = None

    def hand_over(self, waiting: Sequence[Outputs[O]], seconds: float) -> None:
        """Hand over all that wait, in parts; what is refused is noted with them.

        Raises:
            OSError, OutputUnavailable: Not all are delivered. What was, stays so; another call goes on.
        """
        deadline = self._clock() + seconds
        while self._current is not None or self._begin(waiting):
            refused = self._wait(max(0.0, deadline - self._clock()))
            if refused is None:
                raise OutputUnavailable("the output takes long")
            first = 0
            for outputs, count in self._shares:
                reasons = {one.at - first: one.reason for one in refused if first <= one.at < first + count}
                outputs.passed(count, reasons)
                first += count

    def _begin(self, waiting: Sequence[Outputs[O]]) -> bool:
        self._shares, capacity = [], MAX_BATCH_OUTPUTS
        for outputs in waiting:
            if count := min(outputs.waiting, capacity):
                self._shares.append((outputs, count))
                capacity -= count
        if not self._shares:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
            self._thread.start()
        self._current = _Attempt([output for outputs, count in self._shares for output in outputs.next(count)])
        self._attempts.put(self._current)
        return True

    def _wait(self, seconds: float) -> Sequence[Refused] | None:
        """The refused ones of the current attempt, all else being delivered; None: that isn't known yet."""
        current = self._current
        if current is None or not current.is_done.wait(seconds):
            return None
        self._current = None
        if current.error is not None:
            raise current.error
        return current.refused

    def abandon(self) -> None:
        """Forget the current attempt; it may be delivered yet."""
        if self._current is not None:
            self._current.is_wanted = False
            self._current = None

    def close(self) -> None:
        """Let the output go, unless it hangs; then the end of the process does."""
        self.abandon()
        if self._thread is not None:
            self._attempts.put(None)
            self._thread.join(_CLOSE_SECONDS)
            if self._thread.is_alive():
                log.warning("The output still holds a batch; it is left alone.")
                return
        self._output.close()

    def _run(self) -> None:
        while (one := self._attempts.get()) is not None:
            if not one.is_wanted:
                continue
            try:
                one.refused = self._output.deliver(one.outputs)
            except BaseException as error:  # noqa: BLE001 - `hand_over` raises it on the thread that knows what to do
                one.error = error
            one.is_done.set()
