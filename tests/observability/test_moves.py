"""Counters of the log as Prometheus has them, over a rebalance and over `kill -9`; and a scrape of 100,000 series.

Raw samples tell exactly: a series without `instance` is one, whichever copy shows it, so its last sample less its
first is what happened between. `increase` extends the same growth towards the ends of its window by half a scrape
each, and is compared within that.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from hypervisor_schemas.events import EventType, HypervisorEvent
from tests.observability.prometheus import Prometheus, prometheus
from tests.support.service_processes import Fleet, RunningService, eventually, fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hypervisor_telemetry.local.kafka_choice import Kafka

pytestmark = [pytest.mark.full, pytest.mark.kafka]

PARTITIONS = 4
SESSIONS = 40
JOB = "agent-hypervisor"
BREACHES = "agent_hypervisor_ring_breaches_total"
NAIVE = "naive"
"""A second job of the same copies, as people write it who have not read about `instance`."""


@pytest.fixture
def it(kafka: Kafka, tmp_path: Path) -> Iterator[Fleet]:
    with fleet(kafka.bootstrap_servers, f"t{secrets.token_hex(4)}.", tmp_path) as it:
        yield it


def breaches(rounds: int) -> Iterator[HypervisorEvent]:
    """So many of each session."""
    now = datetime.now(UTC)
    for _ in range(rounds):
        for number in range(SESSIONS):
            yield HypervisorEvent(
                event_type=EventType.RING_BREACH_DETECTED,
                timestamp=now,
                agent_did=f"did:{number % 7}",
                session_id=f"s{number}",
            )


def total(server: Prometheus, job: str = JOB) -> float:
    return server.value(f'sum({BREACHES}{{job="{job}"}})')


def scrape(server: Prometheus, *copies: RunningService) -> None:
    for job in (JOB, NAIVE):
        server.scrape(job, *(copy.url for copy in copies))


def has_all(copy: RunningService) -> bool:
    """It has all partitions of both topics."""
    return copy.partitions() == PARTITIONS


def test_counters_are_the_truth_over_a_rebalance_and_a_kill(it: Fleet, tmp_path: Path) -> None:
    naive = {"job_name": NAIVE, "file_sd_configs": [{"files": [f"targets/{NAIVE}.yml"]}]}
    it.make_topics(PARTITIONS)
    with prometheus(tmp_path / "prometheus", more_jobs=(naive,)) as server:
        began = time.time()
        first = it.start("ring-metrics").wait_ready()
        scrape(server, first)
        it.publish(breaches(1))
        # Every series is there with its 1: what comes from here on is the truth.
        eventually(lambda: (total(server), total(server, NAIVE)), lambda seen: seen == (SESSIONS, SESSIONS))

        second = it.start("ring-metrics")
        it.publish(breaches(5))  # while the partitions are shared out anew
        second.wait_ready()
        scrape(server, first, second)
        eventually(second.partitions, lambda count: count > 0)
        it.publish(breaches(5))
        eventually(lambda: total(server), lambda seen: seen == 11 * SESSIONS)

        first.kill()
        it.publish(breaches(5))  # before anybody knows
        eventually(lambda: has_all(second), bool, 60)
        it.publish(breaches(5))
        eventually(lambda: total(server), lambda seen: seen == 21 * SESSIONS)

        third = it.start("ring-metrics").wait_ready()
        scrape(server, second, third)
        eventually(third.partitions, lambda count: count > 0)
        it.publish(breaches(5))
        eventually(lambda: total(server), lambda seen: seen == 26 * SESSIONS)
        second.terminate()
        eventually(lambda: has_all(third), bool)
        it.publish(breaches(5))
        eventually(lambda: total(server), lambda seen: seen == 31 * SESSIONS)

        ended = time.time()
        _compare(server, began, ended)


def _compare(server: Prometheus, began: float, ended: float) -> None:
    window = f"[{int(ended - began) + 1}s]"
    truth = 30 * SESSIONS
    series = server.samples(f'{BREACHES}{{job="{JOB}"}}', began, ended)
    assert len(series) == SESSIONS, "each is one, whichever copy has shown it"
    assert [(samples[0], samples[-1]) for samples in series] == [(1, 31)] * SESSIONS
    assert all(samples == sorted(samples) for samples in series), "one went down"
    assert server.value(f'sum(resets({BREACHES}{{job="{JOB}"}}{window}))', ended) == 0

    # Half a scrape at each end of half a minute and more.
    increase = server.value(f'sum(increase({BREACHES}{{job="{JOB}"}}{window}))', ended)
    assert truth <= increase <= 1.06 * truth

    # The same without the rule is not right, so this test can tell: what came between the last sample from a killed
    # copy and the first from its heir belongs to neither's series.
    grown = {
        session: sum(
            samples[-1] - samples[0]
            for samples in server.samples(f'{BREACHES}{{job="{NAIVE}",session_id="{session}"}}', began, ended)
        )
        for session in (f"s{number}" for number in range(SESSIONS))
    }
    assert any(growth != 30 for growth in grown.values())
    # Samples with one time and two values, or out of order.
    assert "Error on ingesting" not in server.log


def test_a_scrape_of_100_000_series_fits_its_timeout(it: Fleet, tmp_path: Path) -> None:
    """With the interval and the timeout of the file itself."""
    it.make_topics(PARTITIONS)
    now = datetime.now(UTC)
    it.publish(
        HypervisorEvent(
            event_type=EventType.RING_ASSIGNED,
            timestamp=now,
            agent_did=f"did:{number % 1000}",
            session_id=f"s{number}",
            payload={"ring": 2},
        )
        for number in range(100_000)
    )
    copy = it.start("ring-metrics").wait_ready(120)
    eventually(lambda: copy.value("hypervisor_telemetry_series"), lambda count: (count or 0) > 100_000, 120)
    with prometheus(tmp_path / "prometheus", interval=None) as server:
        server.scrape(JOB, copy.url)
        # `up` is Prometheus' own word that the scrape was whole and in time.
        eventually(
            lambda: server.value(f'scrape_samples_scraped{{job="{JOB}"}} and on (job) up{{job="{JOB}"}} == 1'),
            lambda count: count > 100_000,
            60,
        )
        [target] = [one for one in server.get("targets")["activeTargets"] if one["labels"]["job"] == JOB]
        assert (target["scrapeInterval"], target["scrapeTimeout"]) == ("15s", "10s")
        assert server.value(f'count({{job="{JOB}",__name__=~"agent_hypervisor_.+"}})') > 100_000
