"""A copy of a service with state while its partitions are restored."""

from __future__ import annotations

import pytest
from confluent_kafka import TopicPartition

from hypervisor_schemas.errors import StateError
from tests.support.word_count_service import HERE, THERE, Copy, World, assign, started


@pytest.fixture
def world() -> World:
    return World()


class TestRestoring:
    def test_a_state_that_cannot_be_right_stops_the_service(self, world: World) -> None:
        world.consumer().commit(offsets=[TopicPartition(*HERE, 0)], asynchronous=False)
        copy = Copy(world)
        assign(world, {copy: [0]})
        with pytest.raises(StateError, match="holds no state for it"):
            copy.restore()

    def test_in_trouble_is_said_while_something_is_restored(self, world: World) -> None:
        copy = Copy(world)
        assign(world, {copy: [0]})
        assert copy.processor.trouble == ""
        world.kafka.fail_next("committed", before=True)
        copy.restore(1)
        assert "Kafka can't be asked" in copy.processor.trouble
        copy.lose(HERE)
        assert copy.processor.trouble == ""

    def test_a_partition_that_went_meanwhile_is_not_read(self, world: World) -> None:
        copy = Copy(world)
        assign(world, {copy: [0, 1]})
        copy.restorer.step()
        copy.restorer.step()
        copy.lose(HERE)
        copy.restore()
        assert copy.positions == {THERE: 0}
        assert copy.processor.is_serving is False
        copy.commit()
        assert copy.shown() == {1: {}}

    def test_a_partition_that_went_and_came_back_has_what_was_counted_meanwhile(self, world: World) -> None:
        first, second = Copy(world, "a"), Copy(world, "b")
        assign(world, {first: [0], second: []})
        for _ in range(5):
            first.restorer.step()  # restored, and not taken yet
        for counted, (owner, other) in enumerate([(second, first), (first, second)]):
            assign(world, {owner: [0], other: []})
            world.say(0, "a")
            owner.restore()
            assert owner.positions == {HERE: counted}
            owner.read()
            owner.commit()
        assert first.shown() == {0: {"a": 2}}

    def test_a_partition_is_not_shown_before_it_is_restored(self, world: World) -> None:
        copy = started(world, 0)
        copy.commit()
        assign(world, {copy: [0, 1]})
        assert copy.shown() == {0: {}}
        assert not copy.processor.is_serving
        copy.commit()
        assert world.committed() == {0: 0}
        copy.restore()
        assert copy.positions == {HERE: 0, THERE: 0}
        assert copy.processor.is_serving
