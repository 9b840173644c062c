"""One record in ten is bad: the good ones count exactly, the bad ones are kept, and replayed when they can be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import pytest
from confluent_kafka import Consumer, TopicPartition

from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import confluent_framing, encode_event, schema_text
from tests.chaos.harness import Load, MetricsMonitor, Truth, assert_converges, record_of, ring_events
from tests.support.schema_registry import Registry, running
from tests.support.service_processes import Fleet, eventually, run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from random import Random

    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

PARTITIONS = 4
Record: TypeAlias = tuple[bytes | None, bytes | None]
LATE_SCHEMA = 77


def test_good_events_count_exactly_among_bad_ones_which_are_kept_and_replayed(
    new_fleet: Callable[[int], Fleet], chaos: Chaos
) -> None:
    random = chaos.random
    fleet = new_fleet(PARTITIONS)
    good: list[HypervisorEvent] = []
    late: list[HypervisorEvent] = []
    bad: list[Record] = []
    records = list(mixed(random, chaos.scaled(40_000, 400_000), good, late, bad))
    with running(Registry()) as registry:
        environ = {"SCHEMA_REGISTRY_URL": registry.url}
        with MetricsMonitor([fleet.start("ring-metrics", **environ) for _ in range(2)]) as monitor:
            load = Load(fleet, records, per_second=4_000).start()
            eventually(monitor.total_events, lambda total: total > len(good) / 4, 60)
            monitor.copies.pop(0).kill()
            monitor.copies.append(fleet.start("ring-metrics", **environ))
            eventually(lambda: load.is_over, bool, 300)
            assert_converges(monitor, Truth.of(good))
            eventually(lambda: difference(bad, dead_letters(fleet)), lambda wrong: not wrong, 30)

            # The schema is registered: what was written with it can be used.
            registry.schemas[LATE_SCHEMA] = schema_text()
            for copy in monitor.copies:
                assert copy.terminate()[0] == 0
            monitor.copies[:] = [fleet.start("ring-metrics", **environ)]
            replay = ("dead-letters", "replay", "--service", "ring-metrics", "--reason", "unknown_schema")
            done = run_command(*replay, **fleet.environ)
            assert done.returncode == 0, done.stderr
            again = run_command(*replay, **fleet.environ)
            assert again.returncode == 0, again.stderr
            assert_converges(monitor, Truth.of([*good, *late]))
            assert difference(bad, dead_letters(fleet)) == {}


def mixed(
    random: Random,
    count: int,
    good: list[HypervisorEvent],
    late: list[HypervisorEvent],
    bad: list[Record],
) -> Iterator[Record]:
    """Records in the order to send; what each is goes to the lists."""
    sent: list[tuple[bytes | None, bytes]] = []
    large = "x" * 900_000
    for n, event in enumerate(ring_events(random, count)):
        key, value = record_of(event)
        kind = random.random()
        if kind < 0.03 and sent:
            yield random.choice(sent[-500:])  # once more
        elif kind < 0.05:
            bad.append((key, b"\xff" + random.randbytes(random.randrange(200))))
            yield bad[-1]
        elif kind < 0.07:
            bad.append((key, value[:-1]))
            yield bad[-1]
        elif kind < 0.08:
            wrong = HypervisorEvent(
                event_type=EventType.RING_ASSIGNED, session_id=event.session_id, payload={"to_ring": "none"}
            )
            bad.append(record_of(wrong))
            yield bad[-1]
        elif kind < 0.10:
            # Breaches only: they are counted alike in whatever order they come.
            breach = HypervisorEvent(
                event_type=EventType.RING_BREACH_DETECTED, session_id=event.session_id, agent_did=event.agent_did
            )
            late.append(breach)
            bad.append((key, encode_event(breach, confluent_framing(LATE_SCHEMA))))
            yield bad[-1]
        else:
            if n % 10_000 == 5_000:
                event.payload["transcript"] = large
            good.append(event)
            sent.append(record_of(event))
            yield sent[-1]


def difference(wanted: Collection[Record], got: Collection[Record]) -> dict[str, object]:
    """Count missing and surplus records, with an example of each kind."""
    missing, beyond = Counter(wanted) - Counter(got), Counter(got) - Counter(wanted)
    if not missing and not beyond:
        return {}
    return {
        "missing": missing.total(),
        "beyond": beyond.total(),
        "examples": [*missing.most_common(1), *beyond.most_common(1)],
        "of": len(wanted),
    }


def dead_letters(fleet: Fleet) -> list[Record]:
    """Key and value of every dead letter; marks of replays are none."""
    settings = {
        "bootstrap.servers": fleet.bootstrap_servers,
        "group.id": "nobody",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "log_level": 0,
    }
    reader = Consumer(settings)
    reader.assign([TopicPartition(f"{fleet.prefix}dead-letters", one, 0) for one in range(PARTITIONS)])
    found, ended = [], 0
    while ended < PARTITIONS:
        for message in reader.consume(500, timeout=1):
            if message.error() is not None:
                ended += 1
            elif any(name == "hypervisor-dead-letter-service" for name, _ in message.headers() or ()):
                found.append((message.key(), message.value()))
    reader.close()
    return found
