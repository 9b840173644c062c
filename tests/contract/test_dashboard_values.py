"""Panels' values for given series, by Prometheus itself (promtool), where a careless query would be wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.dashboards.expressions import expressions

Shown = Callable[[str, dict[str, str], dict[str, float]], None]
pytestmark = pytest.mark.full

BY_PANEL = {(query.panel, query.ref_id): query.expression for query in expressions({"__range": "10m"})}
OF_ONE_JOB = {
    (query.panel, query.ref_id): query.expression
    for query in expressions({"governance": "governance-metrics", "agent": "did:mesh:a", "__range": "10m"})
}


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on this machine")

    def check(expression: str, series: dict[str, str], expected: dict[str, float]) -> None:
        test = {
            "interval": "15s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": f"round({expression}, 0.001)",  # Prometheus 3 adds in another order than 2
                    "eval_time": "10m",
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in expected.items()],
                }
            ],
        }
        file = tmp_path / "test.yml"
        file.write_text(json.dumps({"evaluation_interval": "15s", "tests": [test]}), "utf-8")
        done = subprocess.run([promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return check


class TestAtZero:
    def test_without_any_series_rates_and_ratios_are_zero(self, shown: Shown) -> None:
        for panel in ("Breach Rate", "Denial Rate", "Active Agents", "Tool Calls", "Audit Events"):
            shown(BY_PANEL[panel, "A"], {}, {"{}": 0})

    def test_no_denial_is_a_ratio_of_zero(self, shown: Shown) -> None:
        series = {'agent_governance_policy_decisions_total{decision="allow",partition="0"}': "0+15x40"}
        shown(BY_PANEL["Denial Rate", "A"], series, {"{}": 0})

    def test_no_decision_in_the_time_is_a_ratio_of_zero(self, shown: Shown) -> None:
        series = {
            'agent_governance_policy_decisions_total{decision="deny",partition="0"}': "7x40",
            'agent_governance_tool_calls_blocked_total{decision="deny",partition="0"}': "7x40",
        }
        shown(BY_PANEL["Denial Rate", "A"], series, {"{}": 0})

    def test_no_transaction_in_the_time_is_a_ratio_of_zero(self, shown: Shown) -> None:
        series = {
            f'hypervisor_telemetry_transactions_total{{job="s",outcome="{outcome}"}}': "3x40"
            for outcome in ("committed", "aborted")
        }
        shown(BY_PANEL["Aborts", "A"], series, {'{job="s"}': 0})


class TestSums:
    def test_a_denial_ratio_is_of_all_decisions_whatever_their_label_and_partition(self, shown: Shown) -> None:
        series = {
            'agent_governance_policy_decisions_total{decision="allow",partition="0"}': "0+15x40",
            'agent_governance_policy_decisions_total{decision="allow",partition="1"}': "0+30x40",
            'agent_governance_policy_decisions_total{decision="deny",partition="1"}': "0+15x40",
            'agent_governance_tool_calls_blocked_total{decision="deny",partition="1"}': "0+15x40",
        }
        shown(BY_PANEL["Denial Rate", "A"], series, {"{}": 0.25})

    def test_decisions_are_not_counted_twice_where_agents_show_them_too(self, shown: Shown) -> None:
        name = "agent_governance_policy_decisions_total"
        series = {
            f'{name}{{job="governance-metrics",decision="allow",partition="0"}}': "0+15x40",
            f'{name}{{job="agent-governance",decision="allow"}}': "0+15x40",
        }
        shown(OF_ONE_JOB["Policy Decisions", "A"], series, {'{decision="allow"}': 600})

    def test_a_chosen_agent_narrows_decisions_that_name_agents_and_no_others(self, shown: Shown) -> None:
        name = 'agent_governance_policy_decisions_total{job="governance-metrics",decision="allow",partition="0"'
        named = {f'{name},agent_id="did:mesh:a"}}': "0+15x40", f'{name},agent_id="did:mesh:b"}}': "0+30x40"}
        shown(OF_ONE_JOB["Policy Decisions", "A"], named, {'{decision="allow"}': 600})
        shown(OF_ONE_JOB["Policy Decisions", "A"], {f"{name}}}": "0+30x40"}, {'{decision="allow"}': 1200})

    def test_breaches_of_all_partitions_are_one_rate_a_minute(self, shown: Shown) -> None:
        name = "agent_hypervisor_ring_breaches_total"
        series = {
            f'{name}{{agent_did="a",session_id="s"}}': "0+1x40",
            f'{name}{{agent_did="unknown",session_id="unknown",partition="3"}}': "0+2x40",
        }
        shown(BY_PANEL["Breach Rate", "A"], series, {"{}": 12})

    def test_an_elevation_that_ended_is_not_elevated_now(self, shown: Shown) -> None:
        series = {
            'agent_hypervisor_ring_elevation_duration_seconds{agent_did="over"}': "400x40",
            'agent_hypervisor_ring_elevations_active{agent_did="over"}': "0x40",
            'agent_hypervisor_ring_elevation_duration_seconds{agent_did="runs"}': "0+15x40",
            'agent_hypervisor_ring_elevations_active{agent_did="runs"}': "1x40",
        }
        shown(BY_PANEL["Elevated Now", "A"], series, {'{agent_did="runs"}': 600})

    def test_buckets_of_all_partitions_are_summed_and_stay_cumulative(self, shown: Shown) -> None:
        series = {
            f'agent_hypervisor_ring_elevation_seconds_bucket{{partition="{partition}",le="{le}"}}': f"0+{step}x40"
            for partition in "01"
            for le, step in (("1", 1), ("5", 3), ("+Inf", 4))
        }
        expected = {'{le="1"}': 80.0, '{le="5"}': 240.0, '{le="+Inf"}': 320.0}
        shown(BY_PANEL["Elevation Duration", "A"], series, expected)

    def test_differences_do_not_cancel_out(self, shown: Shown) -> None:
        series = {
            'hypervisor_telemetry_accounting_difference{job="s",topic="t",partition="0"}': "2x40",
            'hypervisor_telemetry_accounting_difference{job="s",topic="t",partition="1"}': "-2x40",
        }
        shown(BY_PANEL["Accounting Difference", "A"], series, {'{job="s"}': 4})

    def test_a_reason_of_dead_letters_that_nobody_thought_of_is_shown(self, shown: Shown) -> None:
        name = 'hypervisor_telemetry_records_total{job="s",topic="t",partition="0",result='
        series = {f'{name}"applied"}}': "0+9x40", f'{name}"moonshine"}}': "0+1x40", f'{name}"aged_out"}}': "0+3x40"}
        shown(BY_PANEL["Dead Letters by Reason", "A"], series, {'{job="s", result="moonshine"}': 4})
        shown(BY_PANEL["Lost and Refused", "A"], series, {'{job="s"}': 12})
