"""Exporters for `RingMetricsCollector.export_to_prometheus`. Each needs its library only when it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, cast

from hypervisor_schemas.extras import importing_extra
from hypervisor_schemas.public import public

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector, CollectorRegistry

__all__ = ["OpenTelemetryExporter", "PrometheusClientExporter"]


@public
class PrometheusClientExporter:
    """Shows metrics in a prometheus-client registry (the library's default one, if none is given).

    A metric is registered when it is first written, with the label names of that first series. Names are exposed
    as they are written, without additional `_created` series. Thread-safe.

    Raises:
        ImportError: prometheus-client is not installed.
        ValueError: From a write: the name is taken in the registry, or it had another type or other label names.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        with importing_extra("prometheus", "PrometheusClientExporter"):
            from prometheus_client import REGISTRY  # noqa: PLC0415 - an extra
        self._registry = REGISTRY if registry is None else registry
        self._families: dict[str, _Family] = {}
        self._lock = threading.RLock()

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None, help_text: str = "") -> None:
        """Set one series of a gauge."""
        with self._lock:
            family, series = self._series("gauge", name, labels or {}, help_text)
            family.values[series] = float(value)

    def inc_counter(
        self, name: str, value: float = 1.0, labels: dict[str, str] | None = None, help_text: str = ""
    ) -> None:
        """Add to one series of a counter. `_total` is added to a name that doesn't end in it."""
        if value < 0:
            raise ValueError(f"A counter never goes down; {name} was given {value}.")
        with self._lock:
            family, series = self._series("counter", name, labels or {}, help_text)
            family.values[series] = family.values.get(series, 0.0) + value

    def _series(
        self, kind: Literal["counter", "gauge"], name: str, labels: dict[str, str], help_text: str
    ) -> tuple[_Family, tuple[str, ...]]:
        family = self._families.get(name)
        if family is None:
            family = _Family(kind, name, help_text, tuple(labels))
            # prometheus-client asks for no more than the two methods of its abstract class.
            self._registry.register(cast("Collector", family))
            self._families[name] = family
        if family.kind != kind:
            raise ValueError(f"{name} is a {family.kind}; it can't be a {kind} as well.")
        if family.label_names != tuple(labels) and set(family.label_names) != set(labels):
            raise ValueError(
                f"{name} has the labels {family.label_names}; a series with {tuple(labels)} needs a metric of "
                "another name."
            )
        return family, tuple(str(labels[label]) for label in family.label_names)


class _Family:
    """One metric as a collector of its own, so that the registry refuses a name that is taken."""

    def __init__(
        self, kind: Literal["counter", "gauge"], name: str, help_text: str, label_names: tuple[str, ...]
    ) -> None:
        self.kind = kind
        self.label_names = label_names
        self.values: dict[tuple[str, ...], float] = {}
        self._name = name
        self._help = help_text

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """The name and type, for the registry's check."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415 - an extra

        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return [kind(self._name, self._help, labels=self.label_names)]

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """The values as they are now."""
        [family] = self.describe()
        # dict.copy is one step under the GIL, so a scrape needs no lock.
        for series, value in self.values.copy().items():
            family.add_metric(series, value)
        return [family]


@public
class OpenTelemetryExporter:
    """Writes to instruments of an OpenTelemetry meter (one of the global provider, if none is given).

    An instrument is created when it is first written; its name is the metric's. Thread-safe.

    Raises:
        ImportError: No meter is given and the OpenTelemetry API is not installed.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        self._meter = _global_meter() if meter is None else meter
        self._instruments: dict[tuple[str, str], Callable[[float, dict[str, str]], None]] = {}
        self._lock = threading.Lock()

    def set_gauge(self, name: str, value: float, labels: dict[str, str] | None = None, help_text: str = "") -> None:
        """Record the value of one series of a gauge."""
        self._writer("gauge", name, help_text)(value, labels or {})

    def inc_counter(
        self, name: str, value: float = 1.0, labels: dict[str, str] | None = None, help_text: str = ""
    ) -> None:
        """Add to one series of a counter."""
        self._writer("counter", name, help_text)(value, labels or {})

    def _writer(
        self, kind: Literal["counter", "gauge"], name: str, help_text: str
    ) -> Callable[[float, dict[str, str]], None]:
        with self._lock:
            writer = self._instruments.get((kind, name))
            if writer is None:
                if kind == "counter":
                    writer = self._meter.create_counter(name, description=help_text).add
                else:
                    writer = self._meter.create_gauge(name, description=help_text).set
                self._instruments[kind, name] = writer
            return writer


def _global_meter() -> Meter:
    with importing_extra("opentelemetry", "OpenTelemetryExporter"):
        from opentelemetry.metrics import get_meter  # noqa: PLC0415 - an extra
    return get_meter("hypervisor-telemetry")
