"""JSON Schemas of Kubernetes' kinds, for kubeconform, from Go modules.

The kinds of Kubernetes are in its OpenAPI file, those of KEDA and the Prometheus operator in their definitions
(CRDs). In a strict one, no object has a key that its schema doesn't name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.chart import KUBERNETES
from tests.support.go_tools import module

_CRDS = (
    (
        "github.com/kedacore/keda/v2",
        "v2.18.0",
        "config/crd/bases/keda.sh_{}.yaml",
        ("scaledobjects", "triggerauthentications"),
    ),
    (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd/monitoring.coreos.com_{}.yaml",
        ("podmonitors", "servicemonitors", "prometheusrules"),
    ),
)
"""Module, version, the files of its definitions, and those that the chart needs."""

_NUMBERS_OR_TEXTS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
}
"""OpenAPI calls these strings, and the server takes numbers."""


def write_schemas(folder: Path) -> str:
    """Write a file per kind into `folder`; return its location for kubeconform."""
    for group, version, kind, schema in [*_kubernetes_kinds(), *_custom_kinds()]:
        # kubeconform names a kind's file by the first word of its group.
        name = "-".join(filter(None, [kind, group.partition(".")[0], version])).lower()
        (folder / f"{name}.json").write_text(json.dumps(schema), "utf-8")
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def _kubernetes_kinds() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    root = module("k8s.io/kubernetes", f"v{KUBERNETES}")
    openapi = json.loads((root / "api/openapi-spec/swagger.json").read_text("utf-8"))
    definitions = {name: _strict(schema) for name, schema in openapi["definitions"].items()}
    for name, types in _NUMBERS_OR_TEXTS.items():
        definitions[name] = {"type": types}
    for name, schema in definitions.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            needed = {each: definitions[each] for each in _reached(name, definitions)}
            whole = {"$ref": f"#/definitions/{name}", "definitions": needed}
            yield kind["group"], kind["version"], kind["kind"], whole


def _custom_kinds() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    for path, version, file, names in _CRDS:
        for name in names:
            text = (module(path, version) / file.format(name)).read_text("utf-8")
            spec = yaml.load(text, yaml.CSafeLoader)["spec"]
            for each in spec["versions"]:
                schema = _strict(each["schema"]["openAPIV3Schema"])
                # The server knows an object's metadata, whatever a CRD says of it.
                schema["properties"]["metadata"] = {"type": "object"}
                yield spec["group"], each["name"], spec["names"]["kind"], schema


def _strict(schema: Any) -> Any:
    """Return the schema without additional properties."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["string", "integer"]}
    made = {key: _strict(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
    return made


def _reached(name: str, definitions: dict[str, Any]) -> set[str]:
    found, waiting = set(), [name]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += _references(definitions[each])
    return found


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, dict):
        reference = schema.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix("#/definitions/")
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for each in schema:
            yield from _references(each)
