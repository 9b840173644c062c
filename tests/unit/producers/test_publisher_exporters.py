"""A publisher's counts, as prometheus-client and OpenTelemetry show them."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from hypervisor_producers.exporters import PublisherCollector, observe_publisher
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent


@pytest.fixture
def publisher() -> Iterator[EventPublisher]:
    """One that reaches no Kafka and has room for three events."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        made = EventPublisher(address, environ={"KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": "3"})
        yield made
        made.close(0)


def publish(publisher: EventPublisher, count: int) -> None:
    for _ in range(count):
        publisher.publish(HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s"))


def test_the_exact_text_for_prometheus(publisher):
    registry = CollectorRegistry()
    registry.register(PublisherCollector(publisher))
    publisher.publish(None)
    publish(publisher, 5)
    assert generate_latest(registry).decode() == exposition(enqueued=3, failed=0, full=2, queued=3)
    publisher.close(0)
    assert generate_latest(registry).decode() == exposition(enqueued=3, failed=3, full=2, queued=0)


def exposition(enqueued: int, failed: int, full: int, queued: int) -> str:
    return f"""\
# HELP hypervisor_publisher_events_enqueued_total Events taken into the publisher's queue.
# TYPE hypervisor_publisher_events_enqueued_total counter
hypervisor_publisher_events_enqueued_total {enqueued}.0
# HELP hypervisor_publisher_events_delivered_total Events that Kafka acknowledged.
# TYPE hypervisor_publisher_events_delivered_total counter
hypervisor_publisher_events_delivered_total 0.0
# HELP hypervisor_publisher_events_failed_total Events that were enqueued and then refused by Kafka or given up at close.
# TYPE hypervisor_publisher_events_failed_total counter
hypervisor_publisher_events_failed_total {failed}.0
# HELP hypervisor_publisher_events_dropped_total Events that were never enqueued, by reason.
# TYPE hypervisor_publisher_events_dropped_total counter
hypervisor_publisher_events_dropped_total{{reason="closed"}} 0.0
hypervisor_publisher_events_dropped_total{{reason="queue_full"}} {full}.0
hypervisor_publisher_events_dropped_total{{reason="refused"}} 0.0
hypervisor_publisher_events_dropped_total{{reason="too_large"}} 0.0
hypervisor_publisher_events_dropped_total{{reason="unencodable"}} 1.0
# HELP hypervisor_publisher_events_queued Events in the queue now.
# TYPE hypervisor_publisher_events_queued gauge
hypervisor_publisher_events_queued {queued}.0
"""  # noqa: E501 - a help text is one line


def test_the_instruments_of_opentelemetry(publisher):
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    observe_publisher(publisher, provider.get_meter("agent"))
    publisher.publish(None)
    publish(publisher, 5)
    shown = collected(reader)
    provider.shutdown()
    assert shown == {
        "hypervisor_publisher_events_enqueued": ("{event}", True, {"": 3}),
        "hypervisor_publisher_events_delivered": ("{event}", True, {"": 0}),
        "hypervisor_publisher_events_failed": ("{event}", True, {"": 0}),
        "hypervisor_publisher_events_dropped": (
            "{event}",
            True,
            {"closed": 0, "queue_full": 2, "refused": 0, "too_large": 0, "unencodable": 1},
        ),
        "hypervisor_publisher_events_queued": ("{event}", False, {"": 3}),
    }


def collected(reader: InMemoryMetricReader) -> dict[str, tuple[str, bool, dict[Any, Any]]]:
    """Per instrument: its unit, whether it only grows, and its value by reason."""
    shown = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                assert isinstance(metric.data, Sum)
                points = {point.attributes.get("reason", ""): point.value for point in metric.data.data_points}
                shown[metric.name] = (metric.unit, metric.data.is_monotonic, points)
    return shown


def test_an_agent_needs_neither_library():
    script = """
import sys
sys.modules.update({"prometheus_client": None, "opentelemetry": None})
import hypervisor_producers.exporters
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
