"""The demo's results as tables and sentences on a console."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table

from hypervisor_telemetry.local.counting import COUNTED_BY, GOVERNANCE

__all__ = [
    "print_account",
    "print_addresses",
    "print_facts",
    "print_governance",
    "print_next_commands",
    "print_spans",
]

Reports: TypeAlias = Mapping[int, Mapping[str, Any]]
"""The last line of every agent process, by its number."""

# So that the tables fit 80 columns.
_NARROW: dict[str, Any] = {"box": box.SIMPLE, "pad_edge": False, "padding": (0, 1, 0, 0)}


def print_facts(console: Console, reports: Reports) -> None:
    """Print the things that every agent did."""
    names = sorted({name for report in reports.values() for name in report["facts"]})
    table = Table("agent", title="What really happened", **_NARROW)
    for name in names:
        table.add_column(name, justify="right")
    for number, report in reports.items():
        table.add_row(str(number), *(f"{report['facts'].get(name, 0):,}" for name in names))
    console.print(table)


def print_account(console: Console, account: Mapping[str, Mapping[str, int]]) -> bool:
    """Print the counts of every category, and return whether they agree."""
    columns = ["published", "in Kafka", *COUNTED_BY.values(), "event-index"]
    table = Table("category", title="The account", **_NARROW)
    for column in [*columns, "adds up"]:
        table.add_column(column.replace("-", "-\n"), justify="right")
    for category, row in account.items():
        agrees = len(set(row.values())) == 1
        cells = [f"{row[column]:,}" if column in row else "" for column in columns]
        table.add_row(category, *cells, "[green]yes[/]" if agrees else "[red]NO[/]")
    table.add_section()
    table.add_row(
        "all",
        *(_total(account, column) for column in ("published", "in Kafka")),
        *("" for _ in COUNTED_BY),
        _total(account, "event-index"),
    )
    console.print(table)
    return bool(account) and all(len(set(row.values())) == 1 for row in account.values())


def _total(account: Mapping[str, Mapping[str, int]], column: str) -> str:
    return f"{sum(row[column] for row in account.values()):,}"


def print_spans(console: Console, reports: Reports, spans: Iterable[Mapping[str, Any]]) -> bool:
    """Print the numbers of spans, and return whether each saga that the agents ended has one, and no more."""
    ended = Counter[str]()
    for report in reports.values():
        facts: Counter[str] = Counter(report["facts"])
        ended["saga.completed"] += facts["sagas ok"] + facts["compensated"]
        ended["saga.escalated"] += facts["escalated"]
        ended["saga.fanout"] += facts["fan-outs"]
    names = Counter(".".join(span["name"].split(".")[:2]) for span in spans)
    console.print(
        f"{names.total():,} spans: "
        + ", ".join(f"{name} {names[name]:,} of {count:,}" for name, count in sorted(ended.items()))
    )
    return all(names[name] == count for name, count in ended.items())


def print_governance(console: Console, reports: Reports, shown: Mapping[str, int]) -> bool:
    """Print the governance metrics, and return whether they agree with the agents' decisions."""
    decided = Counter[str]()
    for report in reports.values():
        decided.update(report["governance"])
    console.print(
        "governance: " + ", ".join(f"{name} {shown[name]:,} of {decided[name]:,}" for name in GOVERNANCE.values())
    )
    return all(shown[name] == decided[name] for name in GOVERNANCE.values())


def print_addresses(
    console: Console,
    urls: Mapping[str, str],
    *,
    spans: Path,
    picture: Path,
    bootstrap_servers: str,
    prefix: str,
) -> None:
    """Print the addresses of a demo that is left running, and commands to try on them."""
    console.print(
        f"metrics  {urls['ring-metrics']}/metrics and {urls['governance-metrics']}/metrics\n"
        f"spans    {spans}, one trace as a picture: {picture}\n"
        f"sagas    {urls['saga-spans']}/v1/sagas, those that are open\n"
        f"events   {urls['event-index']}/v1/events and /v1/stats; the API: /docs\n"
        f"Kafka    {bootstrap_servers}, topics {prefix}*\n\n"
        "Try next:\n"
        f"  curl -s {urls['ring-metrics']}/metrics | grep ring_breaches_total | head\n"
        f"  curl -s {urls['governance-metrics']}/metrics | grep governance_denials_total\n"
        f"  curl -s '{urls['event-index']}/v1/events?event_type=saga.escalated&limit=3'\n"
        f"  tail -n 3 {spans}",
        soft_wrap=True,
        markup=False,
    )


def print_next_commands(console: Console, urls: Mapping[str, str]) -> None:
    """Print the commands to try after a demo that ends."""
    command = _command()
    console.print(
        f"It ran at {urls['ring-metrics']}/metrics and {urls['event-index']}/v1/events, "
        "and is being taken down.\n\n"
        "Try next:\n"
        f"  {command} demo --keep  the same, left running, with addresses to open\n"
        f"  {command} kafka        a Kafka of your own, for the services\n"
        f"  {command} --help       all that there is",
        soft_wrap=True,
        markup=False,
    )


def _command() -> str:
    """The command as the reader can call it: it may not be on their PATH."""
    if shutil.which("hypervisor-telemetry"):
        return "hypervisor-telemetry"
    return os.path.relpath(Path(sys.executable).with_name("hypervisor-telemetry"))
