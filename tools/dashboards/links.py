"""The links of the dashboards: to the traces of an agent, to the event index, to the other dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import quote

from grafana_foundation_sdk.builders.dashboard import DashboardLink
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.dashboard import DashboardLinkType

__all__ = [
    "AGENTS_UID",
    "PIPELINE_UID",
    "TAG",
    "agent_links",
    "dashboard_links",
    "trace_links",
]

AGENTS_UID = "hypervisor-agents"
PIPELINE_UID = "hypervisor-pipeline"
TAG = "hypervisor-telemetry"

_KEPT = "${__url_time_range}&${datasource:queryparam}&${cluster:queryparam}&${governance:queryparam}"
_KEPT += "&${traces:queryparam}&${tempo:queryparam}&${service:queryparam}&${index:queryparam}&${sagas:queryparam}"
_SEARCH = "${agent:queryparam}&${session:queryparam}&${tags:queryparam}"

Link = dict[str, str | bool]


def agent_links(field: str = "__value.raw") -> list[Link]:
    """Make the links of an agent; `field` is the variable of Grafana that holds its DID."""
    agent = f"${{{field}:percentencode}}"
    jaeger = {"queryType": "search", "service": "${service}", "tags": f'agent.did="{agent}"', "limit": 20}
    tempo = {"queryType": "traceql", "query": f'{{ span.agent.did = "{agent}" }}', "limit": 20}
    return [
        _link("This agent alone", f"/d/{AGENTS_UID}?var-agent={agent}&{_KEPT}"),
        _link(
            "Its sagas, in the list below",
            f"/d/{AGENTS_UID}?var-agent={agent}&var-tags=agent.did%3D%22{agent}%22&{_KEPT}",
        ),
        _link("Its sagas in Jaeger", _explore("jaeger", "${traces}", jaeger), new_tab=True),
        _link("Its sagas in Tempo", _explore("tempo", "${tempo}", tempo), new_tab=True),
        _link("Its sagas that are open now", f"${{sagas:raw}}/v1/sagas?agent_did={agent}", new_tab=True),
        _link("The agent in the event index", f"${{index:raw}}/v1/agents/{agent}", new_tab=True),
        _link(
            "Its last events in the event index",
            f"${{index:raw}}/v1/events?agent_did={agent}&order=desc",
            new_tab=True,
        ),
    ]


def trace_links() -> list[Link]:
    """Make the links of a trace id in a list of traces."""
    trace = "${__value.raw:percentencode}"
    return [
        _link("Its timeline, below", f"/d/{AGENTS_UID}?var-trace={trace}&{_SEARCH}&{_KEPT}"),
        _link("In Jaeger", _explore("jaeger", "${traces}", {"query": trace}), new_tab=True),
    ]


def dashboard_links(*, with_services: bool) -> list[DashboardLink]:
    """Make the links at the top of a dashboard: to dashboards with the same tag, and to the services' HTTP APIs."""
    others = (
        _TopLink("Hypervisor telemetry")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
    if not with_services:
        return [others]
    return [
        others,
        _outside("Event index", "${index:raw}/docs", "What event-index can be asked."),
        _outside("Open sagas", "${sagas:raw}/v1/sagas", "The sagas that have not ended, the oldest first."),
    ]


class _TopLink(DashboardLink):
    """A link above the panels; the SDK's own are all in a menu, where nobody looks."""

    def build(self) -> dashboard.DashboardLink:
        made = super().build()
        made.placement = None  # type: ignore[assignment]  # optional in the schema, not in the SDK
        return made


def _outside(title: str, url: str, tooltip: str) -> DashboardLink:
    return (
        _TopLink(title)
        .type(DashboardLinkType.LINK)
        .url(url)
        .tooltip(tooltip)
        .icon("external link")
        .target_blank(True)
    )


def _link(title: str, url: str, *, new_tab: bool = False) -> Link:
    return {"title": title, "url": url, "targetBlank": new_tab}


def _explore(kind: str, uid: str, query: Mapping[str, object]) -> str:
    """Return the address of Grafana's Explore with one query, over the time that the dashboard shows."""
    source = {"type": kind, "uid": uid}
    pane = {
        "datasource": uid,
        "queries": [{"refId": "A", "datasource": source, **query}],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    parts = re.split(r"(\$\{[^}]*\})", json.dumps({"a": pane}, separators=(",", ":")))
    encoded = "".join(part if part.startswith("${") else quote(part, safe="") for part in parts)
    return f"/explore?schemaVersion=1&orgId=${{__org.id}}&panes={encoded}"
