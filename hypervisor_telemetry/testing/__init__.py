"""Tests of agents without Kafka: what the fleet would see of them, in milliseconds.

`Pipeline` runs the publisher, the folds and the index in one process. With pytest, the fixture `telemetry` is one.
It needs the extra `testing`; importing this package does not, since its names are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypervisor_schemas.extras import importing_extra

if TYPE_CHECKING:
    from hypervisor_telemetry.testing.clock import Clock as Clock
    from hypervisor_telemetry.testing.indexed_events import IndexedEvents as IndexedEvents
    from hypervisor_telemetry.testing.pipeline import Pipeline as Pipeline
    from hypervisor_telemetry.testing.scrape import MetricSample as MetricSample

__all__ = ["Clock", "IndexedEvents", "MetricSample", "Pipeline"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing_extra("testing", __name__):
        from hypervisor_telemetry.testing import clock, indexed_events, pipeline, scrape  # noqa: PLC0415 - an extra
    names = {
        "Clock": clock.Clock,
        "IndexedEvents": indexed_events.IndexedEvents,
        "MetricSample": scrape.MetricSample,
        "Pipeline": pipeline.Pipeline,
    }
    globals().update(names)
    return names[name]
