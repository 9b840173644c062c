"""The command `publish FILE|-`: publishes events that are written as JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import HypervisorEvent
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.wire.codec import encode_event

__all__ = ["PublishSummary", "publish_lines"]

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class PublishSummary:
    """The numbers of lines that Kafka acknowledged, that hold no event, and that weren't delivered."""

    delivered: int
    bad_lines: int
    undelivered: int


def publish_lines(
    lines: Iterable[bytes],
    publisher: EventPublisher,
    report: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> PublishSummary:
    """Publish one event per line, in `to_dict` form; empty lines are skipped.

    `report` gets a sentence for every bad line, with its number; the others are still published. While the queue is
    full it waits: unlike an agent it has the time. Closes nothing; returns when all is acknowledged.
    """
    bad = refused = 0
    before = publisher.stats()
    too_large = _too_large(publisher)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = _event_of(line)
            encode_event(event)  # publish() would only say that it failed, not why
        except (ValueError, TypeError, OverflowError) as error:
            bad += 1
            report(f"line {number}: {error}")
            continue
        if _wait_for_room(publisher, sleep) and publisher.publish(event):
            continue
        now_too_large = _too_large(publisher)
        if now_too_large > too_large:
            bad += 1
            report(f"line {number}: its record is larger than {Settings.MAX_EVENT_BYTES.name}")
        else:
            refused += 1
            report(f"line {number}: not published; Kafka doesn't take events fast enough, or not at all")
        too_large = now_too_large
    pending = publisher.flush(60).pending
    after = publisher.stats()
    return PublishSummary(
        delivered=after.delivered - before.delivered,
        bad_lines=bad,
        undelivered=refused + pending + after.failed - before.failed,
    )


def _too_large(publisher: EventPublisher) -> int:
    return publisher.stats().dropped.get("too_large", 0)


def _wait_for_room(publisher: EventPublisher, sleep: Callable[[float], None]) -> bool:
    """Wait while the queue is more than half full; False when nothing was acknowledged for a minute."""
    last, waited = publisher.stats().delivered, 0.0
    while (stats := publisher.stats()).queued > _HALF_A_QUEUE:
        if stats.delivered != last:
            last, waited = stats.delivered, 0.0
        if waited > 60:
            return False
        sleep(0.01)
        waited += 0.01
    return True


_HALF_A_QUEUE = 50_000


def _event_of(line: bytes) -> HypervisorEvent:
    try:
        data = _decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"a JSON object is wanted, not {type(data).__name__}")
    return HypervisorEvent.from_dict(data)
