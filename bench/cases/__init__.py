"""Each module measures one thing: `measure(setting)` gives its rows, and curves for plots."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from bench.setting import Case

__all__ = ["CASES", "case"]

CASES: Mapping[str, str] = {
    "in_process": "what runs in an agent's process",
}
"""By module, what a person reads while it runs; in the order of the table."""


def case(name: str) -> Case:
    return import_module(f"bench.cases.{name}").measure  # type: ignore[no-any-return]
