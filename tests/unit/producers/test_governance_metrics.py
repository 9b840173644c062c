"""GovernanceMetrics: what its three outputs show, callbacks and labels."""

import textwrap
from typing import Any

import pytest
from hypervisor import observability as package
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, Histogram, InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from hypervisor_producers.governance.governance_metrics import METER_NAME, GovernanceMetrics
from hypervisor_producers.governance.labels import GovernanceLabels
from hypervisor_schemas.events import GovernanceEventType
from hypervisor_schemas.governance import (
    GOVERNANCE_INSTRUMENTS,
    LATENCY_BUCKETS_MS,
    PolicyDecision,
    TrustScore,
)
from hypervisor_schemas.payloads import read_payload
from tests.support.governance_outputs import GovernanceOutputs, record_tutorial_decisions

OWN = {"hypervisor_governance_troubles", "hypervisor_governance_overflow"}


@pytest.fixture
def world() -> GovernanceOutputs:
    return GovernanceOutputs()


class TestPrometheus:
    def test_the_exact_text_of_the_eight(self, world):
        record_tutorial_decisions(world.metrics)
        world.metrics.register_agent("did:mesh:data-analyst")
        world.metrics.set_trust_score("did:mesh:data-analyst", 850)
        world.metrics.record_audit_event("policy.changed", "did:mesh:data-analyst")
        lines = generate_latest(world.registry).decode().splitlines()
        of_the_eight = [line for line in lines if "hypervisor_governance" not in line and "_bucket" not in line]
        assert "\n".join(of_the_eight) == textwrap.dedent("""\
            # HELP agent_governance_policy_decisions_total Governance evaluations, allowed and denied.
            # TYPE agent_governance_policy_decisions_total counter
            agent_governance_policy_decisions_total{decision="allow"} 1.0
            agent_governance_policy_decisions_total{decision="deny"} 2.0
            # HELP agent_governance_tool_calls_allowed_total Tool calls that the policy permitted.
            # TYPE agent_governance_tool_calls_allowed_total counter
            agent_governance_tool_calls_allowed_total{decision="allow"} 1.0
            # HELP agent_governance_tool_calls_blocked_total Tool calls that the policy denied.
            # TYPE agent_governance_tool_calls_blocked_total counter
            agent_governance_tool_calls_blocked_total{decision="deny"} 2.0
            # HELP agent_governance_rate_limit_hits_total Requests that the rate limiter rejected.
            # TYPE agent_governance_rate_limit_hits_total counter
            agent_governance_rate_limit_hits_total{decision="allow"} 0.0
            agent_governance_rate_limit_hits_total{decision="deny"} 1.0
            # HELP agent_governance_evaluation_latency_ms How long governance evaluations took, in ms.
            # TYPE agent_governance_evaluation_latency_ms histogram
            agent_governance_evaluation_latency_ms_count{decision="allow"} 1.0
            agent_governance_evaluation_latency_ms_sum{decision="allow"} 0.05
            agent_governance_evaluation_latency_ms_count{decision="deny"} 2.0
            agent_governance_evaluation_latency_ms_sum{decision="deny"} 0.13
            # HELP agent_governance_trust_score How much an agent is trusted now, 0 to 1000.
            # TYPE agent_governance_trust_score gauge
            agent_governance_trust_score{agent_id="did:mesh:data-analyst"} 850.0
            # HELP agent_governance_active_agents Agents under governance now.
            # TYPE agent_governance_active_agents gauge
            agent_governance_active_agents 1.0
            # HELP agent_governance_audit_events_total Audit events emitted.
            # TYPE agent_governance_audit_events_total counter
            agent_governance_audit_events_total 1.0""")

    def test_buckets_are_inclusive_and_add_up(self, world):
        for milliseconds in (0, 0.01, 0.0100001, 50.0, 10_000.0, 10_000.1):
            world.metrics.record_decision(True, "a", "t", milliseconds)
        name = "agent_governance_evaluation_latency_ms_bucket"
        shown = {
            sample.labels["le"]: sample.value
            for family in world.registry.collect()
            for sample in family.samples
            if sample.name == name and sample.labels["decision"] == "allow"
        }
        assert list(shown) == [*map(str, LATENCY_BUCKETS_MS), "+Inf"]
        assert (shown["0.01"], shown["0.025"], shown["25.0"], shown["50.0"], shown["10000.0"], shown["+Inf"]) == (
            2,
            3,
            3,
            4,
            5,
            6,
        )

    def test_every_series_is_there_before_the_first_decision(self, world):
        for name in ("policy_decisions_total", "rate_limit_hits_total", "evaluation_latency_ms_count"):
            assert world.value(f"agent_governance_{name}", decision="allow") == 0
            assert world.value(f"agent_governance_{name}", decision="deny") == 0
        assert world.value("agent_governance_tool_calls_allowed_total", decision="allow") == 0
        assert world.value("agent_governance_tool_calls_blocked_total", decision="deny") == 0
        assert world.value("agent_governance_audit_events_total") == 0
        assert world.value("agent_governance_active_agents") == 0
        assert set(world.points("agent_governance.tool_calls_blocked").items()) == {(("deny",), 0)}

    def test_openmetrics_has_no_created_series(self, world):
        record_tutorial_decisions(world.metrics)
        text = generate_openmetrics(world.registry).decode()
        assert 'agent_governance_policy_decisions_total{decision="deny"} 2.0' in text
        assert "_created" not in text

    def test_a_registry_has_these_metrics_once(self, world):
        with pytest.raises(ValueError, match="agent_governance_policy_decisions"):
            GovernanceMetrics(prometheus=world.registry)


