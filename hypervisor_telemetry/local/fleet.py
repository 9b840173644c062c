"""Runs a fleet of demo agents on a Kafka and services that run already, and compares the counts.

It is the demo on a Kafka of yours, as in docker compose. The services' counters start anywhere, so they are read
before and after: nobody else may publish in between.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from hypervisor_schemas.errors import TelemetryError
from hypervisor_telemetry.local.child import Child
from hypervisor_telemetry.local.counting import COUNTED_BY, GOVERNANCE, counted, governance_counted

__all__ = ["FleetFailed", "run_fleet"]

_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.3
_COUNTERS = [name for name in GOVERNANCE.values() if name != "active"]


class FleetFailed(TelemetryError):
    """An agent or a service failed; the message names it."""


@dataclass(slots=True)
class _Totals:
    """The services' counts by service and category, and the governance metrics by name."""

    services: dict[str, Counter[str]] = field(default_factory=dict)
    governance: Counter[str] = field(default_factory=Counter)

    def since(self, before: _Totals) -> _Totals:
        return _Totals(
            {name: counts - before.services[name] for name, counts in self.services.items()},
            self.governance - before.governance,
        )


def run_fleet(
    *,
    events: int,
    agents: int,
    services: Mapping[str, Sequence[str]],
    environ: Mapping[str, str],
    token: str | None,
    say: Callable[[str], None],
) -> int:
    """Run `agents` processes that together publish at least `events` events; `say` gets lines for people.

    `services` has the addresses of every copy of each of the four services, by name; `environ` is the agents'
    environment, `token` the index's. Returns the exit status: 0 only if every event is accounted for.

    Raises:
        FleetFailed: agent-hypervisor is not installed, an agent failed, or a service doesn't answer.
    """
    if importlib.util.find_spec("hypervisor") is None:
        raise FleetFailed(
            "The agents need agent-hypervisor, which is not installed; "
            "run: pip install 'hypervisor-telemetry[demo]'"
        )
    before = _totals(services, token)
    say(f"{agents} agent processes do real work with the agent-hypervisor package")
    reports = _run_agents(agents, -(-events // agents), environ)
    published: Counter[str] = Counter()
    decided: Counter[str] = Counter()
    for report in reports:
        published.update(report["categories"])
        decided.update({name: report["governance"].get(name, 0) for name in _COUNTERS})
    give_up_at = time.monotonic() + _SETTLE_SECONDS
    while True:
        lines = list(_account(published, decided, _totals(services, token).since(before)))
        adds_up = all(agrees for _, agrees in lines)
        if adds_up or time.monotonic() > give_up_at:
            break
        time.sleep(_POLL_SECONDS)  # between two looks, up to the deadline above
    for line, agrees in lines:
        say(f"{line}: {'adds up' if agrees else 'DOES NOT ADD UP'}")
    total = sum(published.values())
    say(f"Every one of {total:,} events is accounted for." if adds_up else "The account does not add up.")
    return 0 if adds_up else 1


def _account(published: Counter[str], decided: Counter[str], counted_since: _Totals) -> list[tuple[str, bool]]:
    """A line for each category and each governance metric, and whether the numbers in it agree."""
    lines = []
    for category in sorted(published.keys() | counted_since.services["event-index"].keys()):
        counts = {"published": published[category], "event-index": counted_since.services["event-index"][category]}
        if service := COUNTED_BY.get(category):
            counts[service] = counted_since.services[service][category]
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        lines.append((f"{category}: {shown}", len(set(counts.values())) == 1))
    for name in _COUNTERS:
        shown = (
            f"governance {name}: decided {decided[name]:,}, governance-metrics {counted_since.governance[name]:,}"
        )
        lines.append((shown, decided[name] == counted_since.governance[name]))
    return lines


def _totals(services: Mapping[str, Sequence[str]], token: str | None) -> _Totals:
    totals = _Totals()
    for name, urls in services.items():
        totals.services[name] = Counter()
        for url in urls[:1] if name == "event-index" else urls:  # every copy of the index has all of its rows
            try:
                totals.services[name] += counted(name, url, token)
            except (OSError, ValueError) as error:
                raise FleetFailed(f"{name} at {url} doesn't say what it counted: {error}.") from None
    try:
        totals.governance = governance_counted(services["governance-metrics"])
    except OSError as error:
        raise FleetFailed(f"governance-metrics doesn't say what it counted: {error}.") from None
    return totals


def _run_agents(agents: int, share: int, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The report of each agent process: the last line that it prints."""
    with ExitStack() as stack:
        children = []
        for number in range(1, agents + 1):
            command = [sys.executable, "-m", "hypervisor_telemetry.local.demo_agent"]
            child = Child(
                [*command, "--number", str(number), "--events", str(share)],
                env=dict(environ),
                stdout=subprocess.PIPE,
                name=f"agent {number}",
            )
            children.append(stack.enter_context(child))
        reports = []
        for number, child in enumerate(children, start=1):
            lines = [*(child.stdout or ())]
            if child.wait(30) != 0 or not lines:
                raise FleetFailed(f"Agent {number} failed; what it said is above.")
            reports.append(json.loads(lines[-1]))
    return reports
