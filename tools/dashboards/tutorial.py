"""The tutorial's seven panels, in its layout, with the list of sagas that the timeline needs."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import dashboard, table
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.dashboard import DynamicConfigValue

from tools.dashboards.links import agent_links, trace_links
from tools.dashboards.overrides import colour, coloured_from, links, mappings, painted, unit
from tools.dashboards.panels import (
    TracesQuery,
    bars_of_buckets,
    gauges,
    now,
    pie,
    query,
    rows,
    series,
    stats,
    traces,
)
from tools.dashboards.variables import CLUSTER, GOVERNANCE, RING, RING_OF_AGENT, TRACES, TRUST

__all__ = ["ONCE", "TEMPO_SEARCH", "WHOSE", "saga_list", "tutorial_panels"]

_RINGS = {0: ("0 root", "red"), 1: ("1 privileged", "orange"), 2: ("2 standard", "blue"), 3: ("3 sandbox", "green")}

ONCE = (
    "Counted by the job that the variable “Governance from” names, and by no other: agents' own processes and "
    "governance-metrics may both show these metrics, and their sum would be twice the truth. "
)
WHOSE = (
    "A chosen agent narrows it where decisions carry `agent_id` (`TELEMETRY_GOVERNANCE_LABELS`); else it is all."
)


def tutorial_panels(made: dashboard.Dashboard) -> None:
    """Put them onto the dashboard."""
    made.with_panel(
        series(
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
        stats(
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
        bars_of_buckets(
            "Elevation Duration",
            "How many elevations ended in this time, by how long they had lasted: each bar counts those up to its "
            "bound, in seconds, and beyond the bound before it. Of all agents and sessions.",
            f"sum by (le) (increase(agent_hypervisor_ring_elevation_seconds_bucket{{{CLUSTER}}}[$__range]))",
        )
        .span(8)
        .height(8)
    )
    made.with_panel(
        pie(
            "Policy Decisions",
            f"Allowed and denied in this time. {ONCE}{WHOSE}",
            "short",
            now(
                f"sum by (decision) (increase(agent_governance_policy_decisions_total{{{GOVERNANCE}}}[$__range]))",
                "{{decision}}",
            ),
        )
        .decimals(0)
        .override_by_name("allow", [colour("green")])
        .override_by_name("deny", [colour("red")])
        .span(8)
        .height(8)
    )
    made.with_panel(
        gauges(
            "Trust Scores",
            "The twelve least trusted of the chosen agents, 0 to 1000. Above 600 an agent may be in ring 2, above "
            f"950 in ring 1. {ONCE}Where an agent has two scores (its session moved), the lower one is shown.",
            "none",
            now(f"bottomk(12, min by (agent_id) (agent_governance_trust_score{{{TRUST}}}))", "{{agent_id}}"),
            thresholds=((None, "red"), (600, "yellow"), (950, "green")),
            highest=1000,
        )
        .override_by_field_type("number", [links(agent_links("__field.labels.agent_id"))])
        .span(8)
        .height(8)
    )
    made.with_panel(saga_list("Sagas", TRACES, _JAEGER_SEARCH).span(24).height(7))
    made.with_panel(
        traces(
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
    panel = rows(
        "Current Ring Levels",
        "The ring of every chosen agent now, in how many sessions it is elevated, and for how long (else how long "
        "the last elevation was). A click on an agent leads to its sagas and events.",
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
        panel.override_by_name("Agent", [links(agent_links())])
        .override_by_name("Ring", [DynamicConfigValue("mappings", mappings(_RINGS)), painted()])
        .override_by_name("Elevated in", [coloured_from((None, "text"), (1, "orange")), painted("color-text")])
        .override_by_name("Elevation", [unit("s")])
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
    """A list of traces, found by a query of Jaeger or Tempo."""
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
        .override_by_name("traceID", [links(trace_links())])
        .override_by_name("Trace ID", [links(trace_links())])
    )