class TestOpenTelemetry:
    def test_names_types_units_and_help_are_those_that_are_declared(self, world):
        record_tutorial_decisions(world.metrics)
        world.metrics.set_trust_score("a", 1)
        types = {"counter": Sum, "histogram": Histogram, "gauge": Gauge}
        shown = world.instruments()
        assert set(shown) == {one.name for one in GOVERNANCE_INSTRUMENTS} | OWN
        for one in GOVERNANCE_INSTRUMENTS:
            metric = shown[one.name]
            assert (type(metric.data), metric.unit, metric.description) == (types[one.type], one.unit, one.help)
            if one.type == "counter":
                assert metric.data.is_monotonic

    def test_the_meter_has_the_name_of_every_language(self, world):
        [scope] = world.reader.get_metrics_data().resource_metrics[0].scope_metrics
        assert scope.scope.name == METER_NAME == GovernanceMetrics.METER_NAME == "AgentGovernance"

    def test_values_by_decision(self, world):
        record_tutorial_decisions(world.metrics)
        assert world.points("agent_governance.policy_decisions") == {("allow",): 1, ("deny",): 2}
        assert world.points("agent_governance.tool_calls_allowed") == {("allow",): 1}
        assert world.points("agent_governance.tool_calls_blocked") == {("deny",): 2}
        assert world.points("agent_governance.rate_limit_hits") == {("allow",): 0, ("deny",): 1}
        assert world.points("agent_governance.evaluation_latency_ms") == {("allow",): 1, ("deny",): 2}
        [allowed, _] = world.instruments()["agent_governance.evaluation_latency_ms"].data.data_points
        assert allowed.explicit_bounds == LATENCY_BUCKETS_MS

    def test_a_meter_will_do(self):
        reader = InMemoryMetricReader()
        meter = MeterProvider(metric_readers=[reader], shutdown_on_exit=False).get_meter("mine")
        GovernanceMetrics(meter=meter).record_decision(True, "a", "t", 1)
        [scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
        assert scope.scope.name == "mine"

    def test_a_meter_and_a_provider_are_one_too_many(self, world):
        with pytest.raises(ValueError, match="not both"):
            GovernanceMetrics(meter=world.provider.get_meter("m"), meter_provider=world.provider)

    @pytest.mark.parametrize(("units", "name"), [(True, "latency_ms_milliseconds"), (False, "latency_ms")])
    def test_opentelemetrys_prometheus_exporter_puts_a_unit_behind_the_name(self, units, name):
        registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=registry, scope_info_enabled=False)
        provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
        metrics = GovernanceMetrics(meter_provider=provider, units=units)
        record_tutorial_decisions(metrics)
        metrics.set_trust_score("a", 7)
        names = {sample.name for family in registry.collect() for sample in family.samples}
        others = {one.prometheus_name for one in GOVERNANCE_INSTRUMENTS if one.type != "histogram"}
        of_ours = {each for each in names if each.startswith("agent_governance")}
        assert of_ours == others | {
            f"agent_governance_evaluation_{name}_{end}" for end in ("bucket", "count", "sum")
        }
        assert registry.get_sample_value("agent_governance_policy_decisions_total", {"decision": "deny"}) == 2
        provider.shutdown()

    def test_a_meter_that_raises_hurts_nobody(self, world, caplog):
        def broken(*_: object) -> None:
            raise RuntimeError("no meter")

        world.metrics._instruments._decisions.add = broken
        record_tutorial_decisions(world.metrics)
        assert world.metrics.troubles["output"] == 3
        assert world.value("agent_governance_policy_decisions_total", decision="deny") == 2
        assert len(world.events()) == 3
        assert [record.message for record in caplog.records] == ["The meter failed."]


