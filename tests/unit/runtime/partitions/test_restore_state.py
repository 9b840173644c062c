"""A state is restored, also when a transaction was left open."""

from __future__ import annotations

import pytest

from hypervisor_consumers.runtime.partitions.offset_accounting import AGED_OUT, Account
from hypervisor_schemas.errors import OutputUnavailable
from tests.support.restoring import Workshop, counted, told
from tests.support.word_count_service import HERE, SOURCE, STATE, THERE, Copy, World, started


@pytest.fixture
def world() -> World:
    return World()


class TestWhatComesBack:
    def test_is_what_was_committed(self, world: World) -> None:
        told(world, "a", "b", "a")
        published = int(world.clock.now * 1000)
        partition = Workshop(world).restored()
        assert counted(partition) == {"a": 2, "b": 1}
        assert partition.account == Account(0, 3, {"applied": 3}, published)
        assert partition.next_offset == 3

    def test_of_a_partition_that_nobody_read_is_nothing(self, world: World) -> None:
        world.say(0, "a")
        partition = Workshop(world).restored()
        assert counted(partition) == {}
        assert partition.account == Account(0, 0, {})
        assert partition.has_changes

    def test_of_a_partition_that_nobody_read_begins_where_its_log_does(self, world: World) -> None:
        world.say(0, "a", "b", "c")
        world.kafka.expire(SOURCE, 0, 2)
        assert Workshop(world).restored().account == Account(2, 2, {})

    def test_has_nothing_of_an_aborted_transaction(self, world: World) -> None:
        told(world, "a")
        world.say(0, "b")
        copy = started(world, 0, name="b")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        assert "aborted" in world.kinds(STATE)
        partition = Workshop(world).restored()
        assert counted(partition) == {"a": 1}
        assert partition.next_offset == 1

    def test_has_nothing_of_other_partitions(self, world: World) -> None:
        copy = started(world, 0, 1)
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        copy.commit()
        workshop = Workshop(world)
        assert counted(workshop.restored(HERE, THERE)) == {"a": 1}
        assert counted(workshop.partition(THERE)) == {"b": 1}

    def test_of_two_partitions_that_share_one_of_the_state_is_told_apart(self) -> None:
        world = World(partitions=1)
        told(world, "a", "b")
        world.kafka.create_topic(SOURCE, 3)  # the source has grown; its state never does
        copy = started(world, 0, 1, 2)
        world.say(1, "a")
        world.say(2, "c", "c")
        copy.read()
        copy.commit()
        workshop = Workshop(world)
        workshop.begin(*copy.positions)
        workshop.step(10)
        assert workshop.restorer.state_partitions == 1
        assert {
            topic_partition.partition: counted(workshop.partition(topic_partition))
            for topic_partition in workshop.done
        } == {
            0: {"a": 1, "b": 1},
            1: {"a": 1},
            2: {"c": 2},
        }

    def test_of_the_gone_group_offset_goes_on_from_the_account(self, world: World) -> None:
        told(world, "a", "b")
        world.group.committed.clear()
        partition = Workshop(world).restored()
        assert counted(partition) == {"a": 1, "b": 1}
        assert partition.next_offset == 2

    def test_goes_on_behind_what_retention_deleted_unread(self, world: World) -> None:
        told(world, "a")
        world.say(0, "b", "c", "d")
        world.kafka.expire(SOURCE, 0, 3)
        partition = Workshop(world).restored()
        assert partition.next_offset == 3
        list(partition.changes())
        partition.commit()
        assert partition.account.results == {"applied": 1, AGED_OUT: 2}

    def test_was_asked_for_a_while_ago(self, world: World) -> None:
        workshop = Workshop(world)
        workshop.begin(HERE)
        world.clock.now += 3
        workshop.step(5)
        assert workshop.restorer.age(workshop.done[HERE]) == 3

    def test_is_given_out_once(self, world: World) -> None:
        workshop = Workshop(world)
        workshop.restored()
        assert workshop.restorer.finished() == []
        assert not workshop.restorer.step()

    def test_of_partitions_that_share_one_waits_for_the_other_to_be_read(self) -> None:
        world = World(partitions=2, state_partitions=1)
        copy = started(world, 0, 1)
        for partition, word in enumerate("ab"):
            world.say(partition, word)
        copy.read()
        copy.commit()
        workshop = Workshop(world)
        workshop.begin(HERE, THERE)
        for _ in range(2):
            world.kafka.fail_next("consume", before=True)
            workshop.step()
        assert workshop.done == {}
        workshop.step(10)
        assert [counted(workshop.partition(topic_partition)) for topic_partition in (HERE, THERE)] == [
            {"a": 1},
            {"b": 1},
        ]


class TestAnOpenTransaction:
    def leave_open(self, world: World, operation: str = "commit_transaction") -> Copy:
        """A copy that has the partition and begins to commit a word, but doesn't come to the end."""
        copy = started(world, 0)
        world.say(0, "b")
        copy.read()
        world.kafka.fail_next(operation, before=True)
        if operation != "commit_transaction":
            world.kafka.fail_next("abort_transaction", before=True)
        with pytest.raises(OutputUnavailable):
            copy.commit()
        return copy

    def test_is_waited_for_and_included_when_it_ends_well_after_the_partition_moved(self, world: World) -> None:
        told(world, "a")
        loser = self.leave_open(world)
        world.kafka.fence(loser.consumer)
        workshop = Workshop(world)
        workshop.begin(HERE)
        for _ in range(3):
            workshop.step()
            world.clock.now += 1
        assert workshop.done == {}

        loser.transactions.finish()
        workshop.step(5)

        assert counted(workshop.partition()) == {"a": 1, "b": 1}
        assert workshop.partition().next_offset == 2

    def test_of_a_killed_copy_is_waited_for_until_kafka_ends_it(self, world: World) -> None:
        told(world, "a")
        self.leave_open(world)
        workshop = Workshop(world)
        workshop.begin(HERE)
        workshop.step(3)
        assert workshop.done == {}
        world.clock.now += 11
        workshop.step(5)
        assert counted(workshop.partition()) == {"a": 1}
        assert workshop.partition().next_offset == 1

    def test_without_offsets_is_waited_for_in_the_changelog(self, world: World) -> None:
        """The group's offset is stable, and the state up to it is behind records that are not decided."""
        told(world, "a")
        self.leave_open(world, "send_offsets_to_transaction")
        assert not world.group.is_unstable(HERE)
        workshop = Workshop(world)
        workshop.begin(HERE)
        workshop.step(5)
        assert workshop.done == {}
        world.clock.now += 11
        workshop.step(5)
        assert counted(workshop.partition()) == {"a": 1}

    def test_of_one_partition_holds_up_no_other(self, world: World) -> None:
        self.leave_open(world)
        workshop = Workshop(world)
        assert counted(workshop.restored(THERE, HERE)) == {}
        assert set(workshop.done) == {THERE}
