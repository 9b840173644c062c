"""From `emit()` in an agent until the event is counted in /metrics, under a steady load."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event, Thread

from bench.load import emit_steadily, ring_event
from bench.row import Row
from bench.setting import Setting
from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.support.service_processes import RunningService

PER_SECOND, SERIES, PARTITIONS = 5_000, 1_000, 8
WARM_UP = 10
"""The warm-up: the first events wait for connections, and for what was emitted meanwhile."""


def measure(setting: Setting) -> Iterable[Row]:
    samples = 300 if setting.full else 100
    with setting.fleet(PARTITIONS) as fleet:
        service = fleet.start("ring-metrics").wait_ready()
        with EventPublisher(fleet.bootstrap_servers, topic_prefix=fleet.prefix, environ={}) as publisher:
            bus = HypervisorEventBus()
            publisher.attach(bus)
            over = Event()
            load = Thread(
                target=emit_steadily, args=(bus, lambda number: ring_event(number, SERIES), PER_SECOND, over)
            )
            load.start()
            try:
                setting.say(f"{samples} events are looked for, at {PER_SECOND:,} events/s")
                delays = [_delay(bus, service, number) for number in range(WARM_UP + samples)][WARM_UP:]
            finally:
                over.set()
                load.join()
    yield from _rows(sorted(delays))


def _rows(delays: list[float]) -> Iterable[Row]:
    what = f"emit() to /metrics at {PER_SECOND:,} events/s"
    note = (
        "/metrics is asked over and over; what one scrape takes is part of the figure, as is the commit interval."
    )
    for share, floor, goal in ((0.5, 300, None), (0.99, 600, 400)):
        figure = delays[min(len(delays) - 1, int(share * len(delays)))]
        yield Row(f"{what}, p{share * 100:.0f}", "ms", [figure * 1000], floor=floor, goal=goal, note=note)


def _delay(bus: HypervisorEventBus, service: RunningService, number: int) -> float:
    """Return the seconds until an event, of a series of its own, is shown."""
    session = f"looked-for-{number}"
    wanted = session.encode()
    time.sleep(number * 0.0137 % 0.2)  # so that events fall everywhere in the commit interval
    event = HypervisorEvent(
        event_type=EventType.RING_BREACH_DETECTED, session_id=session, agent_did="did:mesh:one", payload={}
    )
    began = time.perf_counter()
    bus.emit(event)
    while wanted not in service.get("/metrics").content:
        if time.perf_counter() > began + 30:
            raise TimeoutError(f"an event was not in /metrics after 30 s; the log of the service:\n{service.log}")
    return time.perf_counter() - began
