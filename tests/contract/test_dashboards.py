"""The dashboards say what the code says: their metrics, labels, links and addresses are those of the services."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain, combinations
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qs, unquote, urlsplit

import promql_parser
import pytest
import yaml
from fastapi import FastAPI

from hypervisor_consumers.event_index.api import routes as index_api
from hypervisor_consumers.event_index.metric_defs import INDEX_METRICS
from hypervisor_consumers.governance_metrics.metric_defs import CHOSEN_LABELS, GOVERNANCE_METRICS
from hypervisor_consumers.ring_metrics.metric_defs import RING_METRICS
from hypervisor_consumers.runtime.ops.runtime_metric_defs import SELF_METRICS
from hypervisor_consumers.saga_spans import routes as saga_api
from hypervisor_consumers.saga_spans.metric_defs import SAGA_METRICS
from hypervisor_consumers.saga_spans.otel import ADDED_NAMES
from hypervisor_producers.governance.errors import GOVERNANCE_OVERFLOW, GOVERNANCE_TROUBLES
from hypervisor_producers.metrics import PUBLISHER_METRICS
from tools.dashboards.__main__ import FOLDER
from tools.dashboards.dashboard_files import FILES, text
from tools.dashboards.expressions import PanelQuery, expressions, filled, variable_queries

ROOT = Path(__file__).parent.parent.parent
PROVISIONING = FOLDER.parent / "provisioning"
QUERIES = expressions()
MADE: list[dict[str, Any]] = [json.loads(text(name)) for name in FILES]

OF_THE_SCRAPE = {"cluster", "job"}
"""Labels that Prometheus adds to every series."""
OF_PROMETHEUS = {"up": set[str]()}

NOT_SHOWN = dict[str, str]()
"""Declared metrics that are on no dashboard, with the reason."""


def declared() -> dict[str, tuple[str, set[str]]]:
    """Return every metric of the services and the agents, with its type and the labels of its series."""
    declared = (*RING_METRICS, *SAGA_METRICS, *GOVERNANCE_METRICS, *INDEX_METRICS, *SELF_METRICS)
    known = {metric.name: (metric.type, {*metric.labels, "partition"}) for metric in declared}
    for name, (kind, labels) in known.items():
        if "decision" in labels:
            known[name] = (kind, labels | set(CHOSEN_LABELS))
    for one in PUBLISHER_METRICS:
        known[one.name] = ("counter" if one.is_counter else "gauge", {"reason"})
    for one_name, labels in ((GOVERNANCE_TROUBLES[0], {"reason"}), (GOVERNANCE_OVERFLOW[0], set[str]())):
        known[f"{one_name}_total"] = ("counter", labels)
    return known


DECLARED = declared()


def family(name: str) -> str:
    """Return the metric that a series of this name belongs to."""
    whole = re.sub(r"_(bucket|sum|count)$", "", name)
    return whole if DECLARED.get(whole, ("",))[0] == "histogram" else name


def nodes(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """Yield every node of a parsed expression, with the nodes around it."""
    yield node, above
    below = (getattr(node, name, None) for name in ("lhs", "rhs", "expr", "param", "vector_selector"))
    for one in (*below, *getattr(node, "args", ())):
        if one is not None:
            yield from nodes(one, (*above, node))


def selectors(query: PanelQuery) -> Iterator[tuple[str, set[str], tuple[Any, ...]]]:
    """Yield each selector of a query: the metric's name, the matched labels, the nodes around it."""
    for node, above in nodes(promql_parser.parse(query.expression)):
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name, {matcher.name for matcher in node.matchers.matchers}, above


def panels(made: dict[str, Any]) -> list[dict[str, Any]]:
    """Yield the panels of a dashboard, also those in closed rows, without the rows."""
    inner = chain.from_iterable((panel, *panel.get("panels", ())) for panel in made["panels"])
    return [panel for panel in inner if panel["type"] != "row"]


