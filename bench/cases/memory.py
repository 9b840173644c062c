"""Memory: of `ring-metrics` with its largest state, of a publisher without a broker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.load import each_ring_record, write_plainly
from bench.resident import resident
from bench.row import Row
from bench.setting import Setting
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.wire.codec import encode_event
from tests.support.service_processes import RunningService, eventually

SERIES = 100_000
PARTITIONS = 12
WINDOW = Settings.DUPLICATE_WINDOW.default
EVENTS = PARTITIONS * WINDOW * 19 // 10
"""The events needed for full windows: one grows to twice its size, and sessions are not spread evenly."""
PATIENCE = 600.0
SCRAPES = 5

QUEUED_MESSAGES, QUEUED_BYTES = 100_000, 64 * 1024 * 1024
"""The limit of the publisher's queue."""
MESSAGE_ITSELF = 256
"""The memory of a message in librdkafka besides its key and value, rounded up."""


def measure(setting: Setting) -> Iterable[Row]:
    yield from _service(setting)
    yield _publisher(setting)


def _service(setting: Setting) -> Iterator[Row]:
    with setting.fleet(PARTITIONS) as fleet:
        setting.say(f"writing {EVENTS:,} events")
        write_plainly(fleet, fleet.topic("ring"), each_ring_record(EVENTS, SERIES))
        setting.say(f"counting {EVENTS:,} events")
        service = fleet.start("ring-metrics")
        eventually(
            lambda: sum(service.results(fleet.topic("ring")).values()), lambda done: done >= EVENTS, PATIENCE
        )
        counting = _after_scrapes(service)
        service.terminate()
        setting.say("restoring")
        service = fleet.start("ring-metrics").wait_ready(PATIENCE)
        restored = _after_scrapes(service)
        service.terminate()
    what = f"ring-metrics, {SERIES:,} series, {PARTITIONS} full windows of {WINDOW:,} ids"
    note = (
        f"Resident, after {SCRAPES} scrapes. A window holds between one and two times its size; here nearly two, "
        f"{EVENTS:,} ids in all."
    )
    yield Row(what, "MB", [counting], floor=400, goal=300, note=note)
    yield Row(f"{what}, restored", "MB", [restored], floor=400, goal=300)


def _after_scrapes(service: RunningService) -> float:
    for _ in range(SCRAPES):
        service.get("/metrics").raise_for_status()
    return resident(service.pid)


def _publisher(setting: Setting) -> Row:
    grown = []
    for number in range(setting.rounds):
        setting.say(f"a publisher without a broker, round {number + 1} of {setting.rounds}")
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        )
        grown.append(float(done.stdout))
    bound = (QUEUED_BYTES + QUEUED_MESSAGES * MESSAGE_ITSELF) / 1e6
    note = (
        "By how much the process grew while it published three times what the queue holds. The bound: the queue's "
        f"{QUEUED_BYTES / 2**20:.0f} MiB, and {QUEUED_MESSAGES:,} messages of {MESSAGE_ITSELF} bytes beside."
    )
    return Row("a publisher, its broker gone", "MB", grown, floor=bound, note=note)


def _publish_to_nobody() -> None:
    """Publish in a process of its own, and print its growth in megabytes."""
    size = QUEUED_BYTES // QUEUED_MESSAGES
    publisher = EventPublisher("127.0.0.1:1", environ={"TELEMETRY_FLUSH_TIMEOUT": "0"})
    session = "a-session-of-an-agent"
    without = len(encode_event(_event(session, 0))) + len(session)
    before = resident("self")
    taken = sum(publisher.publish(_event(session, size - without)) for _ in range(3 * QUEUED_MESSAGES))
    grown = resident("self") - before
    if taken > QUEUED_MESSAGES:
        raise RuntimeError(f"the queue took {taken:,} events")
    print(grown)
    publisher.close(timeout=0)


def _event(session: str, padding: int) -> HypervisorEvent:
    payload = {"ring": 1, "reason": "x" * padding}
    return HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id=session, payload=payload)


if __name__ == "__main__":
    _publish_to_nobody()
