"""The timer of one policy evaluation, around a block that states its decision or a function that returns it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast

__all__ = ["Evaluation", "EvaluationSubject", "ExceptionTypes"]

P = ParamSpec("P")
R = TypeVar("R")

ExceptionTypes: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""One exception class, or several."""


@dataclass(frozen=True, slots=True)
class EvaluationSubject:
    """The agent and tool of an evaluation, and its session and trace.

    Where one is a function, it is called with the arguments of the function that is decorated.
    """

    agent_id: str | Callable[..., str]
    tool_name: str | Callable[..., str]
    session_id: str | Callable[..., str | None] | None = None
    causal_trace_id: str | Callable[..., str | None] | None = None

    def called_with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EvaluationSubject:
        """The same with the results of its functions.

        Raises:
            Exception: One of the functions raised it.
        """
        parts: tuple[Any, ...] = (self.agent_id, self.tool_name, self.session_id, self.causal_trace_id)
        return EvaluationSubject(*[part(*args, **kwargs) if callable(part) else part for part in parts])


class _Recorder(Protocol):
    """Takes the result of an evaluation.

    `subject` is an exception if a function of the subject raised it. `allowed` is None if there was no decision. It
    raises only if `may_raise` is true.
    """

    def __call__(
        self,
        subject: EvaluationSubject | Exception,
        allowed: bool | None,
        evaluation_ms: float,
        rate_limited: bool,
        *,
        may_raise: bool,
    ) -> None: ...


class Evaluation:
    """Measures a block from its start to its decision, and records it once, at the end. Made by `evaluate`.

    The last decision counts. Code of the block that runs after it (the tool itself) is not in the latency, and an
    exception there changes no decision. An exception before any decision counts as undecided and is passed on,
    unless `denied_by` or `rate_limited_by` name it: then it is the decision.

    As a decorator of a function, sync or async: True allows, False denies, anything else is undecided. Result and
    exceptions are passed on unchanged.
    """

    def __init__(
        self,
        subject: EvaluationSubject | Exception,
        record: _Recorder,
        clock: Callable[[], float],
        *,
        denied_by: ExceptionTypes = (),
        rate_limited_by: ExceptionTypes = (),
    ) -> None:
        self._subject = subject
        self._record = record
        self._clock = clock
        self._denied_by = denied_by
        self._rate_limited_by = rate_limited_by
        self._start()

    def allow(self) -> None:
        """Decide that the call may be made."""
        self._decide(True, False)

    def deny(self) -> None:
        """Decide that the call must not be made."""
        self._decide(False, False)

    def rate_limited(self) -> None:
        """Decide that the call must not be made now, since there were too many."""
        self._decide(False, True)

    def __enter__(self) -> Evaluation:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._allowed is None and error is not None:
            if isinstance(error, self._rate_limited_by):
                self.rate_limited()
            elif isinstance(error, self._denied_by):
                self.deny()
        # An exception of the block must not be hidden by one about a metric.
        self._record(
            self._subject,
            self._allowed,
            (self._decided_at - self._began_at) * 1000.0,
            self._is_limited,
            may_raise=error is None,
        )

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Evaluate each call of `function`."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with self._for_call(args, kwargs) as evaluation:
                    return evaluation._decide_by(await function(*args, **kwargs))

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._for_call(args, kwargs) as evaluation:
                return evaluation._decide_by(function(*args, **kwargs))

        return called

    def _start(self) -> None:
        self._allowed: bool | None = None
        self._is_limited = False
        self._began_at = self._decided_at = self._clock()

    def _decide(self, allowed: bool, is_limited: bool) -> None:
        self._decided_at = self._clock()
        self._allowed, self._is_limited = allowed, is_limited

    def _decide_by(self, result: R) -> R:
        if result is True or result is False:
            self._decide(bool(result), False)
        return result

    def _for_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Evaluation:
        """A new evaluation for a single call, since several may run at the same time."""
        subject = self._subject
        if isinstance(subject, EvaluationSubject):
            try:
                subject = subject.called_with(args, kwargs)
            except Exception as error:  # noqa: BLE001 - the decorated function must run all the same
                subject = error
        return Evaluation(
            subject, self._record, self._clock, denied_by=self._denied_by, rate_limited_by=self._rate_limited_by
        )