def texts(node: Any) -> Iterator[str]:
    """Yield every text in a piece of JSON."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        yield from chain.from_iterable(map(texts, node.values()))
    elif isinstance(node, list):
        yield from chain.from_iterable(map(texts, node))


def every(kind: str) -> list[dict[str, Any]]:
    return [panel for made in MADE for panel in panels(made) if panel["type"] == kind]


@pytest.mark.parametrize("name", FILES)
def test_a_committed_dashboard_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == text(name), "run `make docs`"


def test_no_other_dashboard_lies_beside_them() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(FILES)


@pytest.mark.parametrize("query", QUERIES + variable_queries(), ids=lambda query: f"{query.panel}-{query.ref_id}")
class TestExpressions:
    def test_it_asks_for_declared_metrics_by_labels_that_they_have(self, query: PanelQuery) -> None:
        for name, matched, _ in selectors(query):
            if name:
                labels = OF_PROMETHEUS[name] if name in OF_PROMETHEUS else DECLARED[family(name)][1]
                assert matched <= labels | OF_THE_SCRAPE

    def test_what_spans_partitions_is_summed_over_them(self, query: PanelQuery) -> None:
        if query.panel.startswith("$"):
            return
        for _, _, above in selectors(query):
            around = [node.modifier for node in above if isinstance(node, promql_parser.AggregateExpr)]
            assert around
            for modifier in around:
                assert modifier is None or (str(modifier).startswith("by") and "partition" not in modifier.labels)

    def test_a_histogram_is_asked_for_its_buckets_and_a_counter_for_its_rate(self, query: PanelQuery) -> None:
        for name, _, above in selectors(query):
            kind = DECLARED.get(family(name or ""), ("gauge",))[0]
            called = {node.func.name for node in above if isinstance(node, promql_parser.Call)}
            if kind == "histogram" and not query.panel.startswith("$"):
                assert name.endswith("_bucket")
                assert called & {"rate", "increase"}
            if kind == "counter" and query.panel != "The Account" and not query.panel.startswith("$"):
                assert called & {"rate", "increase"}


def test_a_legend_names_labels_that_the_expression_leaves() -> None:
    for query in QUERIES:
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query.expression))))
        assert set(re.findall(r"{{(\w+)}}", query.legend)) <= kept, query.panel


def test_a_range_is_grafanas_own() -> None:
    asked = [
        target["expr"] for made in MADE for panel in panels(made) for target in panel["targets"] if "expr" in target
    ]
    ranges = [re.findall(r"\[([^\]]+)\]", one) for one in asked]
    assert set(chain.from_iterable(ranges)) == {"$__rate_interval", "$__range"}
    assert filled("rate(x[$__rate_interval])", {"__rate_interval": "90s"}) == "rate(x[90s])"


def test_a_variable_without_a_value_is_told() -> None:
    with pytest.raises(ValueError, match=r"\$tenant has no value"):
        filled('up{tenant="$tenant"}')


def test_every_declared_metric_is_on_a_dashboard() -> None:
    shown = {family(name) for query in QUERIES for name, _, _ in selectors(query)}
    assert set(DECLARED) - shown == set(NOT_SHOWN)


def test_governance_is_counted_by_one_job_at_a_time() -> None:
    """Agents' own processes and governance-metrics show metrics of the same names."""
    only_the_service = {"agent_governance_denials_total"}
    for made in MADE:
        for panel in panels(made):
            for target in panel.get("targets", ()):
                for selector in re.findall(r"(agent_governance_\w+){([^}]*)}", target.get("expr", "")):
                    assert 'job=~"$governance"' in selector[1] or selector[0] in only_the_service
    [governance] = [one for one in MADE[0]["templating"]["list"] if one["name"] == "governance"]
    assert governance["includeAll"] is False
    assert governance["current"]["value"] == ["governance-metrics"]


