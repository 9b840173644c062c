"""The numbers that a copy of a service with state shows, and for how long."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor_consumers.runtime.commit.lease import Lease
from tests.support.word_count_service import HERE, STATE, TABLE, Copy, WordView, World, assign, outcomes, started


@pytest.fixture
def world() -> World:
    return World()


class TestWhatIsShown:
    def test_is_only_what_is_committed(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.say(0, "a", "b")
        copy.read()
        assert copy.shown() == {0: {"a": 1}}
        assert copy.commit() == {}
        assert copy.shown() == {0: {"a": 2, "b": 1}}
        assert world.committed() == {0: 3}

    def test_is_nothing_before_the_first_transaction(self, world: World) -> None:
        first = started(world, 0)
        world.say(0, "a")
        first.read()
        first.commit()
        first.consumer.close()
        copy = started(world, 0, name="b")
        assert copy.positions == {HERE: 1}
        assert copy.shown() == {}
        assert not copy.processor.may_show()
        assert not copy.processor.is_serving
        copy.commit()
        assert copy.shown() == {0: {"a": 1}}
        assert copy.processor.may_show()
        assert copy.processor.is_serving

    def test_is_nothing_after_the_lease_ran_out_until_the_next_transaction(self, world: World) -> None:
        copy = started(world, 0)
        copy.commit()
        world.clock.now += 9.9
        assert copy.shown() == {0: {}}
        world.clock.now += 0.1
        shown = copy.processor.shown()
        assert (shown.states, shown.rows, shown.state_partitions) == ({}, {}, None)
        assert not copy.processor.may_show()
        assert not copy.processor.is_serving
        copy.commit()
        assert copy.shown() == {0: {}}

    def test_counts_the_lease_from_before_the_transaction(self, world: World, monkeypatch: Any) -> None:
        copy = started(world, 0)
        send = copy.transactions.commit

        def slow(*args: Any) -> Any:
            world.clock.now += 4
            return send(*args)

        monkeypatch.setattr(copy.transactions, "commit", slow)
        copy.commit()
        world.clock.now += 5.9
        assert copy.shown() == {0: {}}
        world.clock.now += 0.1
        assert copy.shown() == {}

    def test_is_nothing_of_a_partition_from_the_moment_it_went(self, world: World) -> None:
        first, second = Copy(world, "a"), Copy(world, "b")
        assign(world, {first: [0, 1], second: []})
        first.restore()
        world.say(0, "a")
        world.say(1, "b")
        first.read()
        first.commit()
        assert first.shown() == {0: {"a": 1}, 1: {"b": 1}}
        world.say(0, "c")
        first.read()

        assign(world, {first: [1], second: [0]})

        assert first.shown() == {1: {"b": 1}}
        second.restore()
        second.commit()
        assert second.shown() == {0: {"a": 1, "c": 1}}

    def test_is_nothing_of_partitions_that_were_lost_and_nothing_of_them_is_committed(self, world: World) -> None:
        first, second = Copy(world, "a"), Copy(world, "b")
        assign(world, {first: [0], second: []})
        first.restore()
        first.commit()
        world.say(0, "a")
        first.read()
        world.kafka.fence(first.consumer)
        first.consumer.consume(0)
        assert first.shown() == {}
        assert first.commit() == {}
        assert world.committed() == {0: 0}
        assign(world, {first: [], second: [0]})
        second.restore()
        second.read()
        second.commit()
        assert second.shown() == {0: {"a": 1}}

    def test_tells_how_many_partitions_the_state_has(self, world: World) -> None:
        copy = started(world, 0)
        copy.commit()
        assert copy.processor.shown().state_partitions == 2

    def test_of_a_copy_without_partitions_is_nothing_and_that_is_ready(self, world: World) -> None:
        copy = started(world)
        assert copy.processor.is_serving
        assert copy.commit() == {}
        assert copy.shown() == {}
        assert world.kinds(STATE) == []

    def test_of_a_thawed_copy_whose_partition_moved_on_is_nothing(self, world: World) -> None:
        frozen, other = Copy(world, "a"), Copy(world, "b")
        assign(world, {frozen: [0], other: []})
        frozen.restore()
        world.say(0, "a")
        frozen.read()
        frozen.commit()
        world.kafka.fence(frozen.consumer)
        world.clock.now += 12
        assign_to = {other.consumer: [tuple(HERE)]}
        world.kafka.rebalance(assign_to)
        other.consumer.consume(0)
        other.restore()
        world.say(0, "a")
        other.read()
        other.commit()

        assert frozen.shown() == {}
        frozen.read()
        again = frozen.commit()  # before it has learned of anything
        assert again == {HERE: 1}
        assert frozen.shown() == {}
        assert world.committed() == {0: 2}
        assert other.shown() == {0: {"a": 2}}


class TestTheLease:
    def test_is_renewed_by_offsets_alone_when_a_third_of_it_has_passed(self, world: World) -> None:
        copy = started(world, 0, 1)
        copy.commit()
        world.group.committed.clear()
        size = len(world.kinds(STATE))
        world.clock.now += 3.3
        copy.commit()
        assert outcomes(copy)["committed"] == 1
        world.clock.now += 0.1
        copy.commit()
        assert outcomes(copy)["committed"] == 2
        assert len(world.kinds(STATE)) == size
        assert world.committed() == {0: 0, 1: 0}
        world.clock.now += 9.9
        assert copy.shown() == {0: {}, 1: {}}

    def test_is_not_renewed_by_a_transaction_that_was_aborted(self, world: World) -> None:
        copy = started(world, 0)
        copy.commit()
        world.clock.now += 5
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        assert copy.commit() == {HERE: 0}
        world.clock.now += 5
        assert copy.shown() == {}

    def test_is_asked_for_once_if_no_setting_says_it(self, world: World) -> None:
        asked = []
        lease = Lease(None, world.clock)
        copy = started(world, 0, lease=lease, find_lease=lambda: asked.append(1) or 4.0)
        copy.commit()
        world.clock.now += 3.9
        assert copy.shown() == {0: {}}
        copy.commit()
        assert asked == [1]
        world.clock.now += 4
        assert copy.shown() == {}

    def test_of_a_copy_that_has_only_rows_is_renewed_too(self, world: World) -> None:
        copy = Copy(world, view=WordView())
        assign(world, {copy: []}, {copy: [0]})
        copy.restore()
        world.kafka.append(TABLE, 0, "3", key="a")
        copy.read()
        assert copy.processor.shown().rows == {}
        copy.commit()
        assert copy.processor.shown().rows == {0: {"a": 3}}
        assert world.committed(TABLE) == {0: 1}
