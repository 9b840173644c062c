"""The panels' values of a run, as numbers; `draw_panels.py` makes docs/plots/panels.svg of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from observability.prometheus.log_owned import SERVICE_JOBS
from tests.observability.prometheus import CLUSTER
from tools.dashboards.expressions import expressions

if TYPE_CHECKING:
    from tests.observability.live_run import LiveRun

DRAWN = {
    "Ring Transitions": "a minute",
    "Breach Rate": "a minute",
    "Current Ring Levels": "ring",
    "Elevation Duration": "elevations",
    "Policy Decisions": "decisions",
    "Trust Scores": "score",
    "Evaluation Latency": "ms",
    "Throughput by Result": "records/s",
    "Transactions": "a second",
}
"""Those that are drawn, in their order, and their units."""

RATE = 10
"""Seconds, in place of a minute: the run is short, and scraped each second."""


def panel_values(run: LiveRun) -> list[dict[str, Any]]:
    """By panel: title, unit, whether it shows one moment, and results with points of seconds and values."""
    queries = expressions(
        {
            "cluster": CLUSTER,
            "governance": "governance-metrics",
            "job": "|".join(SERVICE_JOBS),
            "__rate_interval": f"{RATE}s",
            "__range": f"{int(run.ended - run.began) + 1}s",
        }
    )
    panels = []
    for title, unit in DRAWN.items():
        of_panel = [query for query in queries if query.panel == title]
        # A table has a query for each column; the first is what its name says.
        shown = of_panel[:1] if title == "Current Ring Levels" else of_panel
        results = [
            {"name": _name(query.legend, one["metric"]), "points": _points(one["values"], run.began)}
            for query in shown
            for one in run.prometheus.over_time(
                query.expression, run.ended if query.instant else run.began, run.ended, 1
            )
        ]
        panels.append({"title": title, "unit": unit, "is_instant": shown[0].instant, "results": results})
    return panels


def _name(legend: str, labels: dict[str, str]) -> str:
    if legend in {"", "__auto"}:
        return " ".join(text for name, text in sorted(labels.items()) if name != "cluster")
    for name, text in labels.items():
        legend = legend.replace(f"{{{{{name}}}}}", text)
    return legend


def _points(values: list[list[Any]], began: float) -> list[tuple[float, float]]:
    return [(round(at - began, 1), round(float(value), 4)) for at, value in values if value != "NaN"]
