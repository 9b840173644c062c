"""GovernanceMetrics: the decisions of a governance kernel as events, in OpenTelemetry and in Prometheus."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast
from weakref import WeakSet

from hypervisor_producers.governance.agents import GovernedAgents
from hypervisor_producers.governance.collector import GovernanceCollector
from hypervisor_producers.governance.counts import DecisionSeries, GovernanceCounts
from hypervisor_producers.governance.errors import TroubleCounts
from hypervisor_producers.governance.evaluation import Evaluation, EvaluationSubject, ExceptionTypes
from hypervisor_producers.governance.events import Emits, GovernanceEvents, Publishes
from hypervisor_producers.governance.inputs import (
    read_bool,
    read_details,
    read_latency,
    read_optional_text,
    read_score,
    read_text,
)
from hypervisor_producers.governance.instruments import GovernanceInstruments
from hypervisor_producers.governance.labels import (
    ALLOW,
    DENY,
    OVERFLOW,
    GovernanceLabels,
    LabelValues,
    SeriesLimit,
)
from hypervisor_schemas.events import GovernanceEventType
from hypervisor_schemas.governance import METER_NAME

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, MeterProvider, Observation
    from prometheus_client.registry import Collector, CollectorRegistry
from hypervisor_schemas.public import public

__all__ = ["METER_NAME", "GovernanceMetrics", "TrustScores"]


TrustScores: TypeAlias = "Mapping[str, float] | Iterable[tuple[float, Mapping[str, Any]]] | Iterable[Observation]"
"""A mapping of agent to score, or scores with attributes, of which `agent_id` is read."""


@public
class GovernanceMetrics:
    """Records the decisions, audit events, trust scores and agents of a governance kernel in up to three outputs.

    - `publisher`: an `EventPublisher`, or a bus to which one is attached. It gets events of `GovernanceEventType`,
      for the fleet's services.
    - `meter_provider`, or a `meter`: it gets the tutorial's eight instruments. Exporters to Prometheus put an
      instrument's unit behind its name (`…_latency_ms_milliseconds`); with `units=False` there is no unit, and the
      name stays.
    - `prometheus`: a `CollectorRegistry`, in which the eight metrics have their exact names.

    No method waits or raises: what can't be recorded is counted (`troubles`) and logged at a limited rate. With
    `strict`, which is for tests, bad values raise ValueError. Thread-safe. In a forked child the counts begin at 0
    and no agent is registered; callbacks stay. The sums of OpenTelemetry's SDK are its own: make its provider after
    the fork.

    `clock` gives seconds for `evaluate`; it must never go backwards.

    Raises:
        ValueError: `publisher` is neither a publisher nor a bus, a meter and a provider are both given, or the
            registry has these metrics already.
        ImportError: The package of an output is not installed.
    """

    METER_NAME: ClassVar[str] = METER_NAME

    def __init__(
        self,
        publisher: Publishes | Emits | None = None,
        *,
        meter_provider: MeterProvider | None = None,
        meter: Meter | None = None,
        prometheus: CollectorRegistry | None = None,
        labels: GovernanceLabels | None = None,
        strict: bool = False,
        units: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if meter is not None and meter_provider is not None:
            raise ValueError("Give a meter or a meter_provider, not both: every decision would be counted twice.")
        self._labels = labels or GovernanceLabels()
        self._label_names = self._labels.names
        self._strict = strict
        self._clock = clock
        self._troubles = TroubleCounts(clock)
        self._events = GovernanceEvents(publisher, self._troubles)
        self._agents = GovernedAgents(self._labels.max_series, self._troubles)
        self._counts: GovernanceCounts | None = None
        self._instruments: GovernanceInstruments | None = None
        self._has_prometheus = prometheus is not None
        self._start_counting()
        if prometheus is not None:
            collector = GovernanceCollector(self._read_counts, self._labels, self._agents, self._troubles)
            # prometheus-client asks for no more than the two methods of its abstract class.
            prometheus.register(cast("Collector", collector))
        if meter_provider is not None:
            meter = meter_provider.get_meter(METER_NAME)
        if meter is not None:
            self._instruments = GovernanceInstruments(
                meter, self._labels, self._agents, self._troubles, units=units
            )
        _all_metrics.add(self)

    def record_decision(  # noqa: PLR0917 - the tutorial's order
        self,
        allowed: bool,
        agent_id: str,
        tool_name: str,
        evaluation_ms: float,
        rate_limited: bool = False,
        session_id: str | None = None,
        causal_trace_id: str | None = None,
    ) -> None:
        """Record one policy evaluation that took `evaluation_ms` milliseconds (0 or more).

        A call that is not allowed counts as blocked. A rate-limited one counts as a rate-limit hit too.
        """
        try:
            allowed = read_bool("allowed", allowed)
            agent_id, tool_name = read_text("agent_id", agent_id), read_text("tool_name", tool_name)
            evaluation_ms = read_latency(evaluation_ms)
            rate_limited = read_bool("rate_limited", rate_limited)
            session_id = read_optional_text("session_id", session_id)
            causal_trace_id = read_optional_text("causal_trace_id", causal_trace_id)
        except Exception as error:  # noqa: BLE001 - a value's own class may raise anything
            self._reject("A decision", error)
            return
        decision = ALLOW if allowed else DENY
        if self._counts is not None or self._instruments is not None:
            labels = self._label_values(agent_id, tool_name)
            if self._counts is not None:
                with self._lock:
                    self._counts.add_decision(decision, labels, evaluation_ms, rate_limited)
            if self._instruments is not None:
                self._write(self._instruments.add_decision, decision, labels, evaluation_ms, rate_limited)
        if self._events.is_on:
            payload = {
                "allowed": allowed,
                "tool_name": tool_name,
                "evaluation_ms": evaluation_ms,
                "rate_limited": rate_limited,
            }
            self._events.emit(GovernanceEventType.POLICY_DECISION, agent_id, payload, session_id, causal_trace_id)

    def evaluate(
        self,
        agent_id: str | Callable[..., str],
        tool_name: str | Callable[..., str],
        *,
        session_id: str | Callable[..., str | None] | None = None,
        causal_trace_id: str | Callable[..., str | None] | None = None,
        denied_by: ExceptionTypes = (),
        rate_limited_by: ExceptionTypes = (),
    ) -> Evaluation:
        """Time an evaluation and record its decision: `with metrics.evaluate(…) as evaluation: …`.

        The block calls `evaluation.allow()`, `.deny()` or `.rate_limited()`. As a decorator, the function's True or
        False is the decision, and ids may be functions of its arguments. An exception is a decision only if
        `denied_by` or `rate_limited_by` name it. For the rest see `Evaluation`.
        """
        subject = EvaluationSubject(agent_id, tool_name, session_id, causal_trace_id)
        return Evaluation(
            subject, self._record_evaluation, self._clock, denied_by=denied_by, rate_limited_by=rate_limited_by
        )

    def record_audit_event(
        self,
        action: str,
        agent_id: str | None = None,
        *,
        details: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        causal_trace_id: str | None = None,
    ) -> None:
        """Record one audit event: an agent, or somebody else, did `action`. `details` are passed on unchanged."""
        try:
            action, agent_id = read_text("action", action), read_optional_text("agent_id", agent_id)
            payload = {"action": action, "details": read_details(details)}
            session_id = read_optional_text("session_id", session_id)
            causal_trace_id = read_optional_text("causal_trace_id", causal_trace_id)
        except Exception as error:  # noqa: BLE001 - as above
            self._reject("An audit event", error)
            return
        if self._counts is not None:
            with self._lock:
                self._counts.audit_events += 1
        if self._instruments is not None:
            self._write(self._instruments.add_audit_event)
        self._events.emit(GovernanceEventType.AUDIT_EVENT, agent_id, payload, session_id, causal_trace_id)

    def set_trust_score(self, agent_id: str, score: float) -> None:
        """Set an agent's trust score, 0 to 1000. It is shown until the agent is deregistered."""
        try:
            agent_id, score = read_text("agent_id", agent_id), read_score(score)
        except Exception as error:  # noqa: BLE001 - as above
            self._reject("A trust score", error)
            return
        self._agents.set_score(agent_id, score)
        self._events.emit(GovernanceEventType.TRUST_SCORE, agent_id, {"score": score})

    def register_agent(self, agent_id: str) -> None:
        """Count an agent as active from now on. Registering it again is a sign of life for the fleet."""
        try:
            agent_id = read_text("agent_id", agent_id)
            self._agents.register(agent_id)
        except Exception as error:  # noqa: BLE001 - as above
            self._reject("An agent", error)
            return
        self._events.emit(GovernanceEventType.AGENT_REGISTERED, agent_id, {})

    def deregister_agent(self, agent_id: str) -> None:
        """Stop counting an agent as active, and stop showing its trust score."""
        try:
            agent_id = read_text("agent_id", agent_id)
        except Exception as error:  # noqa: BLE001 - as above
            self._reject("The end of an agent", error)
            return
        self._agents.deregister(agent_id)
        self._events.emit(GovernanceEventType.AGENT_DEREGISTERED, agent_id, {})

    def register_trust_score_gauge(self, callback: Callable[[], TrustScores]) -> None:
        """Call `callback` for scores at each scrape, in place of any callback registered before.

        It returns a mapping of agent to score, or an iterable of (score, attributes) or of OpenTelemetry's
        Observations, with the attribute `agent_id`. Scores that were set are shown too; for the same agent the
        callback's score wins. Scores of a callback are shown, not published.
        """
        self._agents.set_scores_callback(callback)

    def register_active_agents_gauge(self, callback: Callable[[], float]) -> None:
        """Call `callback` at each scrape for the number of active agents, in place of counting registered ones."""
        self._agents.set_active_callback(callback)

    @property
    def troubles(self) -> Mapping[str, int]:
        """The number of things that could not be recorded, by reason (`TROUBLES`); every reason is there."""
        return self._troubles.counts

    @property
    def overflowed(self) -> int:
        """The number of decisions counted in the series `__overflow__`, and of trust scores that are not shown."""
        return self._troubles.overflowed

    def _start_counting(self) -> None:
        """Set all counts to 0 and take a fresh lock."""
        # Reentrant: a signal handler may record while its own thread is inside.
        self._lock = threading.RLock()
        self._series_limit = SeriesLimit(self._labels.max_series)
        if self._has_prometheus:
            self._counts = GovernanceCounts(has_labels=bool(self._label_names))

    def _start_over(self) -> None:
        """Forget what the parent process counted: in a forked child."""
        self._troubles.start_over()
        self._agents.start_over()
        self._start_counting()

    def _read_counts(self) -> tuple[dict[tuple[str, LabelValues], DecisionSeries], int]:
        with self._lock:
            return ({}, 0) if self._counts is None else (self._counts.decisions(), self._counts.audit_events)

    def _label_values(self, agent_id: str, tool_name: str) -> LabelValues:
        if not self._label_names:
            return ()
        try:
            values = self._labels.values(agent_id, tool_name)
        except Exception as error:  # noqa: BLE001 - code of the agent
            self._troubles.report("label", "A function that puts labels together failed.", error=error)
            return (OVERFLOW,) * len(self._label_names)
        with self._lock:
            admitted = self._series_limit.admit(values)
        if admitted != values:
            self._troubles.overflow("what comes now is counted in __overflow__")
        return admitted

    def _record_evaluation(
        self,
        subject: EvaluationSubject | Exception,
        allowed: bool | None,
        evaluation_ms: float,
        rate_limited: bool,
        *,
        may_raise: bool,
    ) -> None:
        try:
            if isinstance(subject, Exception):
                unknown = ValueError(f"a function of its ids raised {type(subject).__name__}.")
                self._reject("An evaluation", unknown, subject)
            elif allowed is None:
                self._undecided()
            else:
                ids = cast("tuple[str, str]", (subject.agent_id, subject.tool_name))
                context = cast("tuple[str | None, str | None]", (subject.session_id, subject.causal_trace_id))
                self.record_decision(allowed, *ids, evaluation_ms, rate_limited, *context)
        except ValueError:
            if may_raise:
                raise

    def _undecided(self) -> None:
        sentence = "An evaluation ended without allow(), deny() or rate_limited(); it is not counted."
        self._troubles.report("undecided", sentence)
        if self._strict:
            raise ValueError(sentence)

    def _reject(self, what: str, error: Exception, cause: Exception | None = None) -> None:
        sentence = str(error) if isinstance(error, ValueError) else f"it raised {type(error).__name__}."
        self._troubles.report("invalid", f"{what} is not recorded: %s", sentence)
        if self._strict:
            raise ValueError(f"{what} is not recorded: {sentence}") from cause or error

    def _write(self, write: Callable[..., None], *values: Any) -> None:
        try:
            write(*values)
        except Exception as error:  # noqa: BLE001 - code of a meter
            self._troubles.report("output", "The meter failed.", error=error)


_all_metrics: WeakSet[GovernanceMetrics] = WeakSet()


def _start_all_over() -> None:
    # Another thread of the parent may have held a lock at the fork; in the child nobody would ever release it.
    for metrics in _all_metrics:
        metrics._start_over()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_over)
