"""The timer of one policy evaluation: a block that says its decision, or a function that returns it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast

__all__ = ["Evaluation", "EvaluationOf", "Raised"]

P = ParamSpec("P")
R = TypeVar("R")

Raised: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]
"""One kind of exception, or several."""


@dataclass(frozen=True, slots=True)
class EvaluationOf:
    """What is evaluated. A function is called with the arguments of the function that is decorated."""

    agent_id: str | Callable[..., str]
    tool_name: str | Callable[..., str]
    session_id: str | Callable[..., str | None] | None = None
    causal_trace_id: str | Callable[..., str | None] | None = None

    def called_with(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> EvaluationOf:
        """The same with what the functions return.

        Raises:
            Exception: What one of them raised.
        """
        given: tuple[Any, ...] = (self.agent_id, self.tool_name, self.session_id, self.causal_trace_id)
        return EvaluationOf(*[one(*args, **kwargs) if callable(one) else one for one in given])


class _Recorder(Protocol):
    """Takes what an evaluation came to. An exception in place of `of`: nobody could say what was evaluated.

    `allowed` None: no decision. It raises only where `may_raise`.
    """

    def __call__(
        self,
        of: EvaluationOf | Exception,
        allowed: bool | None,
        evaluation_ms: float,
        rate_limited: bool,
        *,
        may_raise: bool,
    ) -> None: ...


class Evaluation:
    """Measures from entering until the decision is said; recorded once, at the end. Made by `evaluate`.

    The last word counts. What runs in the block after it (the tool itself) is not in the latency, and what that
    raises changes no decision. An exception before any decision is none: it is counted as undecided and goes on,
    unless `denied_by` or `rate_limited_by` name it.

    As a decorator of a function, sync or async: True allows, False denies, anything else is undecided. The result
    and what it raises are passed on as they are.
    """

    def __init__(
        self,
        of: EvaluationOf | Exception,
        record: _Recorder,
        clock: Callable[[], float],
        *,
        denied_by: Raised = (),
        rate_limited_by: Raised = (),
    ) -> None:
        self._of = of
        self._record = record
        self._clock = clock
        self._denied_by = denied_by
        self._limited_by = rate_limited_by
        self._start()

    def allow(self) -> None:
        """The call may be made."""
        self._decide(True, False)

    def deny(self) -> None:
        """The call must not be made."""
        self._decide(False, False)

    def rate_limited(self) -> None:
        """The call must not be made now: there were too many."""
        self._decide(False, True)

    def __enter__(self) -> Evaluation:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._allowed is None and error is not None:
            if isinstance(error, self._limited_by):
                self.rate_limited()
            elif isinstance(error, self._denied_by):
                self.deny()
        # What is on its way out must not be hidden by a sentence about a metric.
        self._record(
            self._of,
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
                with self._again(args, kwargs) as evaluation:
                    return evaluation._returned(await function(*args, **kwargs))

            return cast("Callable[P, R]", awaited)

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._again(args, kwargs) as evaluation:
                return evaluation._returned(function(*args, **kwargs))

        return called

    def _start(self) -> None:
        self._allowed: bool | None = None
        self._is_limited = False
        self._began_at = self._decided_at = self._clock()

    def _decide(self, allowed: bool, is_limited: bool) -> None:
        self._decided_at = self._clock()
        self._allowed, self._is_limited = allowed, is_limited

    def _returned(self, verdict: R) -> R:
        if verdict is True or verdict is False:
            self._decide(bool(verdict), False)
        return verdict

    def _again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Evaluation:
        """One for a single call: several may run at the same time."""
        of = self._of
        if isinstance(of, EvaluationOf):
            try:
                of = of.called_with(args, kwargs)
            except Exception as error:  # noqa: BLE001 - what is decorated must run all the same
                of = error
        return Evaluation(
            of, self._record, self._clock, denied_by=self._denied_by, rate_limited_by=self._limited_by
        )
