"""The ids that a restored partition knows again, read from the source's log."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.records import Result
from hypervisor_schemas.dead_letters import REPLAY_FOR
from hypervisor_schemas.errors import RegistryUnavailable
from hypervisor_schemas.wire.codec import EventDecoder, confluent_framing, encode_event, schema_text
from tests.support.restoring import Workshop, counted, told
from tests.support.word_count_service import HERE, SOURCE, THERE, World, said, started


@pytest.fixture
def world() -> World:
    return World()


class TestTheWindow:
    def test_knows_the_same_ids_again(self, world: World) -> None:
        events = world.say(0, "a", "b", 1, "c")
        copy = started(world, 0)
        copy.read()
        copy.commit()
        world.say(0, "not committed")
        partition = Workshop(world).restored()
        answers = [partition.apply(offset, event, 0)[0] for offset, event in enumerate(events[:2], 4)]
        assert answers == [Result.DUPLICATE] * 2
        assert partition.apply(6, said("mended", events[2].event_id), 0)[0] is Result.APPLIED

    @pytest.mark.parametrize("last", ["again", "bad", "another"])
    def test_knows_the_same_ids_whatever_else_is_read_with_them(self, world: World, last: str) -> None:
        events = world.say(0, "a", "b")
        if last == "again":
            world.kafka.append(SOURCE, 0, encode_event(events[0]))
        elif last == "bad":
            world.kafka.append(SOURCE, 0, b"\xff")
        else:
            world.kafka.append(SOURCE, 0, encode_event(said("c", "not hexadecimal")))
        told(world)
        partition = Workshop(world).restored()
        again = [*events, said("c", "not hexadecimal")]
        answers = [partition.apply(offset, event, 0)[0] for offset, event in enumerate(again, 3)]
        assert answers == [Result.DUPLICATE] * 2 + [Result.DUPLICATE if last == "another" else Result.APPLIED]

    def test_does_not_know_what_was_not_committed(self, world: World) -> None:
        told(world, "a")
        [event] = world.say(0, "b")
        partition = Workshop(world).restored()
        assert partition.apply(1, event, 0)[0] is Result.APPLIED

    def test_is_read_from_the_stretch_before_on(self, world: World) -> None:
        events = world.say(0, *"abcdefgh")
        copy = started(world, 0, window=3)
        copy.read()
        copy.commit()
        partition = Workshop(world, window=3).restored()
        known = [partition.apply(8, event, 0)[0] for event in events[:8]]
        assert known == [Result.APPLIED] * 3 + [Result.DUPLICATE] * 5

    def test_is_what_is_left_of_it_where_retention_deleted_some(self, world: World) -> None:
        events = world.say(0, *"abcd")
        told(world)
        world.kafka.expire(SOURCE, 0, 2)
        partition = Workshop(world).restored()
        known = [partition.apply(4, event, 0)[0] for event in events]
        assert known == [Result.APPLIED] * 2 + [Result.DUPLICATE] * 2

    @pytest.mark.parametrize("receiver", ["another", "words"])
    def test_does_not_know_what_was_sent_again_for_another_service(self, world: World, receiver: str) -> None:
        event = said("a")
        world.kafka.append(SOURCE, 0, encode_event(event), headers=[(REPLAY_FOR, receiver)])
        told(world)
        partition = Workshop(world).restored()
        known = partition.apply(1, event, 0)[0]
        assert known is (Result.DUPLICATE if receiver == "words" else Result.APPLIED)

    def test_goes_over_records_that_cannot_be_read_and_markers(self, world: World) -> None:
        world.kafka.append(SOURCE, 0, b"\xff")
        world.kafka.append(SOURCE, 0, None)
        producer = world.kafka.producer({"transactional.id": "an agent"})
        producer.init_transactions()
        event = said("a")
        for end in (producer.abort_transaction, producer.commit_transaction):
            producer.begin_transaction()
            producer.produce(SOURCE, encode_event(event), partition=0)
            producer.flush()
            end()
        assert world.kinds(SOURCE) == ["plain", "plain", "aborted", "abort marker", "committed", "commit marker"]
        copy = started(world, 0)
        copy.read()
        copy.processor.advanced(HERE, 6)
        copy.commit()
        partition = Workshop(world).restored()
        assert partition.next_offset == 6
        assert partition.apply(6, event, 0)[0] is Result.DUPLICATE

    def test_does_not_know_what_comes_behind_a_marker_at_its_end(self, world: World) -> None:
        producer = world.kafka.producer({"transactional.id": "an agent"})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(SOURCE, encode_event(said("a")), partition=0)
        producer.commit_transaction()
        copy = started(world, 0)
        copy.read()
        copy.processor.advanced(HERE, 2)
        copy.commit()
        [event] = world.say(0, "b")
        partition = Workshop(world).restored()
        assert partition.next_offset == 2
        assert partition.apply(2, event, 0)[0] is Result.APPLIED


class Registry:
    """Knows the schema as number 7, when it answers."""

    answers = True

    def __call__(self, schema_id: int) -> str:
        if not self.answers:
            raise RegistryUnavailable("The registry is away.")
        return schema_text()


def test_a_registry_that_is_away_holds_up_only_partitions_with_records_that_need_it(world: World):
    registry = Registry()
    event = said("a")
    world.kafka.append(SOURCE, 0, encode_event(event, confluent_framing(7)))
    world.say(1, "b")
    copy = started(world, 0, 1, decoder=EventDecoder(registry))
    copy.read()
    copy.commit()
    registry.answers = False
    workshop = Workshop(world, EventDecoder(registry))

    assert counted(workshop.restored(THERE, HERE)) == {"b": 1}
    for _ in range(5):
        world.clock.now += 1.1
        workshop.step(2)
    assert set(workshop.done) == {THERE}
    assert workshop.restorer.trouble == ("The registry is away. Partitions with records that need it wait.")

    registry.answers = True
    world.clock.now += 1.1
    workshop.step(3)
    assert workshop.restorer.trouble == ""
    assert counted(workshop.partition()) == {"a": 1}
    assert workshop.partition().apply(1, event, 0)[0] is Result.DUPLICATE


def test_a_registry_that_is_away_holds_up_nothing_for_records_before_the_window(world: World):
    registry = Registry()
    world.kafka.append(SOURCE, 0, encode_event(said("a"), confluent_framing(7)))
    world.say(0, *"bcdefgh")
    copy = started(world, 0, decoder=EventDecoder(registry), window=3)
    copy.read()
    copy.commit()
    registry.answers = False

    assert len(counted(Workshop(world, EventDecoder(registry), window=3).restored())) == 8
