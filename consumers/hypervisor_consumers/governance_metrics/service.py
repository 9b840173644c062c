"""The wiring of the service governance-metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Never

from prometheus_client.metrics_core import Metric

from hypervisor_consumers.governance_metrics.exposition import governance_families
from hypervisor_consumers.governance_metrics.fold.batch_fold import GovernanceBatchFold
from hypervisor_consumers.governance_metrics.fold.state import GovernanceState
from hypervisor_consumers.runtime.commit.stateful_processor import EXPIRY_INTERVAL_SECONDS
from hypervisor_consumers.runtime.commit.visibility import Shown
from hypervisor_consumers.runtime.ops.cardinality_families import limit_family
from hypervisor_consumers.runtime.service_copy import StatefulService
from hypervisor_schemas.settings import Settings

__all__ = ["DEFAULT_PORT", "governance_metrics_service"]

DEFAULT_PORT = 8003


def governance_metrics_service(environ: Mapping[str, str]) -> StatefulService[GovernanceState, Never]:
    """Governance events to `/metrics`.

    Raises:
        SettingError: A setting can't be read.
    """
    labels = Settings.GOVERNANCE_LABELS.of(environ)
    max_series = Settings.MAX_SERIES.of(environ)
    agent_ttl = Settings.AGENT_TTL.of(environ)

    def families(shown: Shown[GovernanceState]) -> Iterable[Metric]:
        families = governance_families(shown.states, labels=labels, home_partitions=shown.state_partitions)
        return [*families, limit_family(max_series)]

    return StatefulService(
        name="governance-metrics",
        source="events.governance",
        fold=GovernanceBatchFold(
            series_ttl_ms=Settings.SERIES_TTL.of(environ) * 1000,
            agent_ttl_ms=int(agent_ttl * 1000),
            max_series=max_series,
            labels=labels,
        ),
        families=families,
        # An agent that is gone should not count for another minute if TELEMETRY_AGENT_TTL is seconds.
        expire_every=max(0.5, min(EXPIRY_INTERVAL_SECONDS, agent_ttl / 10)),
    )
