"""Prometheus' own tool on the configurations, the rules and their tests."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.observability.prometheus import promtool
from tests.observability.rules import FOLDER, RULE_FILES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.full

TESTS = sorted((FOLDER / "tests").glob("*.yml"))

SEEDS = {
    "HighRingBreachRate": "rate(agent_hypervisor_ring_breaches_total[5m]) > 0.5",
    "ElevationTooLong": "agent_hypervisor_ring_elevation_duration_seconds > 300",
    "GovernanceLatencyHigh": "histogram_quantile(0.99, agent_governance_evaluation_latency_ms) > 50",
}
"""The tutorial's expressions, which the tests must not let through."""


def test_the_configuration_and_its_rules_are_valid() -> None:
    done = promtool("check", "config", FOLDER / "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert "rules found" in done.stdout
    assert "WARNING" not in done.stdout + done.stderr


def test_the_configuration_for_kubernetes_is_valid(tmp_path: Path) -> None:
    done = promtool("check", "config", FOLDER / "prometheus-kubernetes.yml")
    if "kubernetes_sd_configs not found" in done.stderr:
        # Debian builds Prometheus without this discovery: the rest is checked with another in its place.
        read: dict[str, Any] = yaml.safe_load((FOLDER / "prometheus-kubernetes.yml").read_text("utf-8"))
        for job in read["scrape_configs"]:
            assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
            job["static_configs"] = [{"targets": ["localhost:1"]}]
        copy = tmp_path / "prometheus.yml"
        copy.write_text(yaml.safe_dump(read), "utf-8")
        for folder in ("rules", "targets"):
            (tmp_path / folder).symlink_to(FOLDER / folder)
        done = promtool("check", "config", copy)
    assert done.returncode == 0, done.stderr


def test_the_rules_are_valid_and_none_is_there_twice() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULE_FILES)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_do_what_their_tests_say(file: Path) -> None:
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SEEDS)
def test_the_tests_find_the_faults_of_the_tutorials_expressions(name: str, tmp_path: Path) -> None:
    rules: dict[str, Any] = yaml.safe_load((FOLDER / "rules" / "agents.yml").read_text("utf-8"))
    [alert] = [rule for group in rules["groups"] for rule in group["rules"] if rule["alert"] == name]
    alert["expr"] = SEEDS[name]
    for folder in ("rules", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "rules" / "agents.yml").write_text(yaml.safe_dump(rules), "utf-8")
    shutil.copy(FOLDER / "tests" / "agents.yml", tmp_path / "tests")
    done = promtool("test", "rules", tmp_path / "tests" / "agents.yml")
    assert done.returncode != 0
    assert name in done.stdout + done.stderr
