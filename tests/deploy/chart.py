"""The chart, as helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.go_tools import tool

CHART = Path(__file__).parents[2] / "helm" / "hypervisor-telemetry"
KUBERNETES = "1.34.1"
"""The Kubernetes version that the chart is rendered for and checked against."""

COMMANDS = ("ring-metrics", "saga-spans", "event-index", "governance-metrics")
KEYS = dict(zip(COMMANDS, ("ringMetrics", "sagaSpans", "eventIndex", "governanceMetrics"), strict=True))
NAME = "telemetry-hypervisor-telemetry"
"""The prefix of all names in the release `telemetry`."""


def ci_values() -> list[str]:
    """Return the names of ci/*-values.yaml, without the ending."""
    return sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))


def helm(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("helm"), *args], capture_output=True, text=True, check=False)


@cache
def text(name: str, *more: str) -> str:
    """Return the output of `helm template` for ci/NAME-values.yaml, with more options."""
    ended = _template(name, *more)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def refusal(name: str, *settings: str) -> str:
    """Return helm's error for ci/NAME-values.yaml with these `KEY=VALUE` over them."""
    ended = _template(name, *_sets(settings))
    assert ended.returncode != 0, "helm has rendered it"
    return ended.stderr


def rendered(name: str, *settings: str) -> Rendered:
    """Render ci/NAME-values.yaml with these `KEY=VALUE` over them."""
    return Rendered([each for each in yaml.safe_load_all(text(name, *_sets(settings))) if each])


@dataclass(frozen=True, slots=True)
class Rendered:
    """The rendered objects of Kubernetes."""

    objects: Sequence[dict[str, Any]]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = "") -> dict[str, Any]:
        """Return the only object of a kind whose name is that of the release, `-` and `name`."""
        full = f"{NAME}-{name}" if name else NAME
        [found] = [each for each in self.all(kind) if each["metadata"]["name"] == full]
        return found

    def pod(self, command: str) -> dict[str, Any]:
        """Return the pod's spec of a service."""
        spec: dict[str, Any] = self.one("Deployment", command)["spec"]["template"]["spec"]
        return spec

    def container(self, command: str) -> dict[str, Any]:
        [found] = self.pod(command)["containers"]
        return dict(found)

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield every pod's spec, of services and jobs, with its object's name."""
        for each in [*self.all("Deployment"), *self.all("Job")]:
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]

    def environ(self, container: Mapping[str, Any]) -> dict[str, Any]:
        """Return the variables: name -> text, or (Secret, key) if it comes from one."""
        found: dict[str, Any] = {}
        for source in container.get("envFrom", ()):
            [config] = [
                each for each in self.all("ConfigMap") if each["metadata"]["name"] == source["configMapRef"]["name"]
            ]
            found.update(config["data"])
        for variable in container.get("env", ()):
            if "valueFrom" in variable:
                place = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = (place["name"], place["key"])
            else:
                found[variable["name"]] = variable["value"]
        return found


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values as helm does."""
    both = dict(values)
    for key, value in over.items():
        is_both = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merged(both[key], value) if is_both else value
    return both


def _sets(settings: Sequence[str]) -> list[str]:
    return [part for setting in settings for part in ("--set-json" if _is_json(setting) else "--set", setting)]


def _is_json(setting: str) -> bool:
    return setting.partition("=")[2][:1] in {"[", "{", '"'}


def _template(name: str, *more: str) -> subprocess.CompletedProcess[str]:
    values = CHART / "ci" / f"{name}-values.yaml"
    options = ("--namespace", "telemetry", "--kube-version", KUBERNETES, "--values", str(values))
    return helm("template", "telemetry", str(CHART), *options, *more)
