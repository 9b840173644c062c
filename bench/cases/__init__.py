"""Each module measures one thing: `measure(setting)` gives its rows, and curves for plots."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from bench.setting import Case

__all__ = ["CASES", "case"]

CASES: Mapping[str, str] = {
    "pipeline": "ring-metrics end to end",
    "sagas": "saga-spans end to end",
    "governing": "governance-metrics end to end",
    "growth": "ring-metrics as work grows",
    "commit_interval": "ring-metrics by commit interval",
    "delay": "from emit() to /metrics",
    "indexing": "writing into the event index",
    "asking": "questions to the event index",
    "publishing": "sustained publish(), acknowledged",
    "emitting": "one emit() with a publisher attached",
    "scraping": "a scrape of /metrics",
    "restoring": "restoring the state of ring-metrics",
    "memory": "memory",
    "in_process": "what runs in an agent's process",
}
"""Each module with its title, in the order of the tables."""


def case(name: str) -> Case:
    return import_module(f"bench.cases.{name}").measure  # type: ignore[no-any-return]
