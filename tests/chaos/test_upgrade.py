"""Upgrades, rollbacks, more partitions and another registry, under load: what comes out in the end is the truth.

Copies of two versions run side by side, each replaced by a new one that is there before it goes, as a rolling
update does it; agents of two versions publish at once, one with a field more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import NewPartitions

from tests.chaos.harness import (
    BREACHES,
    TRANSITIONS,
    Load,
    MetricsMonitor,
    Truth,
    assert_converges,
    describe_copies,
    record_of,
    ring_events,
)
from tests.chaos.sagas import SagaScenario, UnreliableReceiver, interleaved
from tests.chaos.test_index import difference, lag
from tests.chaos.test_sagas import span_differences
from tests.support import code_versions as versions
from tests.support import schema_registry as registry
from tests.support.code_versions import Code, newer_record, newer_schema
from tests.support.service_processes import Fleet, RunningService, eventually, run_command
from tests.support.span_receivers import http_receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from hypervisor_schemas.events import HypervisorEvent
    from tests.chaos.conftest import Chaos
    from tests.support.postgres import Postgres

pytestmark = [pytest.mark.kafka, pytest.mark.full, pytest.mark.timeout(1800)]

PARTITIONS = 4
NEWER_ID = 2


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Code:
    return versions.earlier(tmp_path_factory.mktemp("code"))


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Code:
    return versions.with_newer_schema(tmp_path_factory.mktemp("code"))


@pytest.fixture
def schemas() -> Iterator[registry.Registry]:
    """A registry that has the schema and, under the next id, the newer one."""
    with registry.running() as it:
        it.schemas[NEWER_ID] = newer_schema()
        yield it


def records_of_both_versions(random: Random, events: Iterable[HypervisorEvent]) -> list[tuple[bytes | None, bytes]]:
    """As agents of both versions publish them, with events of one session from either."""
    return [newer_record(event, NEWER_ID) if random.random() < 0.5 else record_of(event) for event in events]


def replace_one_by_one(copies: list[RunningService], start: Callable[[], RunningService]) -> None:
    """Replace every copy: a new one works beside it, then it goes, cleanly."""
    for old in list(copies):
        copies.append(start())
        eventually(copies[-1].partitions, bool, 60)
        copies.remove(old)
        status, seconds = old.terminate()
        assert status == 0, old.log[-3000:]
        assert seconds < 10


def assert_counts(monitor: MetricsMonitor, truth: Truth) -> None:
    """Both counters are the truth; rings and elevations go by the order within a session, which is lost here."""
    try:
        eventually(lambda: monitor.total(TRANSITIONS, BREACHES), lambda shown: shown == truth.counters, 90)
        eventually(monitor.duplicated_series, lambda twice: not twice, 20)
        assert monitor.violations == []
    except AssertionError:
        print(describe_copies(monitor.copies))
        raise AssertionError(monitor.differences(truth)[:5]) from None


def test_counts_through_an_upgrade_its_rollback_and_the_upgrade_again(
    new_fleet: Callable[[int], Fleet], chaos: Chaos, earlier: Code, newer: Code, schemas: registry.Registry
) -> None:
    random, fleet = chaos.random, new_fleet(PARTITIONS)
    published: list[HypervisorEvent] = []
    with MetricsMonitor() as monitor:

        def start(code: Code) -> RunningService:
            return fleet.start("ring-metrics", **code.environ, SCHEMA_REGISTRY_URL=schemas.url)

        monitor.copies += [start(earlier), start(earlier)]
        for code in (newer, earlier, newer) * chaos.scaled(1, 5):
            events = list(ring_events(random, 12_000))
            published += events
            load = Load(fleet, records_of_both_versions(random, events), per_second=1_500).start()
            replace_one_by_one(monitor.copies, lambda code=code: start(code))
            eventually(lambda load=load: load.is_over, bool, 120)
        assert_converges(monitor, Truth.of(published))
        assert {
            d for copy in monitor.copies for d in copy.metrics("hypervisor_telemetry_accounting_d").values()
        } == {0}


def test_spans_through_an_upgrade_and_its_rollback(
    new_fleet: Callable[[int], Fleet], chaos: Chaos, earlier: Code, newer: Code, schemas: registry.Registry
) -> None:
    random, fleet = chaos.random, new_fleet(PARTITIONS)
    scenarios = [SagaScenario(number, random) for number in range(chaos.scaled(800, 4_000))]
    truth = {(span.trace_id, span.span_id): span for scenario in scenarios for span in scenario.spans}
    events = list(interleaved(scenarios, random))
    unreliable = UnreliableReceiver(random)
    unreliable.is_healthy = True
    with http_receiver() as receiver:
        receiver.answer = unreliable

        def start(code: Code) -> RunningService:
            options = ("--sink", f"otlp:{receiver.url}/v1/traces")
            return fleet.start("saga-spans", *options, **code.environ, SCHEMA_REGISTRY_URL=schemas.url)

        copies = [start(earlier), start(earlier)]
        # Sagas that began with one version end with another.
        for code, part in zip(
            (newer, earlier), (events[: len(events) // 2], events[len(events) // 2 :]), strict=True
        ):
            load = Load(fleet, records_of_both_versions(random, part), per_second=400, category="saga").start()
            replace_one_by_one(copies, lambda code=code: start(code))
            eventually(lambda load=load: load.is_over, bool, 120)
        try:
            eventually(lambda: len(truth.keys() - unreliable.spans.keys()), lambda missing: missing == 0, 60)
        except AssertionError:
            print(describe_copies(copies))
            raise
        assert span_differences(unreliable.spans, truth) == []
        assert unreliable.contradictions == []


def test_rows_through_an_upgrade_and_its_rollback(
    new_fleet: Callable[[int], Fleet],
    chaos: Chaos,
    postgres: Postgres,
    earlier: Code,
    newer: Code,
    schemas: registry.Registry,
) -> None:
    random, fleet, url = chaos.random, new_fleet(PARTITIONS), postgres.new_database()
    good: dict[str, HypervisorEvent] = {}

    def start(code: Code) -> RunningService:
        return fleet.start(
            "event-index", **code.environ, SCHEMA_REGISTRY_URL=schemas.url, TELEMETRY_DATABASE_URL=url
        )

    copies = [start(earlier), start(earlier)]
    for code in (newer, earlier) * chaos.scaled(1, 5):
        events = list(ring_events(random, 10_000))
        good |= {event.event_id: event for event in events}
        load = Load(fleet, records_of_both_versions(random, events), per_second=1_500).start()
        replace_one_by_one(copies, lambda code=code: start(code))
        eventually(lambda load=load: load.is_over, bool, 120)
    eventually(lambda: difference(url, good), lambda wrong: not wrong, 60)
    eventually(lambda: sum(map(lag, copies)), lambda behind: behind == 0, 60)
    assert difference(url, good) == ""


def test_without_a_registry_what_a_newer_agent_writes_is_kept_until_the_upgrade(
    new_fleet: Callable[[int], Fleet], chaos: Chaos, earlier: Code, newer: Code
) -> None:
    """Agents came first, against the rule: nothing is lost, and a replay counts it."""
    random, fleet = chaos.random, new_fleet(PARTITIONS)
    events = list(ring_events(random, 4_000))
    early = set(random.sample(range(len(events)), 400))
    records = [newer_record(event) if n in early else record_of(event) for n, event in enumerate(events)]
    with MetricsMonitor() as monitor:
        monitor.copies.append(fleet.start("ring-metrics", **earlier.environ, TELEMETRY_DEAD_LETTER_RATIO="1"))
        Load(fleet, records, per_second=2_000).start()
        assert_converges(monitor, Truth.of(event for n, event in enumerate(events) if n not in early))

        replace_one_by_one(monitor.copies, lambda: fleet.start("ring-metrics", **newer.environ))
        replay = run_command("dead-letters", "replay", "--reason", "unknown_schema", **fleet.environ)

        assert replay.returncode == 0, replay.stderr
        assert_counts(monitor, Truth.of(events))


def add_partitions(fleet: Fleet, topic: str, partitions: int) -> None:
    [grown] = fleet.admin.create_partitions([NewPartitions(topic, partitions)]).values()
    grown.result(30)


def test_counts_while_the_topic_gets_more_partitions(new_fleet: Callable[[int], Fleet], chaos: Chaos) -> None:
    """Sessions move to other partitions in the middle of their events, and copies come and go afterwards."""
    random, fleet = chaos.random, new_fleet(PARTITIONS)
    before, after = list(ring_events(random, 12_000)), list(ring_events(random, 12_000))
    with MetricsMonitor() as monitor:
        monitor.copies += [fleet.start("ring-metrics"), fleet.start("ring-metrics")]
        # A client learns of new partitions within minutes: the one keeps to the old ones, the other knows.
        first = Load.of_events(fleet, before, per_second=1_500).start()
        eventually(monitor.total_events, lambda total: total > 1_000, 60)
        add_partitions(fleet, fleet.topic("ring"), PARTITIONS + 3)
        second = Load.of_events(fleet, after, per_second=1_500).start()
        eventually(lambda: sum(copy.partitions() for copy in monitor.copies), lambda n: n == PARTITIONS + 3, 120)
        eventually(lambda: first.is_over and second.is_over, bool, 120)
        assert_counts(monitor, Truth.of([*before, *after]))

        replace_one_by_one(monitor.copies, lambda: fleet.start("ring-metrics"))

        assert_counts(monitor, Truth.of([*before, *after]))


def test_spans_after_more_partitions_when_no_saga_was_open(new_fleet: Callable[[int], Fleet], chaos: Chaos) -> None:
    random, fleet = chaos.random, new_fleet(PARTITIONS)
    unreliable = UnreliableReceiver(random)
    unreliable.is_healthy = True
    halves = [[SagaScenario(number, random) for number in numbers] for numbers in (range(200), range(200, 400))]
    with http_receiver() as receiver:
        receiver.answer = unreliable
        copies = [fleet.start("saga-spans", "--sink", f"otlp:{receiver.url}/v1/traces") for _ in range(2)]
        truth = {}
        for scenarios in halves:
            truth |= {(span.trace_id, span.span_id): span for each in scenarios for span in each.spans}
            Load(fleet, map(record_of, interleaved(scenarios, random)), per_second=2_000, category="saga").start()
            eventually(lambda: len(truth.keys() - unreliable.spans.keys()), lambda missing: missing == 0, 90)
            if scenarios is halves[0]:
                add_partitions(fleet, fleet.topic("saga"), PARTITIONS + 3)
        assert span_differences(unreliable.spans, truth) == []
        assert sum(copy.partitions() for copy in copies) == PARTITIONS + 3


def test_another_registry_once_everything_of_the_old_one_is_read(
    new_fleet: Callable[[int], Fleet], chaos: Chaos, schemas: registry.Registry
) -> None:
    """The old one's ids are unknown in the new one; what was read under them is not read as new again."""
    random, fleet = chaos.random, new_fleet(PARTITIONS)
    before, after = list(ring_events(random, 3_000)), list(ring_events(random, 3_000))
    with MetricsMonitor() as monitor, registry.running() as other:
        del other.schemas[1]
        other.schemas[7] = newer_schema()
        monitor.copies += [fleet.start("ring-metrics", SCHEMA_REGISTRY_URL=schemas.url)]
        Load(fleet, [newer_record(event, NEWER_ID) for event in before], per_second=3_000).start()
        assert_converges(monitor, Truth.of(before))

        replace_one_by_one(monitor.copies, lambda: fleet.start("ring-metrics", SCHEMA_REGISTRY_URL=other.url))
        Load(fleet, [newer_record(event, 7) for event in after], per_second=3_000).start()

        assert_converges(monitor, Truth.of([*before, *after]))