class TestEvents:
    def test_a_decision_is_what_the_contract_reads(self, world):
        world.metrics.record_decision(False, "did:a", "api_call", 0.25, True, "s1", "trace/1")
        [event] = world.events(GovernanceEventType.POLICY_DECISION)
        assert (event.agent_did, event.session_id, event.causal_trace_id) == ("did:a", "s1", "trace/1")
        assert read_payload(event.payload, PolicyDecision) == PolicyDecision(False, "api_call", 0.25, True)

    def test_the_other_four(self, world):
        world.metrics.set_trust_score("a", 320)
        world.metrics.register_agent("a")
        world.metrics.deregister_agent("a")
        details = {"rule": "no-shell"}
        world.metrics.record_audit_event(
            "policy.changed", "a", details=details, session_id="s", causal_trace_id="t"
        )
        score, registered, gone, audit = world.events()
        assert [event.event_type for event in world.events()] == [
            GovernanceEventType.TRUST_SCORE,
            GovernanceEventType.AGENT_REGISTERED,
            GovernanceEventType.AGENT_DEREGISTERED,
            GovernanceEventType.AUDIT_EVENT,
        ]
        assert read_payload(score.payload, TrustScore) == TrustScore(320.0)
        assert registered.payload == gone.payload == {}
        assert audit.payload == {"action": "policy.changed", "details": {"rule": "no-shell"}}
        assert (audit.session_id, audit.causal_trace_id) == ("s", "t")

    def test_an_audit_event_needs_no_agent(self, world):
        world.metrics.record_audit_event("policy_reloaded", session_id="s")
        [event] = world.events(GovernanceEventType.AUDIT_EVENT)
        assert (event.agent_did, event.session_id) == (None, "s")
        assert event.payload == {"action": "policy_reloaded", "details": {}}

    def test_the_packages_own_bus_takes_them(self):
        bus = package.HypervisorEventBus()
        GovernanceMetrics(bus).record_decision(True, "did:a", "t", 1)
        [event] = bus.all_events
        assert event.agent_did == "did:a"

    def test_a_publisher_is_asked_to_publish(self):
        published = []

        class Publisher:
            publish = staticmethod(published.append)

        GovernanceMetrics(Publisher()).register_agent("a")
        assert [event.event_type for event in published] == [GovernanceEventType.AGENT_REGISTERED]

    def test_anything_else_is_no_output(self):
        with pytest.raises(ValueError, match="list has neither publish nor emit"):
            GovernanceMetrics([])

    def test_a_bus_that_raises_hurts_nobody(self, caplog):
        class Bus:
            def emit(self, _event: object) -> None:
                raise RuntimeError("no bus")

        metrics = GovernanceMetrics(Bus(), strict=True)
        record_tutorial_decisions(metrics)
        assert metrics.troubles["output"] == 3
        assert [record.message for record in caplog.records] == ["The bus failed to take an event."]

    def test_without_any_output_nothing_happens(self):
        metrics = GovernanceMetrics()
        record_tutorial_decisions(metrics)
        metrics.record_audit_event("x")
        metrics.set_trust_score("a", 1)
        assert not any(metrics.troubles.values())


