"""Handing outputs over on a thread of its own: a receiver may hang for longer than the consumer may."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from hypervisor_consumers.runtime.contract import Output, Refused

__all__ = ["Delivery"]

log = logging.getLogger(__name__)

O = TypeVar("O")  # noqa: E741 - O for output, as in the contract

_CLOSED_WITHIN = 1.0


@dataclass(slots=True)
class _Try(Generic[O]):
    outputs: Sequence[O]
    is_wanted: bool = True
    is_done: threading.Event = field(default_factory=threading.Event)
    refused: Sequence[Refused] = ()
    error: BaseException | None = None


class Delivery(Generic[O]):
    """One batch at a time. The methods are for one thread, that of the loop."""

    def __init__(self, output: Output[O]) -> None:
        self._output = output
        self._tries: SimpleQueue[_Try[O] | None] = SimpleQueue()
        self._current: _Try[O] | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether a batch was begun, and `wait` has not told yet what became of it."""
        return self._current is not None

    def begin(self, outputs: Sequence[O]) -> None:
        """Try to hand over a batch; none may be under way."""
        if self._current is not None:
            raise AssertionError("a delivery is under way")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)
            self._thread.start()
        self._current = _Try(outputs)
        self._tries.put(self._current)

    def wait(self, seconds: float) -> Sequence[Refused] | None:
        """What was refused of the batch that is under way, all else being delivered; None: that isn't known yet.

        Raises:
            OSError, OutputUnavailable: It was not delivered; none is under way any more.
        """
        current = self._current
        if current is None:
            raise AssertionError("no delivery is under way")
        if not current.is_done.wait(seconds):
            return None
        self._current = None
        if current.error is not None:
            raise current.error
        return current.refused

    def abandon(self) -> None:
        """What becomes of the batch that is under way is of no interest any more; it may be delivered yet."""
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
            except BaseException as error:  # noqa: BLE001 - `wait` raises it on the thread that knows what to do
                one.error = error
            one.is_done.set()
