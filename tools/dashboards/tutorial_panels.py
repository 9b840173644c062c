"""The tutorial's seven panels, in its layout, with the list of sagas that the timeline needs."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from tools.dashboards.links import agent_links, trace_links
from tools.dashboards.overrides import (
    cell_colour,
    data_links,
    fixed_colour,
    thresholds_at,
    unit_override,
    value_mappings,
)
from tools.dashboards.panels import (
    TracesQuery,
    gauge_panel,
    histogram_bars,
    instant,
    pie_chart,
    query,
    stat_panel,
    table_panel,
    time_series,
    traces_panel,
)
from tools.dashboards.variables import CLUSTER, GOVERNANCE, RING, RING_OF_AGENT, TRACES, TRUST

__all__ = ["BY_AGENT", "ONE_JOB", "TEMPO_SEARCH", "add_tutorial_panels", "saga_list"]

_RINGS = {0: ("0 root", "red"), 1: ("1 privileged", "orange"), 2: ("2 standard", "blue"), 3: ("3 sandbox", "green")}

ONE_JOB = (
    "Counted by the job that the variable “Governance from” names, and by no other: agents' own processes and "
    "governance-metrics may both show these metrics, and a sum would count everything twice. "
)
BY_AGENT = (
    "The choice of agents applies if decisions carry `agent_id` (`TELEMETRY_GOVERNANCE_LABELS`); else all show."
)


def add_tutorial_panels(made: dashboard.Dashboard) -> None:
    """Add the tutorial's panels."""
    made.with_panel(
        time_series(
            "Ring Transitions",
            "Ring assignments, elevations, demotions and expired elevations per minute, by kind.",
            "cpm",
            query(
                "sum by (event_type) (rate(agent_hypervisor_ring_transitions_total"
                f"{{{RING}}}[$__rate_interval])) * 60",
                "{{event_type}}",
            ),
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        stat_panel(
            "Breach Rate",
            "Attempts per minute to act beyond a ring, of all chosen agents. The tutorial's alert is at 30.",
            "cpm",
            query(
                f"sum(rate(agent_hypervisor_ring_breaches_total{{{RING}}}[$__rate_interval])) * 60 or vector(0)",
                "breaches",
            ),
            thresholds=((None, "green"), (1, "yellow"), (30, "red")),
        )
        .decimals(1)
        .span(8)
        .height(8)
    )
    made.with_panel(_ring_levels().span(8).height(8))
    made.with_panel(
        histogram_bars(
            "Elevation Duration",
            "The elevations that ended in this time, by their duration: each bar counts those up to its bound, in "
            "seconds, and beyond the bound before it. Includes all agents and sessions.",
            f"sum by (le) (increase(agent_hypervisor_ring_elevation_seconds_bucket{{{CLUSTER}}}[$__range]))",
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        pie_chart(
            "Policy Decisions",
            f"Allowed and denied in this time. {ONE_JOB}{BY_AGENT}",
            "short",
            instant(
                f"sum by (decision) (increase(agent_governance_policy_decisions_total{{{GOVERNANCE}}}[$__range]))",
                "{{decision}}",
            ),
        )
        .decimals(0)
        .override_by_name("allow", [fixed_colour("green")])
        .override_by_name("deny", [fixed_colour("red")])
        .span(8)
        .height(8)
    )
    made.with_panel(
        gauge_panel(
            "Trust Scores",
            "The twelve least trusted of the chosen agents, 0 to 1000. Above 600 an agent may be in ring 2, above "
            f"950 in ring 1. {ONE_JOB}Where an agent has two scores (its session moved), the lower one is shown.",
            "none",
            instant(f"bottomk(12, min by (agent_id) (agent_governance_trust_score{{{TRUST}}}))", "{{agent_id}}"),
            thresholds=((None, "red"), (600, "yellow"), (950, "green")),
            highest=1000,
        )
        .override_by_field_type("number", [data_links(agent_links("__field.labels.agent_id"))])
        .span(8)
        .height(8)
    )
    made.with_panel(saga_list("Sagas", TRACES, _JAEGER_SEARCH).span(24).height(7))
    made.with_panel(
        traces_panel(
            "Saga Span Timeline",
            "The saga with its steps, fan-outs and compensations: the trace that the variable “Trace” names. A "
            "click on a trace id in the list above sets it. A span leads on to its attributes and links.",
            TRACES,
            {"query": "${trace}"},
        )
        .span(24)
        .height(12)
    )


def _ring_levels() -> table.Panel:
    panel = table_panel(
        "Current Ring Levels",
        "The ring of every chosen agent now, the number of sessions in which it is elevated, and for how long (or "
        "how long its last elevation was). A click on an agent leads to its sagas and events.",
        "none",
        {
            "Ring": f"max by (cluster, agent_did) (agent_hypervisor_ring_current{{{RING_OF_AGENT}}})",
            "Elevated in": "max by (cluster, agent_did) "
            f"(agent_hypervisor_ring_elevations_active{{{RING_OF_AGENT}}})",
            "Elevation": "max by (cluster, agent_did) "
            f"(agent_hypervisor_ring_elevation_duration_seconds{{{RING_OF_AGENT}}})",
        },
        columns={"agent_did": "Agent", "cluster": "Cluster"},
        sort_by="Elevated in",
    )
    return (
        panel.override_by_name("Agent", [data_links(agent_links())])
        .override_by_name("Ring", [DynamicConfigValue("mappings", value_mappings(_RINGS)), cell_colour()])
        .override_by_name("Elevated in", [thresholds_at((None, "text"), (1, "orange")), cell_colour("color-text")])
        .override_by_name("Elevation", [unit_override("s")])
    )


_JAEGER_SEARCH: Mapping[str, object] = {
    "queryType": "search",
    "service": "${service}",
    "tags": "${tags}",
    "limit": 50,
}
TEMPO_SEARCH: Mapping[str, object] = {
    "queryType": "traceql",
    "query": '{ resource.service.name = "${service}" && span.agent.did =~ "${agent:regex}" }',
    "limit": 50,
    "tableType": "traces",
    "filters": [],
}
"""Tempo's query for the sagas of the chosen agents."""


def saga_list(title: str, source: DataSourceRef, search: Mapping[str, object]) -> table.Panel:
    """Make a table of traces, found by a query of Jaeger or Tempo."""
    return (
        table.Panel()
        .title(title)
        .description(
            "Traces of sagas in this time; a click on a trace id shows its timeline. Jaeger searches by the "
            "variable “Spans with”, which a click on an agent sets; Tempo by the chosen agents."
        )
        .unit("µs")
        .datasource(source)
        .with_target(TracesQuery(source, search))
        .no_value("-")
        .override_by_name("traceID", [data_links(trace_links())])
        .override_by_name("Trace ID", [data_links(trace_links())])
    )
