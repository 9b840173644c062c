"""The metrics of a publisher in prometheus-client and in OpenTelemetry. Each is imported when it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from hypervisor_producers.metrics import PUBLISHER_METRICS, PublisherMetric
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.extras import importing_extra
from hypervisor_schemas.public import public

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
    from prometheus_client.metrics_core import Metric

__all__ = ["PublisherCollector", "observe_publisher"]


@public
class PublisherCollector:
    """Shows a publisher's counts in prometheus-client: `registry.register(PublisherCollector(publisher))`.

    Raises:
        ImportError: prometheus-client is not installed.
    """

    def __init__(self, publisher: EventPublisher) -> None:
        with importing_extra("prometheus", "PublisherCollector"):
            from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - an extra
        self._publisher = publisher
        self._counter, self._gauge = CounterMetricFamily, GaugeMetricFamily

    def collect(self) -> Iterable[Metric]:
        """The publisher's metrics as they are now."""
        stats = self._publisher.stats()
        for metric in PUBLISHER_METRICS:
            values = metric.read(stats)
            labels = [] if "" in values else ["reason"]
            new_family = self._counter if metric.is_counter else self._gauge
            family = new_family(metric.name, metric.help_text, labels=labels)
            for reason, value in sorted(values.items()):
                family.add_metric([reason] if labels else [], value)
            yield family


@public
def observe_publisher(publisher: EventPublisher, meter: Meter) -> None:
    """Register the publisher's metrics as observable instruments of an OpenTelemetry meter.

    Names are the Prometheus ones without `_total`, which OpenTelemetry's exporters add. The number of queued events
    is an up-down counter, since its sum over agents is meaningful.

    Raises:
        ImportError: The OpenTelemetry API is not installed.
    """
    for metric in PUBLISHER_METRICS:
        create = meter.create_observable_counter if metric.is_counter else meter.create_observable_up_down_counter
        create(
            metric.name.removesuffix("_total"),
            callbacks=[_observer(publisher, metric)],
            unit="{event}",
            description=metric.help_text,
        )


def _observer(
    publisher: EventPublisher, metric: PublisherMetric
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    with importing_extra("opentelemetry", "observe_publisher"):
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - an extra

    def observe(_options: Any) -> Iterable[Observation]:
        for reason, value in metric.read(publisher.stats()).items():
            yield Observation(value, {"reason": reason} if reason else {})

    return observe
