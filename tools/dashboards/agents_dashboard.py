"""The dashboard of the agents: the tutorial's panels, and below them governance, agents and sagas in detail."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from tools.dashboards.empty_dashboard import empty_dashboard
from tools.dashboards.links import AGENTS_UID, agent_links
from tools.dashboards.overrides import cell_colour, data_links, fixed_colour, thresholds_at
from tools.dashboards.panels import bar_gauge, instant, query, stat_panel, table_panel, time_series, traces_panel
from tools.dashboards.tutorial_panels import BY_AGENT, ONE_JOB, TEMPO_SEARCH, add_tutorial_panels, saga_list
from tools.dashboards.variables import AGENTS_VARIABLES, CLUSTER, GOVERNANCE, RING, RING_OF_AGENT, TEMPO

__all__ = ["agents_dashboard"]

_ALL_SAGAS = "Of all agents and sessions: the metrics of sagas carry neither."


def agents_dashboard() -> dashboard.Dashboard:
    """Make the whole dashboard; the caller builds it."""
    made = empty_dashboard(
        "Agent Observability",
        AGENTS_UID,
        "Rings, trust, policy and sagas of a fleet of AI agents.",
        AGENTS_VARIABLES,
        with_services=True,
    )
    add_tutorial_panels(made)
    _add_governance(made)
    _add_agents(made)
    _add_sagas(made)
    made.with_row(
        dashboard.Row("Saga Span Timeline, from Tempo")
        .with_panel(saga_list("Sagas in Tempo", TEMPO, TEMPO_SEARCH).span(24).height(7))
        .with_panel(
            traces_panel(
                "Saga Span Timeline in Tempo",
                "The trace that the variable “Trace” names.",
                TEMPO,
                {"queryType": "traceql", "query": "${trace}", "filters": []},
            )
            .span(24)
            .height(12)
        )
    )
    return made


def _add_governance(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Governance"))
    made.with_panel(
        stat_panel(
            "Denial Rate",
            f"Tool calls that the policy denied, of all decisions; 0 while nothing is decided. {ONE_JOB}{BY_AGENT}",
            "percentunit",
            query(
                f"(sum(rate(agent_governance_tool_calls_blocked_total{{{GOVERNANCE}}}[$__rate_interval])) "
                "or vector(0)) / "
                f"(sum(rate(agent_governance_policy_decisions_total{{{GOVERNANCE}}}[$__rate_interval])) > 0) "
                "or vector(0)",
                "denied",
            ),
            thresholds=((None, "green"), (0.1, "yellow"), (0.5, "red")),
        )
        .span(4)
        .height(8)
    )
    made.with_panel(
        stat_panel(
            "Active Agents",
            "Agents under governance now: heard of within `TELEMETRY_AGENT_TTL` and not deregistered. "
            "Counted by the job that “Governance from” names; no choice of agents narrows it.",
            "short",
            query(f'sum(agent_governance_active_agents{{{CLUSTER}, job=~"$governance"}}) or vector(0)', "agents"),
        )
        .span(4)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Tool Calls",
            f"Tool calls per minute that the policy allowed or denied, and that the rate limiter rejected. "
            f"{ONE_JOB}{BY_AGENT}",
            "cpm",
            *(
                query(f"sum(rate({metric}{{{GOVERNANCE}}}[$__rate_interval])) * 60 or vector(0)", legend)
                for metric, legend in (
                    ("agent_governance_tool_calls_allowed_total", "allowed"),
                    ("agent_governance_tool_calls_blocked_total", "denied"),
                    ("agent_governance_rate_limit_hits_total", "rate limited"),
                )
            ),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        time_series(
            "Evaluation Latency",
            f"How long governance evaluations took. The tutorial's alert is at 50 ms (p99). {ONE_JOB}{BY_AGENT}",
            "ms",
            *(
                query(
                    f"histogram_quantile({quantile}, sum by (le) "
                    f"(rate(agent_governance_evaluation_latency_ms_bucket{{{GOVERNANCE}}}[$__rate_interval])))",
                    f"p{quantile[2:]}",
                )
                for quantile in ("0.50", "0.99")
            ),
            thresholds=((None, "green"), (50, "red")),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        bar_gauge(
            "Denials by Tool",
            "The ten tools that were denied most in this time, in the whole fleet, as governance-metrics counts "
            "them.",
            "short",
            instant(
                f"topk(10, sum by (tool_name) (increase(agent_governance_denials_total{{{CLUSTER}}}[$__range])))",
                "{{tool_name}}",
            ),
        )
        .span(12)
        .height(7)
    )
    made.with_panel(
        time_series(
            "Audit Events",
            f"Audit events per minute. {ONE_JOB}",
            "cpm",
            query(
                f'sum(rate(agent_governance_audit_events_total{{{CLUSTER}, job=~"$governance"}}'
                "[$__rate_interval])) * 60 or vector(0)",
                "audit events",
            ),
        )
        .span(12)
        .height(7)
    )


def _add_agents(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Agents to look at"))
    made.with_panel(
        table_panel(
            "Breaches by Agent",
            "The twenty agents with most breaches in this time. A click on an agent leads to its sagas and events.",
            "short",
            {
                "Breaches": "topk(20, sum by (cluster, agent_did) "
                f"(increase(agent_hypervisor_ring_breaches_total{{{RING}}}[$__range])) > 0)"
            },
            columns={"agent_did": "Agent", "cluster": "Cluster"},
            sort_by="Breaches",
        )
        .override_by_name("Agent", [data_links(agent_links())])
        .override_by_name("Breaches", [DynamicConfigValue("decimals", 0)])
        .span(12)
        .height(8)
    )
    made.with_panel(
        table_panel(
            "Elevated Now",
            "Agents at elevated privilege, and for how long by now: the oldest of their elevations. The tutorial's "
            "alert is at five minutes.",
            "s",
            {
                "Elevated for": "max by (cluster, agent_did) "
                f"(agent_hypervisor_ring_elevation_duration_seconds{{{RING_OF_AGENT}}}) and "
                f"max by (cluster, agent_did) (agent_hypervisor_ring_elevations_active{{{RING_OF_AGENT}}}) > 0"
            },
            columns={"agent_did": "Agent", "cluster": "Cluster"},
            sort_by="Elevated for",
        )
        .override_by_name("Agent", [data_links(agent_links())])
        .override_by_name("Elevated for", [thresholds_at((None, "green"), (300, "red")), cell_colour()])
        .span(12)
        .height(8)
    )


def _add_sagas(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Sagas of the fleet"))
    for title, metric, told in (
        ("Sagas Ended", "agent_hypervisor_sagas_total", "ok, error (escalated), timed_out"),
        ("Steps Ended", "agent_hypervisor_saga_steps_total", "ok, error, timed_out, unfinished"),
        ("Fan-outs Ended", "agent_hypervisor_saga_fan_outs_total", "ok, error, timed_out, unfinished"),
    ):
        made.with_panel(
            time_series(
                title,
                f"Per minute, by how they ended: {told}. {_ALL_SAGAS}",
                "cpm",
                query(f"sum by (result) (rate({metric}{{{CLUSTER}}}[$__rate_interval])) * 60", "{{result}}"),
                stacked=True,
            )
            .override_by_name("ok", [fixed_colour("green")])
            .override_by_name("error", [fixed_colour("red")])
            .span(8)
            .height(7)
        )
    for title, metric in (
        ("Saga Duration", "agent_hypervisor_saga_duration_seconds"),
        ("Step Duration", "agent_hypervisor_saga_step_duration_seconds"),
    ):
        made.with_panel(
            time_series(
                title,
                "How long they took, whatever their result. The dots are exemplars, each the last span of a "
                f"bucket, and lead to its trace where Prometheus keeps exemplars. {_ALL_SAGAS}",
                "s",
                *(
                    query(
                        f"histogram_quantile({quantile}, sum by (le) "
                        f"(rate({metric}_bucket{{{CLUSTER}}}[$__rate_interval])))",
                        f"p{quantile[2:]}",
                    ).exemplar(quantile == "0.99")
                    for quantile in ("0.50", "0.99")
                ),
            )
            .span(8)
            .height(7)
        )
    made.with_panel(
        time_series(
            "Compensations and Late Events",
            "Compensations, and events that came after their saga had ended and of which nothing is exported, per "
            f"minute. {_ALL_SAGAS}",
            "cpm",
            query(
                f"sum(rate(agent_hypervisor_saga_compensations_total{{{CLUSTER}}}[$__rate_interval])) * 60 "
                "or vector(0)",
                "compensations",
            ),
            query(
                "sum by (event_type) (rate(agent_hypervisor_saga_late_events_total"
                f"{{{CLUSTER}}}[$__rate_interval])) * 60",
                "late: {{event_type}}",
            ),
        )
        .span(8)
        .height(7)
    )
