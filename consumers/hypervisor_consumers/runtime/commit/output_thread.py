"""Handing outputs over on a thread of its own: a receiver may hang for longer than the consumer may."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.protocols import Output, Refused
from hypervisor_schemas.errors import OutputUnavailable

__all__ = ["MAX_BATCH_OUTPUTS", "OutputThread", "Outputs"]

log = logging.getLogger(__name__)

O = TypeVar("O")  # noqa: E741 - O for output, as in the contract

MAX_BATCH_OUTPUTS = 2048
"""Outputs at most that are handed over together: what was taken doesn't come again when the next ones fail."""

_CLOSED_WITHIN = 1.0


class Outputs(Generic[O]):
    """What has come out of one partition since its last commit, and what became of it."""

    def __init__(self) -> None:
        self._all: list[tuple[int, O]] = []
        self._done = 0
        self._refused: list[tuple[int, O, str]] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, outputs: Sequence[tuple[int, O]]) -> None:
        """More of them, each with the offset that it came out of."""
        self._all += outputs

    @property
    def waiting(self) -> int:
        """How many are neither delivered nor refused."""
        return len(self._all) - self._done

    def next(self, count: int) -> list[O]:
        """The first of those that wait."""
        return [output for _, output in self._all[self._done : self._done + count]]

    def passed(self, count: int, refused: dict[int, str]) -> None:
        """The first of those that wait do so no more; `refused`: those that nobody takes, by place, and why."""
        for at, reason in sorted(refused.items()):
            self._refused.append((*self._all[self._done + at], reason))
        self._done += count

    def refused(self) -> Iterator[tuple[int, O, str]]:
        """Those that were refused and not given here yet: offset, output, reason."""
        refused, self._refused = self._refused, []
        yield from refused

    def clear(self) -> None:
        """They are committed, or their events will be read again."""
        self._all, self._done, self._refused = [], 0, []


@dataclass(slots=True)
class _Try(Generic[O]):
    outputs: Sequence[O]
    is_wanted: bool = True
    is_done: threading.Event = field(default_factory=threading.Event)
    refused: Sequence[Refused] = ()
    error: BaseException | None = None


class OutputThread(Generic[O]):
    """The methods are for one thread, that of the loop.

    Args:
        output: Where outputs go.
        clock: Seconds, by whichever clock.
    """

    def __init__(self, output: Output[O], clock: Callable[[], float]) -> None:
        self._output = output
        self._clock = clock
        self._tries: SimpleQueue[_Try[O] | None] = SimpleQueue()
        self._current: _Try[O] | None = None
        self._parts: list[tuple[Outputs[O], int]] = []
        """Whose outputs the current try holds, and how many of each."""
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
            for outputs, count in self._parts:
                reasons = {one.at - first: one.reason for one in refused if first <= one.at < first + count}
                outputs.passed(count, reasons)
                first += count

    def _begin(self, waiting: Sequence[Outputs[O]]) -> bool:
        self._parts, room = [], MAX_BATCH_OUTPUTS
        for outputs in waiting:
            if count := min(outputs.waiting, room):
                self._parts.append((outputs, count))
                room -= count
        if not self._parts:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
            self._thread.start()
        self._current = _Try([output for outputs, count in self._parts for output in outputs.next(count)])
        self._tries.put(self._current)
        return True

    def _wait(self, seconds: float) -> Sequence[Refused] | None:
        """What was refused of the current try, all else being delivered; None: that isn't known yet."""
        current = self._current
        if current is None or not current.is_done.wait(seconds):
            return None
        self._current = None
        if current.error is not None:
            raise current.error
        return current.refused

    def abandon(self) -> None:
        """What becomes of the current try is of no interest any more; it may be delivered yet."""
        if self._current is not None:
            self._current.is_wanted = False
            self._current = None

    def close(self) -> None:
        """Let the output go, unless it hangs; then the end of the process does."""
        self.abandon()
        if self._thread is not None:
            self._tries.put(None)
            self._thread.join(_CLOSED_WITHIN)
            if self._thread.is_alive():
                log.warning("The output still holds a batch; it is left alone.")
                return
        self._output.close()

    def _run(self) -> None:
        while (one := self._tries.get()) is not None:
            if not one.is_wanted:
                continue
            try:
                one.refused = self._output.deliver(one.outputs)
            except BaseException as error:  # noqa: BLE001 - `hand_over` raises it on the thread that knows what to do
                one.error = error
            one.is_done.set()
