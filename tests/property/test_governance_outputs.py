"""Events, OpenTelemetry and Prometheus tell the same of the same calls: what a simple model says."""

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
from hypervisor_producers.governance.labels import GovernanceLabels
from hypervisor_schemas.events import HypervisorEvent, type_value
from hypervisor_schemas.governance import GOVERNANCE_INSTRUMENTS, LATENCY_BUCKETS_MS

AGENTS = st.sampled_from(["a", "b", "c", "ü", "", None])
TOOLS = st.sampled_from(["shell", "file", "file", "", 7])
LATENCIES = st.one_of(
    st.sampled_from([0.0, *LATENCY_BUCKETS_MS, 1e9]),
    st.integers(0, 20_000),
    st.sampled_from([-1.0, float("nan"), float("inf"), "fast"]),
)
SCORES = st.one_of(st.floats(0, 1000), st.sampled_from([-0.1, 1000.1, float("nan"), None]))
CALLS = st.one_of(
    st.tuples(st.just("record_decision"), st.booleans(), AGENTS, TOOLS, LATENCIES, st.booleans()),
    st.tuples(st.just("record_audit_event"), st.sampled_from(["x", ""]), AGENTS),
    st.tuples(st.just("set_trust_score"), AGENTS, SCORES),
    st.tuples(st.just("register_agent"), AGENTS),
    st.tuples(st.just("deregister_agent"), AGENTS),
)
LABELS = st.builds(GovernanceLabels, agent_id=st.booleans(), tool_name=st.booleans(), max_series=st.integers(1, 4))

Series = tuple[str, frozenset[tuple[str, str]]]


class Model:
    """Everything recomputed from the list of calls that are good."""

    def __init__(self, calls: list[tuple[Any, ...]], labels: GovernanceLabels) -> None:
        self.labels = labels
        self.events: list[tuple[Any, ...]] = []
        self.values: Counter[Series] = Counter()
        self.latencies: dict[Series, list[float]] = {}
        self.scores: dict[str, float] = {}
        self.active: set[str] = set()
        self.bad = self.overflowed = 0
        self._known: set[tuple[str, ...]] = set()
        for name, *arguments in calls:
            if self.is_good(name, *arguments):
                getattr(self, name)(*arguments)
            else:
                self.bad += 1

    @staticmethod
    def is_good(name: str, *arguments: Any) -> bool:
        if name == "record_audit_event":
            return arguments[0] == "x"
        agent = arguments[1] if name == "record_decision" else arguments[0]
        good = bool(agent)
        if name == "record_decision":
            _, _, tool, latency, _ = arguments
            good = good and tool in {"shell", "file"} and latency in _Between(0, 1e300)
        if name == "set_trust_score":
            good = good and arguments[1] in _Between(0, 1000)
        return good

    def shown_labels(self, **values: str) -> dict[str, str]:
        chosen = {name: value for name, value in values.items() if getattr(self.labels, name)}
        key = tuple(chosen.values())
        if key not in self._known and len(self._known) == self.labels.max_series:
            self.overflowed += 1
            return dict.fromkeys(chosen, "__overflow__")
        self._known.add(key)
        return chosen

    def record_decision(self, allowed: bool, agent: str, tool: str, latency: float, limited: bool) -> None:
        labels = self.shown_labels(agent_id=agent, tool_name=tool)
        series = frozenset({**labels, "decision": "allow" if allowed else "deny"}.items())
        self.values["agent_governance.policy_decisions", series] += 1
        self.values[f"agent_governance.tool_calls_{'allowed' if allowed else 'blocked'}", series] += 1
        if limited:
            self.values["agent_governance.rate_limit_hits", series] += 1
        self.latencies.setdefault(("agent_governance.evaluation_latency_ms", series), []).append(latency)
        self.events.append(("governance.policy_decision", agent, allowed, tool, latency, limited))

    def record_audit_event(self, action: str, agent: str | None) -> None:
        self.values["agent_governance.audit_events", frozenset()] += 1
        self.events.append(("governance.audit_event", agent or None, action))

    def set_trust_score(self, agent: str, score: float) -> None:
        if agent in self.scores or len(self.scores) < self.labels.max_series:
            self.scores[agent] = score
        else:
            self.overflowed += 1
        self.events.append(("governance.trust_score", agent, score))

    def register_agent(self, agent: str) -> None:
        self.active.add(agent)
        self.events.append(("governance.agent_registered", agent))

    def deregister_agent(self, agent: str) -> None:
        self.active.discard(agent)
        self.scores.pop(agent, None)
        self.events.append(("governance.agent_deregistered", agent))

    def gauges(self) -> dict[Series, float]:
        return {
            ("agent_governance.active_agents", frozenset()): len(self.active),
            **{
                ("agent_governance.trust_score", frozenset({("agent_id", agent)})): score
                for agent, score in self.scores.items()
            },
        }


