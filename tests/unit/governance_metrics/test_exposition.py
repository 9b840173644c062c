"""The exact exposition text of governance-metrics."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_consumers.governance_metrics.exposition import governance_families
from hypervisor_consumers.governance_metrics.fold.event_fold import GovernanceFold
from hypervisor_consumers.governance_metrics.fold.state import GovernanceState
from hypervisor_consumers.governance_metrics.metric_defs import GOVERNANCE_METRICS
from hypervisor_consumers.runtime.ops.cardinality import SERIES_LIMIT
from hypervisor_consumers.runtime.ops.exposition import Exposition
from hypervisor_schemas.governance import GOVERNANCE_INSTRUMENTS, LATENCY_BUCKETS_MS
from hypervisor_schemas.topics import partition_of
from tests.unit.governance_metrics.test_fold import AUDIT, DECISION, DEREGISTERED, REGISTERED, SCORE, event, folded

BOTH = ("agent_id", "tool_name")


def text_of(states: dict[int, GovernanceState], accept: str = "", **options: Any) -> str:
    text, _ = Exposition().write(governance_families(states, **options), accept)
    return text.decode()


def lines_of(name: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]


def buckets(before: str, behind: str, rising: dict[str, int]) -> str:
    """All bucket lines; `rising` says from which bound on the count is which."""
    count, lines = 0, []
    for bound in (*map(str, LATENCY_BUCKETS_MS), "+Inf"):
        count = rising.get(bound, count)
        lines.append(f'agent_governance_evaluation_latency_ms_bucket{{{before},le="{bound}",{behind}}} {count}.0\n')
    return "".join(lines)


def test_the_whole_text_of_two_partitions():
    states = {
        10: folded(
            event(REGISTERED, agent="did:mesh:a"),
            event(DECISION, agent="did:mesh:a", allowed=True, tool_name="file_read", evaluation_ms=0.05),
            event(DECISION, agent="did:mesh:b", allowed=False, tool_name="shell_exec", evaluation_ms=0.12),
            event(
                DECISION,
                agent="did:mesh:b",
                allowed=False,
                rate_limited=True,
                tool_name="api_call",
                evaluation_ms=20_000,
            ),
            event(DEREGISTERED, 5, agent="did:mesh:b"),
            event(SCORE, agent="did:mesh:a", score=850),
        ),
        2: folded(event(AUDIT, agent="did:mesh:c"), event(SCORE, agent="did:mesh:d", score=320.5)),
    }
    assert text_of(states) == (
        """\
# HELP agent_governance_policy_decisions_total Governance evaluations, allowed and denied.
# TYPE agent_governance_policy_decisions_total counter
agent_governance_policy_decisions_total{decision="allow",partition="2"} 0.0
agent_governance_policy_decisions_total{decision="deny",partition="2"} 0.0
agent_governance_policy_decisions_total{decision="allow",partition="10"} 1.0
agent_governance_policy_decisions_total{decision="deny",partition="10"} 2.0
# HELP agent_governance_tool_calls_allowed_total Tool calls that the policy permitted.
# TYPE agent_governance_tool_calls_allowed_total counter
agent_governance_tool_calls_allowed_total{decision="allow",partition="2"} 0.0
agent_governance_tool_calls_allowed_total{decision="allow",partition="10"} 1.0
# HELP agent_governance_tool_calls_blocked_total Tool calls that the policy denied.
# TYPE agent_governance_tool_calls_blocked_total counter
agent_governance_tool_calls_blocked_total{decision="deny",partition="2"} 0.0
agent_governance_tool_calls_blocked_total{decision="deny",partition="10"} 2.0
# HELP agent_governance_rate_limit_hits_total Requests that the rate limiter rejected.
# TYPE agent_governance_rate_limit_hits_total counter
agent_governance_rate_limit_hits_total{decision="allow",partition="2"} 0.0
agent_governance_rate_limit_hits_total{decision="deny",partition="2"} 0.0
agent_governance_rate_limit_hits_total{decision="allow",partition="10"} 0.0
agent_governance_rate_limit_hits_total{decision="deny",partition="10"} 1.0
# HELP agent_governance_evaluation_latency_ms How long governance evaluations took, in ms.
# TYPE agent_governance_evaluation_latency_ms histogram
"""
        + buckets('decision="allow"', 'partition="2"', {})
        + """\
