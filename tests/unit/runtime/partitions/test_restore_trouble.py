"""Restoring while Kafka is in trouble: it is said, and asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaError

from tests.support.restoring import Workshop, counted, told
from tests.support.word_count_service import HERE, SOURCE, STATE, World

if TYPE_CHECKING:
    from hypervisor_telemetry.testing.memory.consumer import MemoryConsumer


@pytest.fixture
def world() -> World:
    return World()


class TestKafkaInTrouble:
    @pytest.mark.parametrize("operation", ["list_topics", "committed", "get_watermark_offsets", "consume"])
    def test_at_any_question_is_said_and_asked_again(self, world: World, operation: str) -> None:
        told(world, "a")
        for failures in range(1, 4):
            workshop = Workshop(world)
            workshop.begin(HERE)
            for _ in range(failures):
                world.kafka.fail_next(operation, before=True)
            workshop.step(2)
            assert "Local: Timed out." in workshop.restorer.trouble
            assert workshop.done == {}
            workshop.step(10)
            assert counted(workshop.partition()) == {"a": 1}
            assert workshop.restorer.trouble == ""

    def test_is_a_sentence(self, world: World) -> None:
        world.kafka.away()
        workshop = Workshop(world)
        workshop.begin(HERE)
        workshop.step()
        assert workshop.restorer.trouble == ("Kafka can't be asked what is kept of a partition: Local: Timed out.")
        world.kafka.back()
        workshop.step(3)
        assert workshop.restorer.trouble == ""
        assert set(workshop.done) == {HERE}

    def test_that_is_an_old_connection_is_mended_by_a_new_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[MemoryConsumer] = []
        new = world.kafka.consumer
        monkeypatch.setattr(world.kafka, "consumer", lambda settings: made.append(new(settings)) or made[-1])
        workshop = Workshop(world)
        workshop.begin(HERE)
        world.kafka.fail_next("committed", KafkaError(KafkaError.FENCED_LEADER_EPOCH), before=True)
        workshop.step()
        with pytest.raises(RuntimeError, match="closed"):
            made[-1].assignment()
        workshop.step(5)
        assert set(workshop.done) == {HERE}

    def test_that_is_a_topic_without_partitions_is_said(self, world: World) -> None:
        del world.kafka._broker.cluster.topics[STATE]
        workshop = Workshop(world)
        workshop.begin(HERE)
        workshop.step(3)
        assert workshop.restorer.trouble.startswith("Kafka can't be asked what is kept of a partition: ")
        world.kafka.create_topic(STATE, 2)
        workshop.step(3)
        assert set(workshop.done) == {HERE}

    def test_that_is_a_log_whose_beginning_moved_meanwhile_begins_again(self, world: World) -> None:
        told(world, *"abc")
        workshop = Workshop(world)
        workshop.begin(HERE)
        world.kafka.fail_next("consume", before=True)
        workshop.step()
        workshop.step()  # the changelog is read
        world.kafka.fail_next("consume", before=True)
        workshop.step()  # where the window begins is known
        assert workshop.done == {}
        world.kafka.expire(SOURCE, 0, 2)
        workshop.step(5)
        assert counted(workshop.partition()) == dict.fromkeys("abc", 1)
        assert workshop.partition().next_offset == 3
