"""The time of a copy of `ring-metrics` to restore its state, beside plainly reading the changelog."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterable, Sequence
from datetime import datetime

import httpx

from bench.load import read_to_end, ring_records, write_plainly
from bench.row import Row
from bench.setting import Setting
from hypervisor_schemas.settings import Settings
from tests.support.service_processes import Fleet, RunningService, eventually

SERIES = 100_000
PARTITIONS = 8
WINDOW = Settings.DUPLICATE_WINDOW.default
PATIENCE = 300.0


def measure(setting: Setting) -> Iterable[Row]:
    # A window is between one and two times its size; here each is one and a half, or as large as there are records.
    for count, what in ((SERIES, "an event each"), (PARTITIONS * WINDOW * 3 // 2, "and full windows of event ids")):
        yield from _rows(setting, count, f"restore {SERIES:,} series, {what}")


def _rows(setting: Setting, count: int, what: str) -> Iterable[Row]:
    setting.say(f"making {count:,} events")
    records = ring_records(count, SERIES)
    ours: list[float] = []
    plainly: dict[str, list[float]] = {"changelog": [], "all": []}
    starts: list[float] = []
    with setting.fleet(PARTITIONS) as fleet:
        setting.say(f"counting {count:,} events")
        topics = [fleet.prefix + name for name in ("events.ring", "state.ring-metrics", "agent-rings")]
        source, changelog, rows = topics
        write_plainly(fleet, source, records)
        _count(fleet, count)
        for number in range(setting.rounds):
            setting.say(f"round {number + 1} of {setting.rounds}: restoring")
            start, seconds = _restore(fleet)
            starts.append(start)
            ours.append(seconds)
            setting.say(f"round {number + 1} of {setting.rounds}: reading plainly")
            plainly["changelog"].append(_read([changelog], fleet)[0])
            plainly["all"].append(_read(topics, fleet)[0])
        kept, public = (_read([topic], fleet)[1] for topic in (changelog, rows))
    note = (
        f"From the assignment until /readyz is 200. It reads {kept:,} records of the changelog, {public:,} of "
        f"agent-rings, and {count:,} events again for their ids, {PARTITIONS} partitions of each. Before that the "
        f"process takes {statistics.median(starts):.1f} s to start and to join."
    )
    yield Row(what, "s", ours, "plain consume() of the changelog", plainly["changelog"], 1 / 3, 1 / 2, note)
    yield Row(what, "s", ours, "plain consume() of all that it reads", plainly["all"])
    yield Row(f"{what}, in all", "s", ours, floor=5)


def _count(fleet: Fleet, count: int) -> None:
    """Let the service count all events and stop."""
    service = fleet.start("ring-metrics")
    eventually(lambda: sum(service.results(fleet.topic("ring")).values()), lambda done: done >= count, PATIENCE)
    _stop(service)


def _restore(fleet: Fleet) -> tuple[float, float]:
    """Return the seconds from a new copy's start until its assignment, and from there until it is ready."""
    began = time.time()
    service = fleet.start("ring-metrics")
    ready = _ready_at(service)
    came = _assigned_at(service)
    _stop(service)
    return came - began, ready - came


def _stop(service: RunningService) -> None:
    status, _ = service.terminate()
    if status:
        raise RuntimeError(f"the service ended with status {status}; its log:\n{service.log}")
    service.close()


def _ready_at(service: RunningService) -> float:
    deadline = time.time() + PATIENCE
    with httpx.Client(base_url=service.url, trust_env=False) as http:
        while http.get("/readyz").status_code != 200:
            if time.time() > deadline:
                raise TimeoutError(f"not restored in {PATIENCE:g} s; its log:\n{service.log}")
            time.sleep(0.01)  # between two looks, so that asking costs the service little
    return time.time()


_CAME = re.compile(r"^(\S+ \S+?,\d+).* partitions came,", re.MULTILINE)


def _assigned_at(service: RunningService) -> float:
    found = _CAME.search(service.log)
    if found is None:
        raise RuntimeError(f"the service doesn't say that partitions came; its log:\n{service.log}")
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()  # noqa: DTZ007 - of this machine


def _read(topics: Sequence[str], fleet: Fleet) -> tuple[float, int]:
    """Return the seconds of `consume()` alone, from the first record to the last, and their number."""
    count, began = 0, 0.0
    for batch in read_to_end(fleet, topics):
        began = began or time.perf_counter()
        count += len(batch)
    return time.perf_counter() - began, count
