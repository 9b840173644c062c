"""A GovernanceMetrics with all of its outputs, for tests that compare them."""

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.governance.governance_metrics import GovernanceMetrics
from hypervisor_schemas.events import GovernanceEventType, HypervisorEvent


class GovernanceOutputs:
    """One GovernanceMetrics with all three outputs."""

    def __init__(self, **settings: Any) -> None:
        self.bus = HypervisorEventBus()
        self.registry = CollectorRegistry()
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider(metric_readers=[self.reader], shutdown_on_exit=False)
        self.metrics = GovernanceMetrics(
            self.bus, meter_provider=self.provider, prometheus=self.registry, **settings
        )

    def events(self, kind: GovernanceEventType | None = None) -> list[HypervisorEvent]:
        return self.bus.all_events if kind is None else self.bus.query_by_type(kind)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def instruments(self) -> dict[str, Any]:
        """Return the instruments by name, as the reader collects them."""
        return {
            metric.name: metric
            for resource in self.reader.get_metrics_data().resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[tuple[str, ...], Any]:
        """Return values (of histograms: counts) by label values."""
        return {
            tuple(value for _, value in sorted(point.attributes.items())): getattr(point, "value", None)
            if hasattr(point, "value")
            else point.count
            for point in self.instruments()[name].data.data_points
        }


def record_tutorial_decisions(metrics: GovernanceMetrics) -> None:
    metrics.record_decision(True, "did:mesh:data-analyst", "file_read", 0.05)
    metrics.record_decision(False, "did:mesh:untrusted", "shell_exec", 0.12)
    metrics.record_decision(
        allowed=False, agent_id="did:mesh:noisy-agent", tool_name="api_call", evaluation_ms=0.01, rate_limited=True
    )
