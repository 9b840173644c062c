"""Transactions that are aborted on purpose, again and again, in the client's own calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from hypervisor_consumers.runtime.kafka.client_factory import LibrdkafkaClientFactory
from tests.chaos.harness import Load, Truth, ring_events
from tests.support.service_copies import Copy, HookedKafka

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.conftest import Chaos
    from tests.support.service_processes import Fleet

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(1800)]


def test_state_rolls_back_to_what_was_committed_whenever_a_transaction_is_aborted(
    new_fleet: Callable[[int], Fleet], chaos: Chaos
) -> None:
    random = chaos.random
    fleet = new_fleet(3)
    events = list(ring_events(random, chaos.scaled(20_000, 200_000)))
    kafka = HookedKafka(LibrdkafkaClientFactory())
    aborts = 0

    def sometimes_refused(go: Callable[[], Any]) -> Any:
        nonlocal aborts
        if random.random() < 0.3:
            aborts += 1
            if random.random() < 0.5:
                go()  # the offsets are with the broker already
            raise KafkaException(
                KafkaError(KafkaError.ILLEGAL_GENERATION, "Refused on purpose", txn_requires_abort=True)
            )
        return go()

    def sometimes_too_late(go: Callable[[], Any]) -> Any:
        nonlocal aborts
        left = go()
        if random.random() < 0.1:
            aborts += 1
            return 1
        return left

    kafka.hooks = {"send_offsets_to_transaction": sometimes_refused, "flush": sometimes_too_late}
    Load.of_events(fleet, events, per_second=2_000).start()
    copy = Copy(kafka, fleet.prefix, fleet.bootstrap_servers)
    copy.loop._schedule.interval = 0.1
    shown: dict[str, int] = {}
    try:
        while sum(shown.values()) < len(events):
            copy.step()
            counts = copy.counts()
            assert all(counts[session] >= count for session, count in shown.items() if counts)
            shown = dict(counts) or shown
        kafka.hooks = {}
        for _ in range(20):
            copy.step()
        assert copy.results() == {"applied": len(events)}
        assert aborts >= 5
        assert counts_by_series(copy) == Truth.of(events).counters
    finally:
        copy.loop.close()


def counts_by_series(copy: Copy) -> dict[Any, float]:
    return Truth.of_states(copy.processor.shown().states.values()).counters
