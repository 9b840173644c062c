"""`ring-metrics` end to end, beside other stream processors on the same topic with the same work.

What is measured of those that commit to Kafka is how their group's committed offsets advance; so start-up and
restoring don't count, and ours, Kafka Streams and plain reading are all measured over the same stretch of the
topic, behind the events that a JVM takes to get warm. The others have no such phase and get fewer events; those
that end by themselves say how long they took, from the first to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from confluent_kafka.admin import NewTopic

from bench.load import SERIES, Record, read_plainly, ring_records, working_off, write_plainly
from bench.peers.rate import rate_of
from bench.peers.running import PEERS, SCHEMA_ID, Peer, why_not
from bench.row import Row
from bench.setting import Setting
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, confluent_framing
from tests.support.service_processes import Fleet

OURS, PLAIN = "ring-metrics", "plain consume()"
PARTITIONS = 8
WARM_UP = max(peer.warm_up for peer in PEERS)
AIMS = {"Kafka Streams": (1.5, 2), "Quix": (6, 8), PLAIN: (0.25, 0.4)}
"""Floor and goal, by the beginning of the alternative's name."""


def measure(setting: Setting) -> Iterable[Row]:
    count, fewer = (3_000_000, 1_000_000) if setting.full else (1_200_000, 250_000)
    setting.say(f"making {count:,} events")
    records = ring_records(count)
    peers = list(PEERS)
    for peer in PEERS:
        if (why := why_not(peer)) is not None:
            setting.say(f"{peer.name} is left out: {why}")
            peers.remove(peer)
    figures: dict[str, list[float]] = {}
    for number in range(setting.rounds):
        with setting.fleet(PARTITIONS) as fleet:
            works = _prepared(fleet, records, fewer, peers)
            names = list(works)
            # Each round begins with another one: what comes first meets a broker that is still busy with writing.
            for name in (*names[number % len(names) :], *names[: number % len(names)]):
                setting.say(f"round {number + 1} of {setting.rounds}: {name}")
                figures.setdefault(name, []).append(works[name]())
    yield from _rows(figures, count, len(records[0][1]))


def _prepared(
    fleet: Fleet, records: Sequence[Record], fewer: int, peers: Sequence[Peer]
) -> dict[str, Callable[[], float]]:
    """Write the topic; return functions that measure the events per second of each alternative."""
    many, few, confluent = fleet.topic("ring"), f"{fleet.prefix}few", f"{fleet.prefix}confluent"
    made = fleet.admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in (few, confluent)])
    for done in made.values():
        done.result(30)
    write_plainly(fleet, many, records)
    write_plainly(fleet, few, records[:fewer])
    framing = confluent_framing(SCHEMA_ID)
    write_plainly(
        fleet, confluent, [(key, framing + value[len(SINGLE_OBJECT) :]) for key, value in records[:fewer]]
    )
    works: dict[str, Callable[[], float]] = {
        PLAIN: lambda: (len(records) - WARM_UP) / read_plainly(fleet, many, PARTITIONS, len(records), WARM_UP),
        OURS: partial(_ours, fleet, len(records)),
    }
    for peer in peers:
        if peer.warm_up:
            works[peer.name] = partial(rate_of, peer, fleet, many, len(records), len(records))
        else:
            topic = confluent if peer.confluent_wire else few
            works[peer.name] = partial(rate_of, peer, fleet, topic, fewer, fewer)
    return works


def _rows(figures: dict[str, list[float]], count: int, size: int) -> Iterator[Row]:
    ours = figures.pop(OURS)
    what = f"{OURS}, exactly-once, one process"
    notes = {peer.name: peer.not_equal for peer in PEERS} | {
        PLAIN: f"{count:,} events of {size} bytes, {SERIES:,} series, {PARTITIONS} partitions; behind the first "
        f"{WARM_UP:,}."
    }
    for name, theirs in figures.items():
        floor, goal = next((aim for begin, aim in AIMS.items() if name.startswith(begin)), (None, None))
        yield Row(what, "events/s", ours, name, theirs, floor, goal, notes[name])


def _ours(fleet: Fleet, count: int) -> float:
    service = fleet.start(OURS)
    try:
        return working_off(fleet, fleet.prefix + OURS, fleet.topic("ring"), count, WARM_UP)
    finally:
        service.close()