def test_the_tutorials_panels_stand_where_it_draws_them() -> None:
    by_title = {panel["title"]: panel for panel in panels(MADE[0])}
    drawn = [
        [("Ring Transitions", "timeseries"), ("Breach Rate", "stat"), ("Current Ring Levels", "table")],
        [("Elevation Duration", "bargauge"), ("Policy Decisions", "piechart"), ("Trust Scores", "gauge")],
        [("Saga Span Timeline", "traces")],
    ]
    heights = []
    for row in drawn:
        found = [by_title[title] for title, _ in row]
        assert [panel["type"] for panel in found] == [kind for _, kind in row]
        assert len({panel["gridPos"]["y"] for panel in found}) == 1
        assert [panel["gridPos"]["x"] for panel in found] == sorted(panel["gridPos"]["x"] for panel in found)
        assert sum(panel["gridPos"]["w"] for panel in found) == 24
        heights.append(found[0]["gridPos"]["y"])
    assert heights == sorted(heights)
    assert by_title["Trust Scores"]["fieldConfig"]["defaults"]["max"] == 1000
    [rings] = [
        override["properties"][0]["value"][0]["options"]
        for override in by_title["Current Ring Levels"]["fieldConfig"]["overrides"]
        if override["matcher"]["options"] == "Ring"
    ]
    assert [(value, one["text"]) for value, one in rings.items()] == [
        ("0", "0 root"),
        ("1", "1 privileged"),
        ("2", "2 standard"),
        ("3", "3 sandbox"),
    ]


@pytest.mark.parametrize("made", MADE, ids=lambda made: made["uid"])
class TestDashboards:
    def test_every_panel_says_what_it_shows_in_which_unit_from_which_source(self, made: dict[str, Any]) -> None:
        sources = {one["name"] for one in made["templating"]["list"] if one["type"] == "datasource"}
        for panel in panels(made):
            assert panel["title"]
            assert len(panel["description"]) > 20
            assert panel["fieldConfig"]["defaults"]["unit"]
            for one in (panel, *panel["targets"]):
                assert re.fullmatch(r"\$\{(\w+)\}", one["datasource"]["uid"]).group(1) in sources  # type: ignore[union-attr]

    def test_panels_lie_side_by_side(self, made: dict[str, Any]) -> None:
        placed = [panel["gridPos"] for panel in made["panels"]]
        for one in placed:
            assert 0 <= one["x"] < one["x"] + one["w"] <= 24
        for one, other in combinations(placed, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]

    def test_ids_and_titles_are_unique(self, made: dict[str, Any]) -> None:
        everything = [*panels(made), *(panel for panel in made["panels"] if panel["type"] == "row")]
        assert len({panel["id"] for panel in everything}) == len(everything)
        assert len({panel["title"] for panel in everything}) == len(everything)

    def test_every_variable_that_is_used_is_declared_and_every_declared_one_is_used(
        self, made: dict[str, Any]
    ) -> None:
        names = {one["name"] for one in made["templating"]["list"]}
        used = set(chain.from_iterable(re.findall(r"\$\{?([A-Za-z_]\w*)", one) for one in texts(made)))
        assert {name for name in used if not name.startswith("__")} == names

    def test_all_is_a_matcher_that_fits_everything(self, made: dict[str, Any]) -> None:
        for one in made["templating"]["list"]:
            if one["name"] in {"cluster", "agent", "session"}:
                assert (one["multi"], one["includeAll"], one["allValue"]) == (True, True, ".*")

    def test_dashboards_link_to_each_other(self, made: dict[str, Any]) -> None:
        [link] = [link for link in made["links"] if link["type"] == "dashboards"]
        assert set(link["tags"]) <= set(made["tags"])
        assert (link["includeVars"], link["keepTime"]) == (True, True)


LINKS: list[str] = [
    link["url"]
    for made in MADE
    for panel in panels(made)
    for override in panel["fieldConfig"]["overrides"]
    for one in override["properties"]
    if one["id"] == "links"
    for link in one["value"]
]


