"""The chart under other tools: helm, kubeconform, kube-score. And its committed examples."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.deploy.chart import CHART, KUBERNETES, ci_values, helm, rendered, text
from tests.deploy.kubernetes_schemas import write_schemas
from tests.support.go_tools import tool
from tools.chart_examples import EXAMPLES, example

if TYPE_CHECKING:
    from pathlib import Path

SCORE_IGNORES = {
    "--ignore-container-cpu-limit": "a copy that is throttled misses its heartbeats and is taken for dead",
    "--ignore-test=container-image-pull-policy": "tags of released versions never move; a value makes it Always",
}
"""The findings that kube-score calls critical and the chart keeps, with the reason."""


@pytest.fixture(scope="session")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_schemas(tmp_path_factory.mktemp("schemas"))


def conformity(schemas: str, manifests: str) -> dict[str, Any]:
    command = [
        tool("kubeconform"),
        "-strict",
        "-output",
        "json",
        "-summary",
        "-verbose",
        "-schema-location",
        schemas,
    ]
    ended = subprocess.run(command, input=manifests, capture_output=True, text=True, check=False)
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.mark.parametrize("name", ci_values())
def test_helm_finds_nothing_to_say(name: str):
    values = CHART / "ci" / f"{name}-values.yaml"
    ended = helm("lint", str(CHART), "--strict", "--kube-version", KUBERNETES, "--values", str(values))

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "[WARNING]" not in ended.stdout


@pytest.mark.parametrize("name", ci_values())
def test_every_object_is_one_that_kubernetes_keda_and_the_operator_know(name: str, schemas: str):
    told = conformity(schemas, text(name))

    wrong = [each for each in told["resources"] if each["status"] != "statusValid"]
    assert not wrong
    assert told["summary"]["valid"] == len(rendered(name).objects)


def test_a_key_that_kubernetes_does_not_know_would_be_found(schemas: str):
    for kind, name in (("Deployment", "full"), ("ScaledObject", "full"), ("PodMonitor", "strimzi")):
        wrong = dict(rendered(name).all(kind)[0])
        wrong["spec"] = {**wrong["spec"], "replica": 1}
        [told] = conformity(schemas, yaml.safe_dump(wrong))["resources"]
        assert told["status"] == "statusInvalid"
        assert "replica" in told["msg"]


@pytest.mark.parametrize("name", ci_values())
def test_kube_score_finds_nothing_critical(name: str):
    command = [tool("kube-score"), "score", "--output-format", "json", *SCORE_IGNORES, "-"]
    ended = subprocess.run(command, input=text(name), capture_output=True, text=True, check=False)

    scored = json.loads(ended.stdout)
    critical = [
        f"{each['object_name']}: {check['check']['id']}: {check['comments']}"
        for each in scored
        for check in each["checks"]
        if not check["skipped"] and check["grade"] == 1
    ]
    assert not critical
    assert {each["type_meta"]["kind"] for each in scored} >= {"Deployment", "Job", "Service", "NetworkPolicy"}
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_what_helm_renders(name: str):
    assert (CHART / "examples" / f"{name}.yaml").read_text("utf-8") == example(name), "run `make chart`"


def test_the_package_has_what_is_needed_and_no_more(tmp_path: Path):
    made = helm("package", str(CHART), "--destination", str(tmp_path))
    assert made.returncode == 0, made.stderr
    [package] = tmp_path.iterdir()
    listed = subprocess.run(["tar", "tzf", package], capture_output=True, text=True, check=True).stdout.split()

    folders = {name.removeprefix("hypervisor-telemetry/").partition("/")[0] for name in listed}
    assert folders == {
        "Chart.yaml",
        "values.yaml",
        "values.schema.json",
        "README.md",
        ".helmignore",
        "templates",
        "files",
    }
    # Rules and dashboards are in it, not links to them.
    values = CHART / "ci" / "monitoring-values.yaml"
    options = ("--namespace", "telemetry", "--kube-version", KUBERNETES, "--values", str(values))
    assert helm("template", "telemetry", str(package), *options).stdout == text("monitoring")


def test_notes_say_what_to_do_next(tmp_path: Path):
    # Notes are rendered by an install alone, which asks a cluster. So here they are a template like others.
    shutil.copytree(CHART, tmp_path / "chart")
    templates = tmp_path / "chart" / "templates"
    text_of_notes = (templates / "NOTES.txt").read_text("utf-8")
    (templates / "_notes.tpl").write_text('{{ define "notes" }}' + text_of_notes + "{{ end }}", "utf-8")
    (templates / "notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | toJson }}\n', "utf-8")

    def notes(name: str, *more: str) -> str:
        values = CHART / "ci" / f"{name}-values.yaml"
        options = ("--namespace", "telemetry", "--kube-version", KUBERNETES, "--values", str(values), *more)
        ended = helm(
            "template", "telemetry", str(tmp_path / "chart"), "--show-only", "templates/notes.yaml", *options
        )
        assert ended.returncode == 0, ended.stderr
        told: str = yaml.safe_load(ended.stdout)["text"]
        return told

    minimal, full, metrics = notes("minimal"), notes("full"), notes("metrics")
    for each in (minimal, full, metrics):
        assert "helm -n telemetry test telemetry --logs" in each
        assert "rollout status deployment/telemetry-hypervisor-telemetry-ring-metrics" in each
    assert "KAFKA_BOOTSTRAP_SERVERS=kafka:9092\n" in minimal
    assert "jsonpath='{.data.api-token}'" in minimal
    assert "It is kept in SQLite" in minimal
    assert "saga-spans writes its spans to its log" in minimal
    assert "get secret telemetry-api -o jsonpath='{.data.token}'" in full
    assert "https://telemetry.example.com/v1" in full
    assert "TELEMETRY_TOPIC_PREFIX=production.\n" in full
    assert "topics.apply is off" in metrics
    assert "query stats" not in metrics
    assert "tokens cross the net as plain text" in notes("full", "--set", "ingress.tlsSecret=")