class TestGauges:
    def test_active_agents_are_those_registered_and_not_deregistered(self, world):
        for agent in ("a", "b", "a", "c"):
            world.metrics.register_agent(agent)
        world.metrics.deregister_agent("b")
        world.metrics.deregister_agent("never seen")
        assert world.value("agent_governance_active_agents") == 2
        assert world.points("agent_governance.active_agents") == {(): 2}

    def test_a_callback_counts_instead(self, world):
        world.metrics.register_agent("a")
        world.metrics.register_active_agents_gauge(lambda: 41)
        world.metrics.register_active_agents_gauge(lambda: 42)
        assert world.value("agent_governance_active_agents") == 42
        assert world.points("agent_governance.active_agents") == {(): 42}

    def test_scores_that_are_set_and_scores_of_a_callback(self, world):
        world.metrics.set_trust_score("a", 100)
        world.metrics.set_trust_score("b", 200)
        world.metrics.set_trust_score("b", 250)
        world.metrics.register_trust_score_gauge(
            lambda: [Observation(320.0, {"agent_id": "a"}), (850.0, {"agent_id": "c"})]
        )
        assert world.points("agent_governance.trust_score") == {("a",): 320, ("b",): 250, ("c",): 850}
        assert world.value("agent_governance_trust_score", agent_id="a") == 320
        assert world.value("agent_governance_trust_score", agent_id="b") == 250
        assert world.value("agent_governance_trust_score", agent_id="c") == 850

    def test_the_score_of_an_agent_that_left_is_gone(self, world):
        world.metrics.set_trust_score("a", 100)
        world.metrics.deregister_agent("a")
        assert world.value("agent_governance_trust_score", agent_id="a") is None
        # The SDK leaves out a gauge without a point.
        assert "agent_governance.trust_score" not in world.instruments()

    @pytest.mark.parametrize("answer", [None, "many", -1, float("nan"), RuntimeError("no registry")])
    def test_a_callback_of_active_agents_that_fails_shows_nothing(self, world, answer, caplog):
        def callback() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        world.metrics.register_agent("a")
        world.metrics.register_active_agents_gauge(callback)
        record_tutorial_decisions(world.metrics)
        text = generate_latest(world.registry).decode()
        assert "\nagent_governance_active_agents " not in text
        assert 'agent_governance_policy_decisions_total{decision="deny"} 2.0' in text
        assert 'hypervisor_governance_troubles_total{reason="gauge"} 1.0' in text
        assert world.points("agent_governance.policy_decisions")["deny",] == 2
        assert [record.message for record in caplog.records] == ["The callback of the active agents failed."]

    def test_a_callback_of_scores_that_fails_midway_shows_what_it_had_given(self, world):
        def callback() -> Any:
            yield 850.0, {"agent_id": "a"}
            yield "nonsense"
            yield 320.0, {"agent_id": "b"}
            raise RuntimeError("the store is away")

        world.metrics.set_trust_score("c", 1)
        world.metrics.register_trust_score_gauge(callback)
        assert 'trust_score{agent_id="b"} 320.0' in generate_latest(world.registry).decode()
        assert world.metrics.troubles["gauge"] == 2
        assert world.points("agent_governance.trust_score") == {("a",): 850, ("b",): 320, ("c",): 1}

    def test_a_callback_that_never_ends_ends_at_the_ceiling(self):
        def callback() -> Any:
            n = 0
            while True:
                n += 1
                yield 1.0, {"agent_id": str(n)}

        world = GovernanceOutputs(labels=GovernanceLabels(max_series=10))
        world.metrics.register_trust_score_gauge(callback)
        assert len(world.points("agent_governance.trust_score")) == 10
        assert world.metrics.overflowed == 1

    def test_a_callback_may_record(self, world):
        def callback() -> dict[str, float]:
            world.metrics.record_decision(True, "a", "t", 1)
            world.metrics.set_trust_score("b", 1)
            return {"a": 1}

        world.metrics.register_trust_score_gauge(callback)
        generate_latest(world.registry)
        assert world.points("agent_governance.trust_score") == {("a",): 1, ("b",): 1}


