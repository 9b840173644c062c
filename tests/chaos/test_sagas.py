"""Spans through crashes of the exporter and every trouble of a receiver: none is missing, none is another one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, TopicPartition

from hypervisor_schemas.dead_letters import read_dead_letter
from tests.chaos.harness import Load, describe_copies, record_of
from tests.chaos.sagas import ReceivedSpan, SagaScenario, UnreliableReceiver, interleaved
from tests.support.service_processes import Fleet, eventually
from tests.support.span_receivers import http_receiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypervisor_schemas.dead_letters import DeadLetter
    from tests.chaos.conftest import Chaos

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]

PARTITIONS = 6


def test_what_the_receiver_has_in_the_end_is_the_truth(new_fleet: Callable[[int], Fleet], chaos: Chaos) -> None:
    random = chaos.random
    fleet = new_fleet(PARTITIONS)
    scenarios = [SagaScenario(number, random) for number in range(chaos.scaled(1_200, 5_500))]
    events = list(interleaved(scenarios, random))
    truth = {(span.trace_id, span.span_id): span for scenario in scenarios for span in scenario.spans}
    poison = {f"{span.trace_id}/{span.span_id}": span for scenario in scenarios for span in scenario.poisoned}
    print(f"{len(events):,} events, {len(truth):,} spans, {len(poison)} that nobody takes")
    unreliable = UnreliableReceiver(random)
    with http_receiver() as receiver:
        receiver.answer = unreliable
        options = ("--sink", f"otlp:{receiver.url}/v1/traces")
        environ = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1000"}
        copies = [fleet.start("saga-spans", *options, **environ) for _ in range(2)]
        load = Load(fleet, map(record_of, events), per_second=chaos.scaled(600, 400), category="saga").start()
        kills = 0
        while not load.is_over:
            until = time.monotonic() + random.uniform(3, 8)
            eventually(lambda until=until: time.monotonic() >= until or load.is_over, bool, 20)
            copies.pop(random.randrange(len(copies))).kill()
            kills += 1
            copies.append(fleet.start("saga-spans", *options, **environ))
        unreliable.is_healthy = True
        try:
            eventually(lambda: len(truth.keys() - unreliable.spans.keys()), lambda missing: missing == 0, 120)
            eventually(lambda: len(poison.keys() - refused(fleet)), lambda missing: missing == 0, 30)
            eventually(lambda: [copy.ready()[1] for copy in copies], lambda said: said == ["ok\n"] * 2, 60)
        except AssertionError:
            print(describe_copies(copies))
            raise
        assert span_differences(unreliable.spans, truth) == []
        assert unreliable.contradictions == []
        assert refused(fleet) == poison.keys()
        assert unreliable.modes_seen >= set(UnreliableReceiver.MODES)
        assert kills >= 2
        spans = [span for scenario in scenarios for span in (*scenario.spans, *scenario.poisoned)]
        counted = [
            sum(sum(copy.metrics(f"agent_hypervisor_{name}_total").values()) for copy in copies)
            for name in ("sagas", "saga_steps", "saga_compensations", "saga_fan_outs")
        ]
        assert sum(counted) == len(spans)
        assert {d for copy in copies for d in copy.metrics("hypervisor_telemetry_accounting_diff").values()} <= {
            0.0
        }


def span_differences(
    got: dict[tuple[str, str], ReceivedSpan], truth: dict[tuple[str, str], ReceivedSpan]
) -> list[tuple[ReceivedSpan | None, ReceivedSpan | None]]:
    """The first few spans that are not as they should be."""
    ids = sorted(got.keys() | truth.keys())
    return [(got.get(one), truth.get(one)) for one in ids if got.get(one) != truth.get(one)][:5]


def refused(fleet: Fleet) -> set[str]:
    """The outputs among the dead letters, by name."""
    return {letter.output for letter in dead_letters(fleet)}


def dead_letters(fleet: Fleet) -> list[DeadLetter]:
    consumer = Consumer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "group.id": f"{fleet.prefix}look",
            "isolation.level": "read_committed",
        }
    )
    topic = f"{fleet.prefix}dead-letters"
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    ends = {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)[1]
        for number in partitions
    }
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    found = []

    def behind() -> list[TopicPartition]:
        # Not by the event of the end: it doesn't come where what was read last was the end of a transaction.
        messages = consumer.consume(500, timeout=0.2)
        letters = [read_dead_letter(one.key(), one.value(), one.headers()) for one in messages if not one.error()]
        found.extend(letter for letter in letters if letter is not None)
        places = consumer.position([TopicPartition(topic, number) for number in ends])
        return [place for place in places if place.offset < ends[place.partition]]

    eventually(behind, lambda places: not any(ends[place.partition] for place in places), 30)
    consumer.close()
    return found
