"""Monitors, rules and dashboards: the files of observability/, not copies."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.deploy.chart import CHART, COMMANDS, ci_values, rendered

OBSERVABILITY = CHART.parents[1] / "observability"
JOBS = {**{command: command for command in COMMANDS}, "ring-metrics": "agent-hypervisor"}
"""Prometheus' label, as in prometheus.yml."""


@pytest.mark.parametrize(
    ("name", "kind", "list_"),
    [
        ("strimzi", "PodMonitor", "podMetricsEndpoints"),
        ("monitoring", "ServiceMonitor", "endpoints"),
    ],
)
def test_there_is_a_monitor_per_service_that_finds_it(name: str, kind: str, list_: str):
    chart = rendered(name)

    assert len(chart.all(kind)) == len(COMMANDS)
    for command in COMMANDS:
        monitor = chart.one(kind, command)
        target = chart.one("Service", command) if kind == "ServiceMonitor" else chart.one("Deployment", command)
        labels = (
            target["metadata"]["labels"]
            if kind == "ServiceMonitor"
            else target["spec"]["template"]["metadata"]["labels"]
        )
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        [endpoint] = monitor["spec"][list_]
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
        assert {each["targetLabel"]: each["replacement"] for each in endpoint["relabelings"]} == {
            "job": JOBS[command],
            "release": "telemetry",
            "cluster": "production" if name == "monitoring" else "default",
        }


@pytest.mark.parametrize(("name", "list_"), [("strimzi", "podMetricsEndpoints"), ("monitoring", "endpoints")])
def test_monitors_blank_instance_and_pod_on_what_belongs_to_the_log(name: str, list_: str):
    owned = yaml.safe_load((OBSERVABILITY / "prometheus" / "log-owned.yml").read_text("utf-8"))
    monitors = [each for each in rendered(name).objects if each["kind"].endswith("Monitor")]

    for monitor in monitors:
        [endpoint] = monitor["spec"][list_]
        assert endpoint["metricRelabelings"] == [
            {"sourceLabels": ["__name__"], "regex": owned["regex"], "targetLabel": label, "replacement": ""}
            for label in ("instance", "pod")
        ]


def test_rules_are_those_of_the_repository():
    chart = rendered("monitoring")
    files = {path.stem: path for path in (OBSERVABILITY / "prometheus" / "rules").glob("*.yml")}

    assert files
    assert len(chart.all("PrometheusRule")) == len(files)
    for stem, path in files.items():
        rule = chart.one("PrometheusRule", stem)
        assert rule["spec"] == yaml.safe_load(path.read_text("utf-8"))
        assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_runbooks_are_where_they_are_told_to_be():
    where = "https://wiki.example.com/operations"
    chart = rendered("monitoring", f"monitoring.rules.runbooks={where}")
    urls = [
        rule["annotations"]["runbook_url"]
        for one in chart.all("PrometheusRule")
        for group in one["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]

    assert urls
    assert all(url.startswith(f"{where}#") for url in urls)


def test_dashboards_are_those_of_the_repository():
    chart = rendered("monitoring")
    files = {path.stem: path for path in (OBSERVABILITY / "grafana" / "dashboards").glob("*.json")}

    assert files
    for stem, path in files.items():
        config = chart.one("ConfigMap", stem)
        assert json.loads(config["data"][path.name]) == json.loads(path.read_text("utf-8"))
        assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert config["metadata"]["annotations"] == {"grafana_folder": "Agents"}
        # Kubernetes keeps no larger object.
        assert path.stat().st_size < 900_000


@pytest.mark.parametrize("name", sorted(set(ci_values()) - {"strimzi", "monitoring"}))
def test_without_being_asked_for_there_is_none_of_it(name: str):
    kinds = {each["kind"] for each in rendered(name).objects}

    assert not kinds & {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
    assert len(rendered(name).all("ConfigMap")) == 1


def test_what_the_chart_takes_are_links_to_the_one_source():
    links = {path.name: path.resolve() for path in (CHART / "files").iterdir() if path.is_symlink()}

    assert links == {
        "rules": (OBSERVABILITY / "prometheus" / "rules").resolve(),
        "log-owned.yml": (OBSERVABILITY / "prometheus" / "log-owned.yml").resolve(),
        "dashboards": (OBSERVABILITY / "grafana" / "dashboards").resolve(),
    }
    assert not any(path.is_absolute() for path in (each.readlink() for each in (CHART / "files").iterdir()))
