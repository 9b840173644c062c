"""The chart's README, made from the comments of values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tests.deploy.chart import CHART
from tools.markdown import table

_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml: its dotted path, its comment, its default."""

    path: str
    meaning: str
    default: Any


def described_values(text: str) -> Iterator[Value]:
    """Find every key with a comment above it, in the file's order."""
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        key = _KEY.match(line)
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif key is None:
            comment = []
        else:
            path = [*path[: len(key[1]) // 2], key[2]]
            if comment:
                yield Value(".".join(path), " ".join(comment), _at(values, path))
            comment = []


def undescribed(text: str) -> list[str]:
    """Find keys without a description: no comment above them, nor above a key that contains them."""
    described = {value.path for value in described_values(text)}
    parents = {path.rpartition(".")[0] for path in described}

    def missing(values: Mapping[str, Any], path: str) -> Iterator[str]:
        for key, value in values.items():
            here = f"{path}.{key}" if path else key
            if here not in described and (path in parents or path not in described):
                yield here
            if isinstance(value, dict) and here in parents:
                yield from missing(value, here)

    return list(missing(yaml.safe_load(text), ""))


def readme() -> str:
    """Return the whole page."""
    found = list(described_values((CHART / "values.yaml").read_text("utf-8")))
    parents = {value.path.rpartition(".")[0] for value in found}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))
    parts = [_HEAD.format(version=chart["version"], kubernetes=chart["kubeVersion"].removesuffix("-0"))]
    rows: list[tuple[str, ...]] = []
    for value in found:
        is_section = value.path in parents
        if is_section and "." not in value.path:
            parts += _flushed(rows)
            parts.append(f"\n### {value.path}\n\n{value.meaning}\n\n")
        elif "." not in value.path and parts[-1].startswith("\n### ") and parts[-1] != _MORE:
            parts += [*_flushed(rows), _MORE]
            rows.append(_row(value, is_section=False))
        else:
            rows.append(_row(value, is_section=is_section))
    return "".join([*parts, *_flushed(rows)])


def _flushed(rows: list[tuple[str, ...]]) -> list[str]:
    made = [table(("value", "default", "meaning"), rows)] if rows else []
    rows.clear()
    return made


def _row(value: Value, *, is_section: bool) -> tuple[str, ...]:
    if is_section or value.default in ("", None, [], {}):
        return f"`{value.path}`", "", value.meaning
    text = json.dumps(value.default) if isinstance(value.default, dict | list | bool) else str(value.default)
    return f"`{value.path}`", f"`{text}`", value.meaning


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


_MORE = "\n### More\n\n"
_HEAD = """\
# hypervisor-telemetry, the chart

<!-- Made by `make docs` from values.yaml; edit it there. -->

Version {version}, for Kubernetes {kubernetes}. It runs the four services on a Kafka that you have; it
installs none. [Operations](../../docs/operations.md#installing-with-helm) says how to install, upgrade and operate
it.

```sh
kubectl create namespace telemetry
kubectl -n telemetry create secret generic telemetry-api --from-literal=token="$(openssl rand -hex 24)"
helm -n telemetry install telemetry ./helm/hypervisor-telemetry --wait --timeout 10m \\
  --set image.repository=registry.example.com/hypervisor-telemetry \\
  --set kafka.bootstrapServers=kafka:9092 --set api.existingSecret.name=telemetry-api
```

[ci/](ci) has values that are tested. [examples/](examples) has the objects that some of them make, and a Kafka by
Strimzi. Combinations that can't work are refused with a sentence; the schema refuses keys that don't exist.

Optional: [KEDA](https://keda.sh) for `autoscaling.type: keda`, the Prometheus operator for `monitoring`. Their
objects are checked against the definitions of KEDA 2.18 and the operator 0.85.

## Values

"""
