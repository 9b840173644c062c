"""The samples of a `/metrics` page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from hypervisor_consumers.runtime.ops.exposition import Exposition

__all__ = ["MetricSample", "total"]


class MetricSample(NamedTuple):
    """One line of `/metrics`."""

    name: str
    labels: Mapping[str, str]
    value: float


def scraped(exposition: Exposition, families: Iterable[Metric]) -> list[MetricSample]:
    """Write the families as a service does, and read the samples as Prometheus does."""
    text, _ = exposition.write(families, "")
    return [
        MetricSample(sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    ]


def total(samples: Iterable[MetricSample], name: str, labels: Mapping[str, str]) -> float | None:
    """Return the sum of the samples with this name and these labels among theirs; None: there are none."""
    values = [sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]
    return sum(values) if values else None
