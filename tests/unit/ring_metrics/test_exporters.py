"""The ready exporters, end to end: bus, collector, exporter, and what the library shows."""

import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Any

import prometheus_client
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from hypervisor_consumers.ring_metrics.collector import RingMetricsCollector
from hypervisor_consumers.ring_metrics.exporters import OpenTelemetryExporter, PrometheusClientExporter
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_schemas.events import EventType, HypervisorEvent

ASSIGNED = EventType.RING_ASSIGNED
ELEVATED = EventType.RING_ELEVATED
DEMOTED = EventType.RING_DEMOTED
BREACH = EventType.RING_BREACH_DETECTED

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def event(
    event_type: Any, at: float = 0.0, agent: str = "a", session: str = "s", **payload: Any
) -> HypervisorEvent:
    return HypervisorEvent(
        event_type=event_type,
        timestamp=EPOCH + timedelta(seconds=at),
        agent_did=agent,
        session_id=session,
        payload=payload,
    )


@pytest.fixture
def bus() -> HypervisorEventBus:
    return HypervisorEventBus()


def exposed(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


class TestPrometheusClient:
    def test_the_exact_text_after_two_exports(self, bus):
        registry = CollectorRegistry()
        collector, exporter = RingMetricsCollector(bus, clock=lambda: 60.0), PrometheusClientExporter(registry)
        for each in (
            event(ASSIGNED, at=1, ring=3),
            event(ELEVATED, at=2, from_ring=3, to_ring=0),
            event(DEMOTED, at=4.5, to_ring=2),
            event(ELEVATED, at=50, agent='"q" \\ \n', to_ring=1),
            event(BREACH),
        ):
            bus.emit(each)
        collector.export_to_prometheus(exporter)
        bus.emit(event(BREACH))
        bus.emit(event(DEMOTED, at=51, to_ring=0))
        collector.export_to_prometheus(exporter)
        assert (
            exposed(registry)
            == """\
# HELP agent_hypervisor_ring_transitions_total Ring assignments, elevations, demotions and expired elevations.
# TYPE agent_hypervisor_ring_transitions_total counter
agent_hypervisor_ring_transitions_total{agent_did="a",event_type="ring.assigned",session_id="s"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="a",event_type="ring.elevated",session_id="s"} 1.0
agent_hypervisor_ring_transitions_total{agent_did="a",event_type="ring.demoted",session_id="s"} 2.0
agent_hypervisor_ring_transitions_total{agent_did="\\"q\\" \\\\ \\n",event_type="ring.elevated",session_id="s"} 1.0
# HELP agent_hypervisor_ring_breaches_total Attempts to act beyond the capabilities of a ring.
# TYPE agent_hypervisor_ring_breaches_total counter
agent_hypervisor_ring_breaches_total{agent_did="a",session_id="s"} 2.0
# HELP agent_hypervisor_ring_current The ring an agent is in now, 0 (root) to 3 (sandbox).
# TYPE agent_hypervisor_ring_current gauge
agent_hypervisor_ring_current{agent_did="a"} 0.0
agent_hypervisor_ring_current{agent_did="\\"q\\" \\\\ \\n"} 1.0
# HELP agent_hypervisor_ring_elevation_duration_seconds Time spent at elevated privilege: \
the running elevation so far, else the last one that ended.
# TYPE agent_hypervisor_ring_elevation_duration_seconds gauge
agent_hypervisor_ring_elevation_duration_seconds{agent_did="a"} 2.5
agent_hypervisor_ring_elevation_duration_seconds{agent_did="\\"q\\" \\\\ \\n"} 10.0
"""
        )

    def test_nothing_is_exposed_before_the_first_export(self):
        registry = CollectorRegistry()
        PrometheusClientExporter(registry)
        assert exposed(registry) == ""

    def test_without_a_registry_it_is_the_librarys_own(self, monkeypatch):
        own = CollectorRegistry()
        monkeypatch.setattr(prometheus_client, "REGISTRY", own)
        PrometheusClientExporter().inc_counter("things_total", 2, labels={"kind": "x"}, help_text="Things.")
        assert own.get_sample_value("things_total", {"kind": "x"}) == 2

    def test_a_metric_needs_no_labels_and_no_help(self):
        registry = CollectorRegistry()
        exporter = PrometheusClientExporter(registry)
        exporter.inc_counter("things_total")
        exporter.set_gauge("level", 7)
        exporter.set_gauge("level", 5)
        assert registry.get_sample_value("things_total") == 1
        assert registry.get_sample_value("level") == 5

    def test_label_names_may_come_in_any_order(self):
        registry = CollectorRegistry()
        exporter = PrometheusClientExporter(registry)
        exporter.inc_counter("things_total", labels={"a": "1", "b": "2"})
        exporter.inc_counter("things_total", labels={"b": "2", "a": "1"})
        assert registry.get_sample_value("things_total", {"a": "1", "b": "2"}) == 2

    def test_other_label_names_are_refused(self):
        exporter = PrometheusClientExporter(CollectorRegistry())
        exporter.inc_counter("things_total", labels={"a": "1"})
        with pytest.raises(ValueError, match="things_total has the labels"):
            exporter.inc_counter("things_total", labels={"b": "1"})

    def test_a_counter_is_no_gauge(self):
        exporter = PrometheusClientExporter(CollectorRegistry())
        exporter.inc_counter("things_total")
        with pytest.raises(ValueError, match="things_total is a counter"):
            exporter.set_gauge("things_total", 1)

    def test_a_counter_never_goes_down(self):
        with pytest.raises(ValueError, match="never goes down"):
            PrometheusClientExporter(CollectorRegistry()).inc_counter("things_total", -1)

    def test_a_second_exporter_into_one_registry_is_refused_and_the_first_goes_on(self, bus):
        registry = CollectorRegistry()
        collector = RingMetricsCollector(bus)
        first, second = PrometheusClientExporter(registry), PrometheusClientExporter(registry)
        bus.emit(event(BREACH))
        collector.export_to_prometheus(first)
        with pytest.raises(ValueError, match="agent_hypervisor_ring_breaches"):
            collector.export_to_prometheus(second)
        collector.export_to_prometheus(first)
        labels = {"agent_did": "a", "session_id": "s"}
        assert registry.get_sample_value("agent_hypervisor_ring_breaches_total", labels) == 1

    def test_a_missing_library_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(ImportError, match=r"pip install 'hypervisor-telemetry\[prometheus\]'"):
            PrometheusClientExporter(None)


class TestOpenTelemetry:
    @staticmethod
    def points(reader: InMemoryMetricReader) -> dict[str, tuple[type, dict[tuple[str, ...], float]]]:
        data = reader.get_metrics_data()
        [scope] = data.resource_metrics[0].scope_metrics
        return {
            metric.name: (
                type(metric.data),
                {tuple(sorted(point.attributes.values())): point.value for point in metric.data.data_points},
            )
            for metric in scope.metrics
        }

    def test_counters_add_up_and_gauges_show_the_last_value(self, bus):
        reader = InMemoryMetricReader()
        meter = MeterProvider(metric_readers=[reader], shutdown_on_exit=False).get_meter("agent-hypervisor")
        now = [60.0]
        collector = RingMetricsCollector(bus, clock=lambda: now[0])
        exporter = OpenTelemetryExporter(meter)
        for each in (event(ELEVATED, at=50, to_ring=1), event(BREACH), event(BREACH, agent="b")):
            bus.emit(each)
        collector.export_to_prometheus(exporter)
        bus.emit(event(BREACH))
        now[0] = 65.0
        collector.export_to_prometheus(exporter)
        assert self.points(reader) == {
            "agent_hypervisor_ring_transitions_total": (Sum, {("a", "ring.elevated", "s"): 1}),
            "agent_hypervisor_ring_breaches_total": (Sum, {("a", "s"): 2, ("b", "s"): 1}),
            "agent_hypervisor_ring_current": (Gauge, {("a",): 1}),
            "agent_hypervisor_ring_elevation_duration_seconds": (Gauge, {("a",): 15.0}),
        }

    def test_instruments_carry_the_help_text(self):
        reader = InMemoryMetricReader()
        meter = MeterProvider(metric_readers=[reader], shutdown_on_exit=False).get_meter("m")
        OpenTelemetryExporter(meter).set_gauge("level", 3, help_text="How high.")
        [metric] = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        assert (metric.name, metric.description) == ("level", "How high.")

    def test_without_a_meter_the_global_provider_gives_one(self, bus):
        collector = RingMetricsCollector(bus)
        bus.emit(event(BREACH))
        collector.export_to_prometheus(OpenTelemetryExporter())

    def test_a_missing_library_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
        with pytest.raises(ImportError, match=r"pip install 'hypervisor-telemetry\[opentelemetry\]'"):
            OpenTelemetryExporter()


def test_an_agent_without_either_library_can_use_the_collector():
    script = """
        import sys
        sys.modules["prometheus_client"] = sys.modules["opentelemetry"] = None
        from hypervisor_consumers.ring_metrics.collector import RingMetricsCollector
        from hypervisor_consumers.ring_metrics.exporters import OpenTelemetryExporter, PrometheusClientExporter
        from hypervisor_producers.bus import HypervisorEventBus
        from hypervisor_schemas.events import EventType, HypervisorEvent

        bus = HypervisorEventBus()
        collector = RingMetricsCollector(bus)
        bus.emit(HypervisorEvent(event_type=EventType.RING_BREACH_DETECTED))
        print(collector.collect()["events_processed"])
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.stdout, result.stderr) == ("1\n", "")