class TestLinks:
    def test_dashboards_that_are_linked_exist(self) -> None:
        linked = {urlsplit(link).path for link in LINKS if link.startswith("/d/")}
        assert linked <= {f"/d/{made['uid']}" for made in MADE}
        assert linked

    def test_addresses_of_the_services_are_answered_by_them(self) -> None:
        index, sagas = FastAPI(), FastAPI()
        nothing: Any = Mock()  # no question is asked
        index.include_router(index_api.create_router(*[nothing] * len_of(index_api.create_router)))
        sagas.include_router(saga_api.create_router(*[nothing] * len_of(saga_api.create_router)))
        for prefix, app, at_least in (("${index:raw}", index, 2), ("${sagas:raw}", sagas, 1)):
            paths = app.openapi()["paths"]
            asked = {link.removeprefix(prefix) for link in LINKS if link.startswith(prefix)}
            assert len(asked) >= at_least
            for one in asked:
                path, _, query = one.partition("?")
                told = paths[re.sub(r"\$\{[^}]+\}", "{agent_did}", path)]["get"]
                known = {parameter["name"] for parameter in told["parameters"] if parameter["in"] == "query"}
                assert set(parse_qs(query)) <= known

    def test_explore_asks_for_the_attribute_that_spans_have(self) -> None:
        asked = []
        for link in LINKS:
            if link.startswith("/explore"):
                [panes] = parse_qs(link.replace("${", "%24%7B").partition("?")[2])["panes"]
                [query] = json.loads(unquote(panes))["a"]["queries"]
                asked.append((query["datasource"]["type"], query.get("tags") or query["query"]))
        agent, trace = "${__value.raw:percentencode}", "${__value.raw:percentencode}"
        assert "agent.did" in ADDED_NAMES
        assert ("jaeger", f'agent.did="{agent}"') in asked
        assert ("tempo", f'{{ span.agent.did = "{agent}" }}') in asked
        assert ("jaeger", trace) in asked


SOURCES = yaml.safe_load((PROVISIONING / "datasources" / "hypervisor-telemetry.yml").read_text("utf-8"))
PROVIDERS = yaml.safe_load((PROVISIONING / "dashboards" / "hypervisor-telemetry.yml").read_text("utf-8"))


class TestProvisioning:
    def test_the_sources_are_of_the_kinds_that_the_dashboards_ask(self) -> None:
        kinds = {one["query"] for made in MADE for one in made["templating"]["list"] if one["type"] == "datasource"}
        assert {source["type"] for source in SOURCES["datasources"]} == kinds - {"tempo"}

    def test_an_exemplar_leads_to_a_source_that_is_there(self) -> None:
        uids = {source["uid"]: source for source in SOURCES["datasources"]}
        assert len(uids) == len(SOURCES["datasources"])
        [prometheus] = [source for source in uids.values() if source["type"] == "prometheus"]
        [exemplar] = prometheus["jsonData"]["exemplarTraceIdDestinations"]
        assert uids[exemplar["datasourceUid"]]["type"] == "jaeger"
        assert exemplar["name"] == "trace_id"

    def test_addresses_come_from_variables_with_a_default_for_compose(self) -> None:
        lines = (FOLDER.parent / "grafana.env").read_text("utf-8").splitlines()
        defaults = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        assert {source["url"].removeprefix("$") for source in SOURCES["datasources"]} == set(defaults)
        assert defaults == {"PROMETHEUS_URL": "http://prometheus:9090", "JAEGER_URL": "http://jaeger:16686"}

    def test_dashboards_are_read_from_the_folder_that_is_mounted(self) -> None:
        [provider] = PROVIDERS["providers"]
        assert provider["type"] == "file"
        mounted = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]["grafana"]
        assert f"./observability/grafana/dashboards:{provider['options']['path']}:ro" in mounted["volumes"]
        assert "./observability/grafana/provisioning:/etc/grafana/provisioning:ro" in mounted["volumes"]
        assert mounted["env_file"] == "observability/grafana/grafana.env"


def len_of(function: Any) -> int:
    return int(function.__code__.co_argcount)
