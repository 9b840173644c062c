"""The base of both dashboards: title, time, links, variables."""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, VariableModel

from tools.dashboards.links import TAG, dashboard_links

__all__ = ["empty_dashboard"]


def empty_dashboard(
    title: str, uid: str, description: str, variables: Sequence[Builder[VariableModel]], *, with_services: bool
) -> dashboard.Dashboard:
    """Make a dashboard of the last hour; `with_services` adds links to the services' own answers."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .links(list(dashboard_links(with_services=with_services)))
        .variables(list(variables))
    )
