"""The metrics of a publisher, declared once for every exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from hypervisor_schemas.public import public

__all__ = ["DROP_REASONS", "PUBLISHER_METRICS", "PublisherMetric", "PublisherStats"]

DROP_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "queue_full": "Kafka is away or too slow, and the queue holds what it can hold.",
        "too_large": "The record is larger than TELEMETRY_MAX_EVENT_BYTES.",
        "unencodable": "A field can't be what the schema wants it to be.",
        "refused": "The Kafka client didn't take it.",
        "closed": "The publisher is closed.",
    }
)
"""The reasons for dropping an event before it is enqueued, and what each means."""


@public
@dataclass(frozen=True, slots=True)
class PublisherStats:
    """The counts of a publisher's events since this process began.

    At any moment `enqueued` = `delivered` + `failed` + `queued`.
    """

    enqueued: int = 0
    delivered: int = 0
    failed: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Events that were never enqueued, by reason (a key of `DROP_REASONS`). A reason without events is absent."""

    @property
    def queued(self) -> int:
        """Events that were enqueued and are neither acknowledged by the broker nor given up yet."""
        return self.enqueued - self.delivered - self.failed


@dataclass(frozen=True, slots=True)
class PublisherMetric:
    """One metric: its Prometheus name, its help text, and a function for its value per reason.

    A metric without reasons has one value, under "".
    """

    name: str
    is_counter: bool
    help_text: str
    read: Callable[[PublisherStats], Mapping[str, int]]


PUBLISHER_METRICS: tuple[PublisherMetric, ...] = (
    PublisherMetric(
        "hypervisor_publisher_events_enqueued_total",
        True,
        "Events taken into the publisher's queue.",
        lambda stats: {"": stats.enqueued},
    ),
    PublisherMetric(
        "hypervisor_publisher_events_delivered_total",
        True,
        "Events that Kafka acknowledged.",
        lambda stats: {"": stats.delivered},
    ),
    PublisherMetric(
        "hypervisor_publisher_events_failed_total",
        True,
        "Events that were enqueued and then refused by Kafka or given up at close.",
        lambda stats: {"": stats.failed},
    ),
    PublisherMetric(
        "hypervisor_publisher_events_dropped_total",
        True,
        "Events that were never enqueued, by reason.",
        # Every reason is there from the start: a rate needs the zero before the first drop.
        lambda stats: {reason: stats.dropped.get(reason, 0) for reason in DROP_REASONS},
    ),
    PublisherMetric(
        "hypervisor_publisher_events_queued",
        False,
        "Events in the queue now.",
        lambda stats: {"": stats.queued},
    ),
)