class _Between:
    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self._least <= value <= self._most


def histogram_of(latencies: list[float]) -> tuple[int, list[int]]:
    """The count, and the counts of the buckets."""
    bounds = [*LATENCY_BUCKETS_MS, float("inf")]
    buckets = [
        sum(below < latency <= bound for latency in latencies)
        for below, bound in zip([-1.0, *LATENCY_BUCKETS_MS], bounds, strict=True)
    ]
    return len(latencies), buckets


@settings(deadline=None)
@given(st.lists(CALLS, max_size=40), LABELS)
def test_three_outputs_tell_what_the_model_says(calls: list[tuple[Any, ...]], labels: GovernanceLabels) -> None:
    bus, registry, reader = HypervisorEventBus(), CollectorRegistry(), InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    metrics = GovernanceMetrics(bus, meter_provider=provider, prometheus=registry, labels=labels)
    for name, *arguments in calls:
        getattr(metrics, name)(*arguments)

    model = Model(calls, labels)
    assert [told(event) for event in bus.all_events] == model.events
    expected = {**model.values, **model.gauges()}
    values, histograms = of_opentelemetry(reader)
    assert not_zero(values) == not_zero(expected)
    assert histograms == {series: histogram_of(each) for series, each in model.latencies.items()}
    values, histograms = of_prometheus(registry)
    assert not_zero(values) == not_zero(expected)
    assert {series: each for series, each in histograms.items() if each[0]} == {
        series: histogram_of(each) for series, each in model.latencies.items()
    }
    assert (metrics.troubles["invalid"], metrics.overflowed) == (model.bad, model.overflowed)


def told(event: HypervisorEvent) -> tuple[Any, ...]:
    fields = ("allowed", "tool_name", "evaluation_ms", "rate_limited", "action", "score")
    told = [event.payload[name] for name in fields if name in event.payload]
    return (type_value(event.event_type), event.agent_did, *told)


def not_zero(values: dict[Series, float]) -> dict[Series, float]:
    """Zeros are there from the start where the series are known, and nowhere else."""
    return {series: value for series, value in values.items() if value or series[0].endswith("score")}


def of_opentelemetry(reader: InMemoryMetricReader) -> tuple[dict[Series, float], dict[Series, Any]]:
    values, histograms = {}, {}
    for scope in reader.get_metrics_data().resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            if not metric.name.startswith("agent_governance."):
                continue
            for point in metric.data.data_points:
                series = metric.name, frozenset(point.attributes.items())
                if hasattr(point, "bucket_counts"):
                    histograms[series] = point.count, list(point.bucket_counts)
                else:
                    values[series] = point.value
    return values, histograms


def of_prometheus(registry: CollectorRegistry) -> tuple[dict[Series, float], dict[Series, Any]]:
    values: dict[Series, float] = {}
    histograms: dict[Series, Any] = {}
    names = {one.prometheus_name: one.name for one in GOVERNANCE_INSTRUMENTS}
    for family in registry.collect():
        for sample in family.samples:
            labels = dict(sample.labels)
            if sample.name in names:
                values[names[sample.name], frozenset(labels.items())] = sample.value
            elif sample.name.endswith("_bucket"):
                labels.pop("le")
                series = names[sample.name.removesuffix("_bucket")], frozenset(labels.items())
                so_far, buckets = histograms.get(series, (0, []))
                histograms[series] = sample.value, [*buckets, sample.value - so_far]
    return values, histograms
