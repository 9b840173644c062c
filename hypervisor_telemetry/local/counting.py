"""Reads the services' counts over HTTP, to compare them with the agents' own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

from hypervisor_schemas.http_client import HttpClient, NoAnswer

__all__ = ["COUNTED_BY", "GOVERNANCE", "counted", "get", "governance_counted", "status_of"]

COUNTED_BY = {"ring": "ring-metrics", "saga": "saga-spans", "governance": "governance-metrics"}
"""The services beside the index, by the category of events that each counts."""

GOVERNANCE = {
    "agent_governance_tool_calls_allowed_total": "allowed",
    "agent_governance_tool_calls_blocked_total": "blocked",
    "agent_governance_rate_limit_hits_total": "limited",
    "agent_governance_audit_events_total": "audited",
    "agent_governance_active_agents": "active",
}
"""The agents' names of the governance metrics' counts."""

_RING = {"agent_hypervisor_ring_transitions_total", "agent_hypervisor_ring_breaches_total"}


def counted(name: str, url: str, token: str | None = None) -> Counter[str]:
    """The counts of the copy of a service at `url`, by category.

    They come from the seed's counters, the applied records, or the index's own rows, with `token`.

    Raises:
        OSError: It doesn't answer, or not with 200.
    """
    counts: Counter[str] = Counter()
    if name == "event-index":
        for event_type, count in json.loads(get(f"{url}/v1/stats", token))["type_counts"].items():
            counts[event_type.partition(".")[0]] += count
        return counts
    for family in text_string_to_metric_families(get(f"{url}/metrics")):
        for sample in family.samples:
            if sample.name in _RING:
                counts["ring"] += int(sample.value)
            if sample.name == "hypervisor_telemetry_records_total" and sample.labels["result"] == "applied":
                counts["applied"] += int(sample.value)
    category = next(category for category, service in COUNTED_BY.items() if service == name)
    return Counter({category: counts["ring" if category == "ring" else "applied"]})


def governance_counted(urls: Iterable[str]) -> Counter[str]:
    """The counts of all copies of `governance-metrics` together, by the agents' names.

    Raises:
        OSError: A copy doesn't answer, or not with 200.
    """
    shown: Counter[str] = Counter()
    for url in urls:
        for family in text_string_to_metric_families(get(f"{url}/metrics")):
            for sample in family.samples:
                if sample.name in GOVERNANCE:
                    shown[GOVERNANCE[sample.name]] += int(sample.value)
    return shown


_http = HttpClient(timeout_seconds=10)


def get(url: str, token: str | None = None) -> str:
    """The text that one of our own services answers.

    Raises:
        OSError: It doesn't answer, or not with 200.
    """
    answer = _http.request("GET", url, headers={"Authorization": f"Bearer {token}"} if token else {})
    if answer.status != 200:
        raise OSError(f"it answered {answer.status}")
    return answer.body.decode()


def status_of(url: str) -> int:
    """The status that one of our own services answers with; 0 while it doesn't answer."""
    try:
        return _http.request("GET", url, timeout_seconds=5).status
    except NoAnswer:
        return 0
