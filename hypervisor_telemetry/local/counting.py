"""What the services say that they counted, over HTTP, to be held against what agents say that they did."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Iterable

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["COUNTED_BY", "GOVERNANCE", "counted", "get", "governance_counted"]

COUNTED_BY = {"ring": "ring-metrics", "saga": "saga-spans", "governance": "governance-metrics"}
"""The services beside the index, by the category that they count."""

GOVERNANCE = {
    "agent_governance_tool_calls_allowed_total": "allowed",
    "agent_governance_tool_calls_blocked_total": "blocked",
    "agent_governance_rate_limit_hits_total": "limited",
    "agent_governance_audit_events_total": "audited",
    "agent_governance_active_agents": "active",
}
"""What the agents call what the metrics count."""

_RING = {"agent_hypervisor_ring_transitions_total", "agent_hypervisor_ring_breaches_total"}


def counted(name: str, url: str, token: str | None = None) -> Counter[str]:
    """What the copy of a service at `url` counted, by category.

    From the seed's counters, the applied records, the index's own rows (behind its token, where it wants one).

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
    """What the copies of `governance-metrics` show together, by what agents call it.

    Raises:
        OSError: One doesn't answer, or not with 200.
    """
    shown: Counter[str] = Counter()
    for url in urls:
        for family in text_string_to_metric_families(get(f"{url}/metrics")):
            for sample in family.samples:
                if sample.name in GOVERNANCE:
                    shown[GOVERNANCE[sample.name]] += int(sample.value)
    return shown


def get(url: str, token: str | None = None) -> str:
    """The text that one of our own services answers.

    Raises:
        OSError: It doesn't answer, or not with 200.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - addresses of our own services
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - the same
        return str(answer.read().decode())
