"""The PromQL expressions of the dashboards, with values for their variables: to parse, or to query a Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tools.dashboards.dashboard_files import FILES, text

__all__ = ["DEFAULTS", "PanelQuery", "expressions", "filled", "variable_queries"]

DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "cluster": ".*",
        "agent": ".*",
        "session": ".*",
        "governance": ".*",
        "job": ".*",
        "__rate_interval": "1m",
        "__range": "1h",
    }
)
"""The default value of each variable: everything, with a scrape interval of 15 s."""


@dataclass(frozen=True, slots=True)
class PanelQuery:
    """One query of a panel."""

    dashboard: str
    """The dashboard's uid."""
    panel: str
    """The panel's title."""
    ref_id: str
    """A, B, …"""
    expression: str
    legend: str
    """Grafana's template of the legend."""
    instant: bool
    """Whether it is a query for the end of the time that is shown; else it is one over that time."""


def expressions(values: Mapping[str, str] = MappingProxyType({})) -> list[PanelQuery]:
    """List every query of every panel that queries Prometheus.

    Args:
        values: By variable, without the `$`: `{"governance": "governance-metrics", "__rate_interval": "30s"}`. A
            variable that isn't here has its value of `DEFAULTS`.

    Raises:
        ValueError: An expression has a variable that has no value.
    """
    return [
        PanelQuery(
            uid,
            panel["title"],
            target["refId"],
            filled(target["expr"], values),
            target["legendFormat"],
            bool(target.get("instant")),
        )
        for uid, panel in _panels()
        for target in panel.get("targets", ())
        if "expr" in target
    ]


def variable_queries(values: Mapping[str, str] = MappingProxyType({})) -> list[PanelQuery]:
    """List the selectors in the queries of the variables themselves, `label_values(…)` and `query_result(…)`."""
    return [
        PanelQuery(made["uid"], f"${variable['name']}", "A", _selector(filled(variable["query"], values)), "", True)
        for made in map(json.loads, map(text, FILES))
        for variable in made["templating"]["list"]
        if variable["type"] == "query"
    ]


def filled(expression: str, values: Mapping[str, str] = MappingProxyType({})) -> str:
    """Replace each `$name` of an expression by its value.

    Raises:
        ValueError: A variable has no value.
    """

    def value(found: re.Match[str]) -> str:
        name = found.group(1)
        if name not in known:
            raise ValueError(f"The variable ${name} has no value; give it one in `values`: {expression}")
        return known[name]

    known = {**DEFAULTS, **values}
    return re.sub(r"\$([A-Za-z_]\w*)", value, expression)


def _panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for made in map(json.loads, map(text, FILES)):
        for panel in made["panels"]:
            for each in (panel, *panel.get("panels", ())):
                yield made["uid"], each


def _selector(query: str) -> str:
    found = re.fullmatch(r"label_values\((.+), \w+\)|query_result\((.+)\)", query)
    if found is None:
        raise ValueError(
            f"This query of a variable is neither label_values(selector, label) nor query_result(…): {query}"
        )
    return found.group(1) or found.group(2)
