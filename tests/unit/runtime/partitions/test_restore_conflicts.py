"""Restoring a partition whose kept state, group offset and log don't agree."""

from __future__ import annotations

import logging

import pytest
from confluent_kafka import TopicPartition

from tests.support.restoring import Workshop, counted, told
from tests.support.word_count_service import GROUP, HERE, SOURCE, STATE, THERE, World

AGAIN = (
    f"To count anew from what the log still holds: stop all copies, delete the group {GROUP} and the topic "
    f"{STATE}, then run `hypervisor-telemetry topics apply`."
)


@pytest.fixture
def world() -> World:
    return World()


class TestWhatIsNotRight:
    """It must not start from zero silently: a sentence says what is wrong and what to do."""

    def test_is_a_group_offset_without_state(self, world: World) -> None:
        world.say(0, "a", "b")
        world.consumer().commit(offsets=[TopicPartition(*HERE, 2)], asynchronous=False)
        assert Workshop(world).error() == (
            f"The group {GROUP} stands at offset 2 of {SOURCE} partition 0, but {STATE} holds no state for it. "
            f"{AGAIN}"
        )

    @pytest.mark.parametrize("has_group_offset", [True, False])
    def test_is_a_source_that_was_made_anew(self, world: World, has_group_offset: bool) -> None:
        told(world, "a", "b")
        world.make_anew(SOURCE, 0)
        world.say(0, "c")
        if not has_group_offset:
            world.group.committed.clear()
        assert Workshop(world).error() == (
            f"{SOURCE} partition 0 ends at offset 1, but the state in {STATE} includes all up to 2: the topic was "
            f"made anew. {AGAIN}"
        )

    def test_is_a_record_that_is_not_of_the_state(self, world: World) -> None:
        told(world, "a")
        world.kafka.append(STATE, 0, "?", key='[0,"words","a"]')
        assert "is not of this service's state" in Workshop(world).error()

    def test_stops_no_other_partition(self, world: World) -> None:
        world.kafka.append(STATE, 0, "?", key="?")
        workshop = Workshop(world)
        workshop.restored(THERE, HERE)
        assert workshop.done[HERE].error is not None
        assert not workshop.restorer.step()


class TestAnotherOffset:
    """The state's word counts: what it includes, it says itself."""

    @pytest.mark.parametrize("offset", [0, 1, 3])
    def test_is_left_for_the_one_of_the_state(
        self, world: World, offset: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        told(world, "a", "b")
        world.say(0, "c")
        world.consumer().commit(offsets=[TopicPartition(*HERE, offset)], asynchronous=False)
        workshop = Workshop(world)
        assert counted(workshop.restored()) == {"a": 1, "b": 1}
        job = workshop.done[HERE]
        assert (job.offset, job.counted_to, job.has_more) == (2, offset, True)
        [said] = caplog.records
        stands = f"The group {GROUP} stands at offset {offset} of {SOURCE} partition 0, what is kept in {STATE} "
        assert said.message.startswith(f"{stands}includes all up to 2. Reading goes on there, nothing is lost: ")
        # Behind, it may be that a commit is on its way to the group's offsets.
        assert said.levelname == ("WARNING" if offset > 2 else "INFO")

    def test_is_none(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        told(world, "a", "b")
        world.group.committed.clear()
        workshop = Workshop(world)
        workshop.restored()
        assert (workshop.done[HERE].offset, workshop.done[HERE].counted_to) == (2, 0)
        assert caplog.messages == []
