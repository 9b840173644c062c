"""Prometheus' files against what the services declare: names, labels, the rule that blanks `instance`, runbooks."""

from __future__ import annotations

import re
from typing import Any

import promql_parser as promql
import pytest
import yaml

from observability.prometheus.log_owned import AGENT_JOBS, SERVICE_JOBS, log_owned, series_names
from tests.observability.promql import names_in, vector_selectors
from tests.observability.rules import ALERTS, FOLDER, RECORDS, RULES, Rule
from tools.generate_docs import DOCS

SEEDS = {
    "HighRingBreachRate": ("2m", "> 0.5"),
    "ElevationTooLong": ("1m", "> 300"),
    "GovernanceLatencyHigh": ("5m", "> 50"),
}
"""The tutorial's alerts: duration and threshold."""


def configuration(name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return read


def blanked(job: dict[str, Any]) -> dict[str, str]:
    """Return the labels that a job blanks, and on series of which names."""
    rules = job.get("metric_relabel_configs", [])
    assert all(rule["source_labels"] == ["__name__"] and rule["replacement"] == "" for rule in rules)
    return {rule["target_label"]: rule["regex"] for rule in rules}


OF_THE_LOG = {"instance": log_owned(), "pod": log_owned()}


def test_the_services_jobs_blank_what_belongs_to_the_log_and_the_agents_nothing() -> None:
    jobs = {job["job_name"]: blanked(job) for job in configuration("prometheus.yml")["scrape_configs"]}
    assert jobs == {**dict.fromkeys(SERVICE_JOBS, OF_THE_LOG), **{job: {} for job in AGENT_JOBS}}


def test_so_they_do_in_kubernetes() -> None:
    jobs = {job["job_name"]: blanked(job) for job in configuration("prometheus-kubernetes.yml")["scrape_configs"]}
    assert jobs == {"hypervisor-telemetry": OF_THE_LOG, "agents": {}}


def test_the_jobs_in_kubernetes_are_those_of_the_other_configuration() -> None:
    services, agents = configuration("prometheus-kubernetes.yml")["scrape_configs"]
    rules = services["relabel_configs"]
    component = "__meta_kubernetes_pod_label_app_kubernetes_io_component"
    [kept] = [rule["regex"] for rule in rules if rule.get("source_labels") == [component] and "regex" in rule]
    [renamed] = [rule for rule in rules if rule.get("source_labels") == ["job"]]
    names = {renamed["replacement"] if name == renamed["regex"] else name for name in kept.split("|")}
    assert names == set(SERVICE_JOBS)
    [named] = [rule["regex"] for rule in agents["relabel_configs"] if rule.get("target_label") == "job"]
    assert set(named.split("|")) == set(AGENT_JOBS)


def test_what_belongs_to_a_place_is_in_files_and_every_target_has_a_cluster() -> None:
    for job in configuration("prometheus.yml")["scrape_configs"]:
        assert job["file_sd_configs"] == [{"files": [f"targets/{job['job_name']}.yml"]}]
        [group] = configuration(f"targets/{job['job_name']}.yml")
        assert group["targets"]
        assert group["labels"]["cluster"]
    for job in configuration("prometheus-kubernetes.yml")["scrape_configs"]:
        assert [rule["replacement"] for rule in job["relabel_configs"] if rule.get("target_label") == "cluster"]


def test_the_file_for_who_makes_configurations_has_the_same_names() -> None:
    assert configuration("log-owned.yml") == {"regex": log_owned()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
class TestARule:
    def test_is_promql(self, rule: Rule) -> None:
        promql.parse(rule.expression)

    def test_names_metrics_that_somebody_exports(self, rule: Rule) -> None:
        assert names_in(rule.expression)
        assert names_in(rule.expression) <= series_names() | {"up"}

    def test_keeps_clusters_namespaces_and_jobs_apart(self, rule: Rule) -> None:
        """A sum over the services and what agents export themselves would count twice."""
        for labels in re.findall(r"\bby \(([^)]*)\)", rule.expression):
            assert {"cluster", "namespace", "job"} <= {label.strip() for label in labels.split(",")}

    def test_knows_jobs_by_the_names_that_they_have(self, rule: Rule) -> None:
        for selector in vector_selectors(promql.parse(rule.expression)):
            for matcher in selector.matchers.matchers:
                if matcher.name == "job":
                    assert set(matcher.value.split("|")) == set(SERVICE_JOBS)


def test_recorded_names_say_level_metric_and_operations() -> None:
    for rule in RECORDS:
        level, metric, operations = rule.name.split(":")
        assert level.startswith("job")
        assert metric.startswith(("agent_hypervisor_", "agent_governance_"))
        assert operations.endswith("rate5m")


def test_the_tutorials_alerts_have_its_thresholds() -> None:
    found = {alert.name: alert for alert in ALERTS}
    for name, (lasting, threshold) in SEEDS.items():
        assert found[name].lasting == lasting
        assert threshold in " ".join(found[name].expression.split())


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
class TestAnAlert:
    def test_says_what_and_how_bad(self, alert: Rule) -> None:
        assert alert.labels.keys() == {"severity"}
        assert alert.labels["severity"] in {"warning", "critical"}
        assert alert.annotations.keys() == {"summary", "description", "runbook_url"}

    def test_has_a_runbook(self, alert: Rule) -> None:
        page, _, anchor = alert.annotations["runbook_url"].partition("#")
        assert page == "docs/operations.md"
        assert anchor == alert.name.lower()
        text = (DOCS.parent / page).read_text("utf-8")
        [about] = re.findall(rf"^### {alert.name}\n\n(.+?)(?=^##)", text, re.MULTILINE | re.DOTALL)
        assert "*Look:*" in about
        assert "*Do:*" in about


def test_every_runbook_has_an_alert() -> None:
    text = (DOCS / "operations.md").read_text("utf-8")
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert re.findall(r"^### (.+)$", section, re.MULTILINE) == [alert.name for alert in ALERTS]