class TestLabels:
    def test_none_by_default_whatever_the_number_of_agents(self, world):
        for n in range(100):
            world.metrics.record_decision(True, f"agent-{n}", f"tool-{n}", 1)
        assert world.points("agent_governance.policy_decisions") == {("allow",): 100, ("deny",): 0}
        assert world.metrics.overflowed == 0

    def test_both_by_choice(self):
        world = GovernanceOutputs(labels=GovernanceLabels(agent_id=True, tool_name=True))
        record_tutorial_decisions(world.metrics)
        world.metrics.record_audit_event("x", "did:mesh:untrusted")
        labels = {"decision": "deny", "agent_id": "did:mesh:noisy-agent", "tool_name": "api_call"}
        for name in ("policy_decisions_total", "tool_calls_blocked_total", "rate_limit_hits_total"):
            assert world.value(f"agent_governance_{name}", **labels) == 1
        assert world.value("agent_governance_evaluation_latency_ms_count", **labels) == 1
        assert world.value("agent_governance_audit_events_total") == 1
        assert world.points("agent_governance.tool_calls_blocked") == {
            ("did:mesh:noisy-agent", "deny", "api_call"): 1,
            ("did:mesh:untrusted", "deny", "shell_exec"): 1,
        }
        assert world.points("agent_governance.audit_events") == {(): 1}

    def test_one_by_choice_put_together(self):
        world = GovernanceOutputs(labels=GovernanceLabels(tool_name=lambda tool: tool.partition("_")[0]))
        record_tutorial_decisions(world.metrics)
        world.metrics.record_decision(True, "a", "file_write", 1)
        assert world.points("agent_governance.tool_calls_allowed") == {("allow", "file"): 2}
        assert world.value("agent_governance_tool_calls_allowed_total", decision="allow", tool_name="file") == 2

    def test_what_is_beyond_the_ceiling_is_counted_in_one_series(self, caplog):
        world = GovernanceOutputs(labels=GovernanceLabels(agent_id=True, max_series=2))
        for agent in ("a", "b", "c", "d", "a"):
            world.metrics.record_decision(agent != "d", agent, "t", 1)
        assert world.points("agent_governance.policy_decisions") == {
            ("a", "allow"): 2,
            ("b", "allow"): 1,
            ("__overflow__", "allow"): 1,
            ("__overflow__", "deny"): 1,
        }
        total = "agent_governance_policy_decisions_total"
        assert world.value(total, decision="deny", agent_id="__overflow__") == 1
        assert world.metrics.overflowed == 2
        assert world.value("hypervisor_governance_overflow_total") == 2
        assert world.points("hypervisor_governance_overflow") == {(): 2}
        assert len(caplog.records) == 1
        assert {event.agent_did for event in world.events()} == {"a", "b", "c", "d"}

    def test_scores_beyond_the_ceiling_are_published_and_not_shown(self):
        world = GovernanceOutputs(labels=GovernanceLabels(max_series=2))
        for agent in ("a", "b", "c", "a"):
            world.metrics.set_trust_score(agent, 5)
        assert set(world.points("agent_governance.trust_score")) == {("a",), ("b",)}
        assert world.metrics.overflowed == 1
        assert len(world.events(GovernanceEventType.TRUST_SCORE)) == 4

    @pytest.mark.parametrize("function", [lambda _: None, lambda _: "", lambda _: "\ud800", lambda text: text[99]])
    def test_a_function_that_fails_costs_its_label_only(self, function):
        world = GovernanceOutputs(labels=GovernanceLabels(agent_id=function, tool_name=True))
        world.metrics.record_decision(True, "a", "t", 1)
        labels = {"decision": "allow", "agent_id": "__overflow__", "tool_name": "__overflow__"}
        assert world.value("agent_governance_policy_decisions_total", **labels) == 1
        assert world.metrics.troubles["label"] == 1
        assert len(world.events()) == 1

    def test_a_ceiling_has_room_for_one(self):
        with pytest.raises(ValueError, match="max_series must be 1 or more, not 0"):
            GovernanceLabels(max_series=0)
