"""Batches are decoded and folded at once where they can be, and record by record where they can't."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from hypervisor_consumers.runtime import ingest as taking
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.wire.codec import EventDecoder, encode_event
from tests.kafka.worlds import InMemory, Real, World, event, running_copy
from tests.support.service_copies import SOURCE

if TYPE_CHECKING:
    from collections.abc import Iterator


MANY = 3 * taking.WORTH_IT


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, topic_prefix: str) -> Iterator[World]:
    it = Real(request.getfixturevalue("kafka"), topic_prefix) if request.param == "real" else InMemory()
    yield it
    for copy in it.copies:
        copy.consumer.close()


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the events that were decoded one by one."""
    decoded: list[str] = []
    decode = EventDecoder.decode

    def note(self: EventDecoder, value: bytes | None) -> HypervisorEvent:
        event = decode(self, value)
        decoded.append(event.event_id)
        return event

    monkeypatch.setattr(EventDecoder, "decode", note)
    return decoded


def test_a_batch_of_new_events_is_taken_at_once(world: World, one_by_one: list[str]) -> None:
    copy = running_copy(world)
    one_by_one.clear()
    world.put(*(event() for _ in range(MANY)))
    world.settled(copy, MANY + 1)
    assert copy.results() == Counter(applied=MANY + 1)
    # What came first may have come alone.
    assert len(one_by_one) < taking.WORTH_IT


@pytest.mark.parametrize("odd", ["junk", "duplicate", "unfit", "header"])
def test_a_batch_with_something_else_in_it_is_taken_record_by_record(
    world: World, one_by_one: list[str], odd: str
) -> None:
    copy = running_copy(world)
    events = [event() for _ in range(MANY)]
    one_by_one.clear()
    unfit = HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s", payload={"ring": 7})
    match odd:
        case "junk":
            world.put(*events, b"junk")
        case "duplicate":
            world.put(*events, events[0])
        case "unfit":
            world.put(*events, unfit)
        case _ if isinstance(world, InMemory):
            world.put(*events)
            replayed = [("hypervisor-replay-for", b"saga-spans")]
            world.memory.append(SOURCE, 0, encode_event(event()), headers=replayed)
        case _:
            world.put(*events)
            producer = Producer({"bootstrap.servers": world.bootstrap_servers})
            replay = {"hypervisor-replay-for": b"saga-spans"}
            producer.produce(world.prefix + SOURCE, encode_event(event()), partition=0, headers=replay)
            assert producer.flush(10) == 0
    world.until(lambda: sum(copy.results().values()) == MANY + 2, copy)
    other = {"junk": "undecodable", "duplicate": "duplicate", "unfit": "invalid_payload", "header": "ignored"}[odd]
    assert copy.results() == Counter({"applied": MANY + 1, other: 1})
    if isinstance(world, InMemory):  # a real one may give them in several batches
        assert len(one_by_one) >= MANY
