"""One `emit()` with a publisher attached, as the agent feels it: Kafka up, slow, and gone.

Every single emit is timed, at 5,000 events a second (the loop sleeps until the next one is due, as an agent does
something else between) and in a burst, as fast as a loop can. The clock itself costs 0.1 µs of each figure. The
events are made in the loop, outside what is timed.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from hypervisor import observability as package

import hypervisor_telemetry as ours
from bench.load import ring_event
from bench.row import Row
from bench.setting import Setting
from hypervisor_telemetry.local.broker import LocalKafka
from tests.support.service_processes import fleet

PARTITIONS = 12
PER_SECOND = 5_000
BURST = 50_000
QUEUE = 100_000
"""The capacity of a publisher's queue by default, in events."""
SESSIONS = 1_000
STOPPED, RUNNING = 0.9, 0.1
"""The parts of each second for which the slow Kafka's process is stopped, and runs."""

FLOOR, GOAL = {"p50": 10.0, "p99": 50.0}, {"p50": 5.0, "p99": None}
NOTES = {
    "slow": f"the broker's process is stopped for {STOPPED:g} s of every second",
    "gone": f"the broker was killed after the first event; the queue takes {QUEUE:,} of the burst's "
    f"{QUEUE + BURST:,} events, and the rest is dropped and counted",
}

Emit = Callable[[Any], object]
Loads = dict[str, list[int]]
"""The nanoseconds of each emit, by the kind of load."""


def measure(setting: Setting) -> Iterable[Row]:
    seconds = 10 if setting.full else 3
    with quiet():
        alone = in_rounds(setting, "no publisher", lambda: without_publisher(ours.HypervisorEventBus(), seconds))
        package_alone = in_rounds(
            setting, "agent-hypervisor", lambda: without_publisher(package.HypervisorEventBus(), seconds)
        )
        for load, name, mine in quantiles(alone):
            theirs = next(
                value
                for its_load, its_name, value in quantiles(package_alone)
                if (its_load, its_name) == (load, name)
            )
            yield Row(f"emit, no publisher, {load}, {name}", "µs", mine, "agent-hypervisor", theirs)
        for state, measured in (("up", up), ("slow", slow), ("gone", gone)):
            rounds = in_rounds(setting, f"Kafka is {state}", partial(measured, setting, seconds))
            for load, name, mine in quantiles(rounds):
                what, note = f"emit, Kafka is {state}, {load}, {name}", NOTES.get(state, "")
                yield Row(what, "µs", mine, floor=FLOOR[name], goal=GOAL[name], note=note)


def without_publisher(bus: Any, seconds: int) -> Loads:
    return {at_pace(): paced(bus.emit, seconds), "a burst": burst(bus.emit, BURST)}


def up(setting: Setting, seconds: int) -> Loads:
    with setting.fleet(PARTITIONS) as fleet, publishing(fleet.bootstrap_servers, fleet.prefix) as emit:
        return {at_pace(): paced(emit, seconds), "a burst": burst(emit, BURST)}


def slow(setting: Setting, seconds: int) -> Loads:
    with (
        own_kafka(setting) as (kafka, prefix),
        publishing(kafka.bootstrap_servers, prefix) as emit,
        stuttering(kafka.pid),
    ):
        return {at_pace(): paced(emit, seconds), "a burst": burst(emit, BURST)}


def gone(setting: Setting, seconds: int) -> Loads:
    with own_kafka(setting) as (kafka, prefix), publishing(kafka.bootstrap_servers, prefix) as emit:
        kafka.kill()
        return {
            at_pace(): paced(emit, seconds),
            "a burst beyond the queue": burst(emit, QUEUE + BURST),
            f"{at_pace()}, the queue full": paced(emit, seconds),
        }


def at_pace() -> str:
    return f"{PER_SECOND:,} a second"


def paced(emit: Emit, seconds: int) -> list[int]:
    times = [0] * (seconds * PER_SECOND)
    next_at = time.perf_counter()
    for number in range(len(times)):
        next_at += 1 / PER_SECOND
        event = ring_event(number, SESSIONS)
        if (early := next_at - time.perf_counter()) > 0:
            time.sleep(early)  # the pace, not a wait for something
        began = time.perf_counter_ns()
        emit(event)
        times[number] = time.perf_counter_ns() - began
    return times


def burst(emit: Emit, count: int) -> list[int]:
    times = [0] * count
    for number in range(count):
        event = ring_event(number, SESSIONS)
        began = time.perf_counter_ns()
        emit(event)
        times[number] = time.perf_counter_ns() - began
    return times


@contextmanager
def publishing(bootstrap_servers: str, prefix: str) -> Iterator[Emit]:
    """Make a bus with a publisher that is connected and has the topic's metadata."""
    bus = ours.HypervisorEventBus()
    publisher = ours.EventPublisher(bootstrap_servers, topic_prefix=prefix, environ={})
    publisher.attach(bus)
    bus.emit(ring_event(0))
    if publisher.flush(30).pending:
        raise TimeoutError("Kafka has not acknowledged the first event in 30 s")
    try:
        yield bus.emit
    finally:
        publisher.close(0)


@contextmanager
def own_kafka(setting: Setting) -> Iterator[tuple[LocalKafka, str]]:
    """Start a Kafka that may be stopped and killed, with its event topics and their prefix."""
    with (
        LocalKafka(on_progress=setting.say) as kafka,
        fleet(kafka.bootstrap_servers, "bench.", setting.folder) as it,
    ):
        it.make_topics(PARTITIONS)
        yield kafka, it.prefix


@contextmanager
def stuttering(pid: int) -> Iterator[None]:
    """Stop the process for most of each second."""
    ended = threading.Event()

    def stutter() -> None:
        while not ended.is_set():
            os.kill(pid, signal.SIGSTOP)
            ended.wait(STOPPED)
            os.kill(pid, signal.SIGCONT)
            ended.wait(RUNNING)

    thread = threading.Thread(target=stutter)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def in_rounds(setting: Setting, what: str, measured: Callable[[], Loads]) -> list[Loads]:
    found = []
    for number in range(setting.rounds):
        setting.say(f"round {number + 1} of {setting.rounds}: {what}")
        gc.collect()
        found.append(measured())
    return found


def quantiles(rounds: Sequence[Loads]) -> Iterator[tuple[str, str, list[float]]]:
    """Yield load, name of the quantile, and its microseconds in each round."""
    for load in rounds[0]:
        ordered = [sorted(loads[load]) for loads in rounds]
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            yield load, name, [times[int(len(times) * part)] / 1000 for times in ordered]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log: a missing Kafka and dropped events are the case that is measured."""
    logger = logging.getLogger("hypervisor_producers")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