agent_governance_evaluation_latency_ms_count{decision="allow",partition="2"} 0.0
agent_governance_evaluation_latency_ms_sum{decision="allow",partition="2"} 0.0
"""
        + buckets('decision="deny"', 'partition="2"', {})
        + """\
agent_governance_evaluation_latency_ms_count{decision="deny",partition="2"} 0.0
agent_governance_evaluation_latency_ms_sum{decision="deny",partition="2"} 0.0
"""
        + buckets('decision="allow"', 'partition="10"', {"0.05": 1})
        + """\
agent_governance_evaluation_latency_ms_count{decision="allow",partition="10"} 1.0
agent_governance_evaluation_latency_ms_sum{decision="allow",partition="10"} 0.05
"""
        + buckets('decision="deny"', 'partition="10"', {"0.25": 1, "+Inf": 2})
        + """\
agent_governance_evaluation_latency_ms_count{decision="deny",partition="10"} 2.0
agent_governance_evaluation_latency_ms_sum{decision="deny",partition="10"} 20000.12
# HELP agent_governance_trust_score How much an agent is trusted now, 0 to 1000.
# TYPE agent_governance_trust_score gauge
agent_governance_trust_score{agent_id="did:mesh:d"} 320.5
agent_governance_trust_score{agent_id="did:mesh:a"} 850.0
# HELP agent_governance_active_agents Agents under governance now. Heard of within TELEMETRY_AGENT_TTL, and not \
deregistered since they registered or asked last.
# TYPE agent_governance_active_agents gauge
agent_governance_active_agents{partition="2"} 2.0
agent_governance_active_agents{partition="10"} 1.0
# HELP agent_governance_audit_events_total Audit events emitted.
# TYPE agent_governance_audit_events_total counter
agent_governance_audit_events_total{partition="2"} 1.0
agent_governance_audit_events_total{partition="10"} 0.0
# HELP agent_governance_denials_total Tool calls that the policy denied, by tool, whatever labels the other \
metrics have.
# TYPE agent_governance_denials_total counter
agent_governance_denials_total{partition="10",tool_name="shell_exec"} 1.0
agent_governance_denials_total{partition="10",tool_name="api_call"} 1.0
# HELP hypervisor_telemetry_series_kept Series in the state of a partition, of the kind that has most: what \
TELEMETRY_MAX_SERIES is the ceiling of.
# TYPE hypervisor_telemetry_series_kept gauge
hypervisor_telemetry_series_kept{partition="2"} 2.0
hypervisor_telemetry_series_kept{partition="10"} 2.0
# HELP hypervisor_telemetry_series_overflow_total Events of series beyond TELEMETRY_MAX_SERIES: counted in an \
overflow series, or what is current of their agent is not kept.
# TYPE hypervisor_telemetry_series_overflow_total counter
hypervisor_telemetry_series_overflow_total{partition="2"} 0.0
hypervisor_telemetry_series_overflow_total{partition="10"} 0.0
# HELP hypervisor_telemetry_series Series of the service's own metrics that this copy shows.
# TYPE hypervisor_telemetry_series gauge
hypervisor_telemetry_series 112.0
"""
    )


def test_the_names_are_those_of_the_shared_declaration_and_the_unit_is_not_in_twice():
    text = text_of({0: folded(event(SCORE, score=1))})
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert families[:8] == [instrument.prometheus_name for instrument in GOVERNANCE_INSTRUMENTS]
    # The ceiling is the process's own word, added by the service.
    assert [*families, SERIES_LIMIT.name] == [metric.name for metric in GOVERNANCE_METRICS]
    assert "milliseconds" not in text


@pytest.mark.parametrize("labels", [(), ("agent_id",), ("tool_name",), BOTH])
def test_prometheus_reads_all_of_it(labels: tuple[str, ...]):
    fold = GovernanceFold(labels=labels)
    odd = 'a "b"\\\nc'
    state = folded(
        event(DECISION, agent=odd, allowed=False, tool_name=odd, rate_limited=True, evaluation_ms=3),
        event(SCORE, agent=odd, score=1),
        fold=fold,
    )
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        samples = [
            sample
            for family in text_string_to_metric_families(text_of({3: state}, accept, labels=labels))
            for sample in family.samples
        ]
        denied = {"decision": "deny", "partition": "3", **dict.fromkeys(labels, odd)}
        found = {sample.name: sample.value for sample in samples if sample.labels == denied}
        assert found == {
            "agent_governance_policy_decisions_total": 1,
            "agent_governance_tool_calls_blocked_total": 1,
            "agent_governance_rate_limit_hits_total": 1,
            "agent_governance_evaluation_latency_ms_count": 1,
            "agent_governance_evaluation_latency_ms_sum": 3,
        }


def test_with_more_labels_only_series_that_have_counted_something_are_shown():
    fold = GovernanceFold(labels=BOTH)
    text = text_of({0: folded(event(DECISION, allowed=True, tool_name="t"), fold=fold)}, labels=BOTH)
    labels = 'agent_id="a",decision="allow",partition="0",tool_name="t"'
    assert [line for line in text.splitlines() if "decision=" in line] == [
        f"agent_governance_policy_decisions_total{{{labels}}} 1.0",
        f"agent_governance_tool_calls_allowed_total{{{labels}}} 1.0",
    ]


def test_what_was_counted_under_other_labels_is_not_shown():
    state = folded(event(DECISION, allowed=True, tool_name="t"))
    for labels in (("agent_id",), ("tool_name",), BOTH):
        GovernanceFold(labels=labels).apply(state, event(DECISION, allowed=True, tool_name="t"))
    for labels in ((), ("agent_id",), ("tool_name",), BOTH):
        lines = lines_of("agent_governance_tool_calls_allowed_total", text_of({0: state}, labels=labels))
        assert [line.rpartition(" ")[2] for line in lines] == ["1.0"]
        assert all(label in lines[0] for label in labels)


def test_overflow_series_have_only_the_labels_that_are_kept():
    fold = GovernanceFold(labels=("tool_name",), max_series=1)
    events = [event(DECISION, allowed=False, tool_name=tool) for tool in ("a", "b")]
    text = text_of({4: folded(*events, fold=fold)}, labels=("tool_name",))
    assert lines_of("agent_governance_tool_calls_blocked_total", text) == [
        'agent_governance_tool_calls_blocked_total{decision="deny",partition="4",tool_name="a"} 1.0',
        'agent_governance_tool_calls_blocked_total{decision="deny",partition="4",tool_name="__overflow__"} 1.0',
    ]
    assert lines_of("hypervisor_telemetry_series_overflow_total", text) == [
        'hypervisor_telemetry_series_overflow_total{partition="4"} 1.0'
    ]


def test_a_score_of_an_agent_that_lies_in_two_partitions_here_is_shown_once_the_later_one():
    states = {1: folded(event(SCORE, 5, score=1)), 2: folded(event(SCORE, 4, score=2))}
    assert lines_of("agent_governance_trust_score", text_of(states)) == [
        'agent_governance_trust_score{agent_id="a"} 1.0'
    ]


def test_after_the_topic_grew_a_score_elsewhere_than_at_first_has_the_label_partition():
    home = partition_of(b"a", 4)
    states = {home: folded(event(SCORE, 4, score=2)), 4: folded(event(SCORE, 5, score=1))}
    assert sorted(lines_of("agent_governance_trust_score", text_of(states, home_partitions=4))) == [
        'agent_governance_trust_score{agent_id="a",partition="4"} 1.0',
        'agent_governance_trust_score{agent_id="a"} 2.0',
    ]


def test_without_partitions_there_are_families_and_no_series():
    text = text_of({})
    assert [line for line in text.splitlines() if not line.startswith("#")] == ["hypervisor_telemetry_series 0.0"]
