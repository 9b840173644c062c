"""The rules of observability/prometheus, as they stand in their files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "observability" / "prometheus"
RULE_FILES = tuple(sorted((FOLDER / "rules").glob("*.yml")))


@dataclass(frozen=True)
class Rule:
    """A recording rule or an alert."""

    file: str
    name: str
    expression: str
    is_alert: bool
    lasting: str = "0s"
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    annotations: dict[str, str] = field(default_factory=dict, hash=False)


def _rule(file: Path, read: dict[str, Any]) -> Rule:
    return Rule(
        file.name,
        read.get("alert") or read["record"],
        read["expr"],
        "alert" in read,
        read.get("for", "0s"),
        read.get("labels", {}),
        read.get("annotations", {}),
    )


RULES = tuple(
    _rule(file, read)
    for file in RULE_FILES
    for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    for read in group["rules"]
)
ALERTS = tuple(rule for rule in RULES if rule.is_alert)
RECORDS = tuple(rule for rule in RULES if not rule.is_alert)
