"""A copy of a service with state: what it shows, delivers and commits, through all that can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from hypervisor_consumers.runtime.account import AGED_OUT, WITHOUT_RECORD
from hypervisor_consumers.runtime.lease import Lease
from hypervisor_consumers.runtime.processor import Place
from hypervisor_schemas.codec import encode_event
from hypervisor_schemas.dead_letters import REPLAY_FOR, DeadLetter, read_dead_letter
from hypervisor_schemas.errors import OutputUnavailable, StateError
from hypervisor_schemas.topics import partition_of
from tests.words import (
    DEAD_LETTERS,
    SOURCE,
    STATE,
    TABLE,
    Copy,
    WordView,
    World,
    assign,
    published_words,
    results,
    said,
    started,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HERE, THERE = Place(SOURCE, 0), Place(SOURCE, 1)
FOR_GOOD = KafkaError(KafkaError.INVALID_TXN_STATE, "Broker: not now, not ever")


@pytest.fixture
def world() -> World:
    return World()


class Shelf:
    """Keeps what is delivered, while it is open; `look` is called at each delivery."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.is_full = False
        self.closed = 0
        self.look: Callable[[], object] = lambda: None

    def deliver(self, outputs: Sequence[str]) -> None:
        self.look()
        if self.is_full:
            raise OutputUnavailable("The shelf is full.")
        self.delivered += outputs

    def close(self) -> None:
        self.closed += 1


def outcomes(copy: Copy) -> dict[str, float]:
    families = copy.ledger.families(now=0, flood=False, degraded=False)
    [family] = [family for family in families if family.name == "hypervisor_telemetry_transactions"]
    return {sample.labels["outcome"]: sample.value for sample in family.samples}


def sample(copy: Copy, name: str) -> float:
    families = copy.ledger.families(now=0, flood=False, degraded=False)
    [value] = [one.value for family in families for one in family.samples if one.name.endswith(name)]
    return value


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


class TestAnAbortedTransaction:
    @pytest.mark.parametrize(
        "operation", ["flush", "send_offsets_to_transaction", "deliver and send_offsets_to_transaction"]
    )
    def test_is_rolled_back_and_read_again(self, world: World, operation: str) -> None:
        copy = started(world, 0, 1)
        [event] = world.say(0, "a")
        world.say(1, "c")
        copy.read()
        copy.commit()
        world.publish(0, said("b"), event)
        world.say(0, "b")
        copy.read()
        for one in operation.split(" and "):
            world.kafka.fail_next(one, before=True)

        assert copy.commit() == {HERE: 1, THERE: 1}

        assert copy.shown() == {0: {"a": 1}, 1: {"c": 1}}
        assert world.committed() == {0: 1, 1: 1}
        copy.read()
        assert copy.commit() == {}
        assert copy.shown() == {0: {"a": 1, "b": 2}, 1: {"c": 1}}
        assert results(copy) == {"applied": 3, "duplicate": 1}
        assert outcomes(copy) == {"committed": 2, "aborted": 1, "unknown": 0}

    def test_whose_abort_takes_long_is_waited_for(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        world.kafka.fail_next("abort_transaction", before=True)
        world.kafka.fail_next("abort_transaction", before=False)
        for _ in range(2):
            with pytest.raises(OutputUnavailable, match="was aborted: Local: Timed out"):
                copy.commit()
        assert copy.commit() == {HERE: 0}
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"a": 1}}

    def test_keeps_what_was_aged_out_in_the_account(self, world: World) -> None:
        first = started(world, 0)
        world.say(0, "a")
        first.read()
        first.commit()
        first.consumer.close()
        world.say(0, "b", "c")
        world.kafka.expire(SOURCE, 0, 2)
        copy = started(world, 0, name="b")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        assert copy.commit() == {HERE: 2}
        copy.read()
        copy.commit()
        assert results(copy) == {"applied": 2, AGED_OUT: 1}


class TestACommitWithoutAnAnswer:
    @pytest.mark.parametrize("before", [True, False])
    def test_is_asked_for_again_and_counts_once(self, world: World, before: bool) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("commit_transaction", before=before)
        with pytest.raises(OutputUnavailable, match="has no outcome yet"):
            copy.commit()
        assert copy.shown() == {}
        assert copy.commit() == {}
        assert copy.shown() == {0: {"a": 1}}
        world.say(0, "a")
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"a": 2}}

    def test_that_comes_when_the_partition_went_shows_nothing(self, world: World) -> None:
        first, second = Copy(world, "a"), Copy(world, "b")
        assign(world, {first: [0, 1], second: []})
        first.restore()
        first.commit()
        world.say(0, "a")
        world.say(1, "b")
        first.read()
        world.kafka.fail_next("commit_transaction", before=True)
        with pytest.raises(OutputUnavailable):
            first.commit()
        first.processor.revoked([HERE])

        assert first.commit() == {}

        assert first.shown() == {1: {"b": 1}}
        assert world.committed() == {0: 1, 1: 1}

    @pytest.mark.parametrize("before", [True, False])
    def test_for_good_is_found_out_in_the_changelog(self, world: World, before: bool) -> None:
        copy = started(world, 0, 1)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.say(0, "b")
        copy.read()
        world.kafka.fail_next("commit_transaction", FOR_GOOD, before=before)

        assert copy.commit() == {HERE: None, THERE: None}

        assert copy.shown() == {}
        assert not copy.processor.is_serving
        assert outcomes(copy)["unknown"] == 1
        assert results(copy) == {}
        copy.commit()  # the new producer ends what the old one left open
        copy.restore()
        assert copy.positions == {HERE: 1 if before else 2, THERE: 0}
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"a": 1, "b": 1}, 1: {}}
        assert results(copy) == {"applied": 2}

    def test_for_good_leaves_nothing_for_the_next_transaction(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        world.kafka.append(SOURCE, 0, b"\xff")
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("commit_transaction", FOR_GOOD, before=False)
        copy.commit()
        copy.commit()
        copy.restore()
        copy.read()
        copy.commit()
        assert len(world.records(DEAD_LETTERS)) == 1
        assert shelf.delivered == ["a"]


class TestAnOutput:
    def test_has_everything_before_the_transaction_begins(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        copy.commit()
        shelf.look = lambda: seen.append((world.kinds(STATE, 0)[2:], world.committed()))
        seen: list[Any] = []
        world.say(0, "a", "b")
        copy.read()
        assert shelf.delivered == []
        copy.commit()
        assert shelf.delivered == ["a", "b"]
        assert seen == [([], {0: 0})]
        assert world.committed() == {0: 2}

    def test_that_does_not_take_them_is_asked_again_and_nothing_is_committed(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, 1, output=shelf)
        copy.commit()
        shelf.is_full = True
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        for _ in range(2):
            with pytest.raises(OutputUnavailable, match="The shelf is full"):
                copy.commit()
        assert world.committed() == {0: 0, 1: 0}
        assert copy.shown() == {0: {}, 1: {}}
        shelf.is_full = False
        assert copy.commit() == {}
        assert shelf.delivered == ["a", "b"]
        assert copy.shown() == {0: {"a": 1}, 1: {"b": 1}}
        world.say(0, "c")
        copy.read()
        copy.commit()
        assert shelf.delivered == ["a", "b", "c"]

    def test_gets_them_again_after_an_aborted_transaction(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        copy.read()
        copy.commit()
        copy.commit()
        assert shelf.delivered == ["a", "a"]

    def test_gets_nothing_of_a_partition_that_was_lost(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, 1, output=shelf)
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        copy.processor.revoked([HERE])
        copy.commit()
        assert shelf.delivered == ["b"]
        assert world.committed() == {1: 1}

    def test_gets_nothing_twice_for_an_event_that_came_twice(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        event = said("a")
        world.publish(0, event, event)
        copy.read()
        copy.commit()
        assert shelf.delivered == ["a"]

    def test_is_closed_once(self, world: World) -> None:
        shelf = Shelf()
        started(world, 0, output=shelf).processor.close()
        assert shelf.closed == 1

    def test_is_not_asked_while_no_transaction_can_begin(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("init_transactions", before=True)
        with pytest.raises(OutputUnavailable, match="could not be begun"):
            copy.commit()
        assert shelf.delivered == []
        copy.commit()
        assert shelf.delivered == ["a"]


class TestDeadLetters:
    def letters(self, world: World) -> list[DeadLetter | None]:
        committed = {"plain", "committed"}
        log = [one for one in world.kafka.log(DEAD_LETTERS, 0) if one.kind.value in committed]
        return [read_dead_letter(one.key, one.value, one.headers) for one in log]

    def test_are_the_untouched_records_with_their_place_and_the_reason(self, world: World) -> None:
        copy = started(world, 0, 1)
        world.say(1, "a")
        headers: list[tuple[str, str | bytes | None]] = [("h", b"\xff"), ("h", None)]
        world.kafka.append(SOURCE, 1, b"\xff", key=b"k", headers=headers, timestamp=17)
        unfit = encode_event(said(1))
        world.kafka.append(SOURCE, 1, unfit, timestamp=18)
        copy.read()
        assert self.letters(world) == []
        copy.commit()
        first, second = self.letters(world)
        error = "The bytes begin with neither Avro's single-object mark nor a registry id."
        assert first == DeadLetter(
            b"k", b"\xff", (("h", b"\xff"), ("h", None)), "words", "undecodable", error, SOURCE, 1, 1, 17
        )
        assert second == DeadLetter(
            None, unfit, (), "words", "invalid_payload", "The payload doesn't fit.", SOURCE, 1, 2, 18
        )
        assert results(copy, 1) == {"applied": 1, "undecodable": 1, "invalid_payload": 1}

    def test_are_in_the_transaction_of_their_offsets(self, world: World) -> None:
        copy = started(world, 0)
        world.kafka.append(SOURCE, 0, b"\xff")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        assert world.kinds(DEAD_LETTERS) == ["aborted", "abort marker"]
        copy.read()
        copy.commit()
        copy.commit()
        assert len(self.letters(world)) == 1
        assert world.committed() == {0: 1}

    def test_are_written_once_by_a_commit_without_an_answer(self, world: World) -> None:
        copy = started(world, 0)
        world.kafka.append(SOURCE, 0, b"\xff")
        copy.read()
        world.kafka.fail_next("commit_transaction", before=False)
        with pytest.raises(OutputUnavailable):
            copy.commit()
        copy.commit()
        world.say(0, "a")
        copy.read()
        copy.commit()
        assert len(self.letters(world)) == 1

    def test_go_to_the_partition_of_their_source_among_those_there_are(self) -> None:
        world = World(partitions=4)
        world.kafka.create_topic(DEAD_LETTERS, 3)
        copy = started(world, 3, 2)
        for partition in (3, 2):
            world.kafka.append(SOURCE, partition, b"\xff", key=str(partition))
        copy.read()
        copy.commit()
        assert [[key for key, _ in world.records(DEAD_LETTERS, one)] for one in range(3)] == [[b"3"], [], [b"2"]]

    def test_that_have_no_topic_are_not_passed_over(self, world: World) -> None:
        topics = world.kafka._broker.cluster.topics
        away = topics.pop(DEAD_LETTERS)
        copy = started(world, 0)
        world.kafka.append(SOURCE, 0, b"\xff")
        copy.read()
        assert copy.commit() == {HERE: 0}
        assert world.committed() == {}
        topics[DEAD_LETTERS] = away
        copy.read()
        copy.commit()
        assert len(self.letters(world)) == 1

    def test_sent_again_for_another_service_are_ignored(self, world: World) -> None:
        copy = started(world, 0)
        for receiver in ("another", "words"):
            world.kafka.append(SOURCE, 0, encode_event(said(receiver)), headers=[(REPLAY_FOR, receiver)])
        copy.read()
        copy.commit()
        assert copy.shown() == {0: {"words": 1}}
        assert results(copy) == {"ignored": 1, "applied": 1}


class TestPublicRecords:
    def table(self, world: World) -> dict[bytes | None, bytes | None]:
        return dict(record for partition in (0, 1) for record in world.records(TABLE, partition))

    def test_are_in_the_same_transaction_by_the_partition_of_their_key(self, world: World) -> None:
        copy = started(world, 0, publish=published_words)
        world.say(0, *"abcdef", "a")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        assert self.table(world) == {}
        copy.read()
        copy.commit()
        assert self.table(world) == {b"a": b"2"} | dict.fromkeys((b"b", b"c", b"d", b"e", b"f"), b"1")
        for partition in (0, 1):
            keys = [key for key, _ in world.records(TABLE, partition)]
            assert keys
            assert {partition_of(key or b"", 2) for key in keys} == {partition}

    def test_are_of_what_changed_and_tell_what_is_gone(self, world: World) -> None:
        copy = started(world, 0, publish=published_words)
        world.say(0, "a", "b")
        copy.read()
        copy.commit()
        world.clock.now += 500
        world.say(0, "b")
        copy.read()
        copy.commit()
        world.clock.now += 600
        copy.commit()
        assert self.table(world) == {b"a": None, b"b": b"2"}

    def test_know_how_many_partitions_the_source_has_when_rows_go(self, world: World) -> None:
        homes = []
        copy = started(world, 0, publish=lambda pending, home: homes.append(home) or [])
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.kafka.create_topic(SOURCE, 5)
        world.clock.now += 1100
        copy.commit()
        assert homes == [(0, 2), (0, 5)]

    def test_are_read_back_as_rows(self, world: World) -> None:
        copy = Copy(world, view=WordView(), publish=published_words)
        assign(world, {copy: [0]}, {copy: [0, 1]})
        copy.restore()
        world.say(0, *"abc")
        copy.read()
        copy.commit()
        copy.read()
        copy.commit()
        rows = copy.processor.shown().rows
        assert rows[0] | rows[1] == dict.fromkeys("abc", 1)

    def test_of_which_one_cannot_be_used_leave_the_others(self, world: World) -> None:
        copy = Copy(world, view=WordView())
        assign(world, {copy: []}, {copy: [0]})
        copy.restore()
        world.kafka.append(TABLE, 0, "3", key="a")
        copy.read()
        copy.commit()
        shown = copy.processor.shown()
        world.kafka.append(TABLE, 0, "4", key="a")
        copy.read()
        copy.processor.advanced(Place(TABLE, 0), 7)
        copy.commit()
        world.clock.now += 4
        copy.commit()
        assert shown.rows == {0: {"a": 3}}
        assert copy.processor.shown().rows == {0: {"a": 4}}
        assert world.committed(TABLE) == {0: 7}

    def test_are_gone_from_a_copy_that_lost_their_partition(self, world: World) -> None:
        copy = Copy(world, view=WordView())
        assign(world, {copy: []}, {copy: [0, 1]})
        copy.restore()
        copy.commit()
        assert set(copy.processor.shown().rows) == {0, 1}
        assign(world, {copy: []}, {copy: [1]})
        assert set(copy.processor.shown().rows) == {1}


class TestIdleRows:
    def test_go_with_a_transaction_of_their_own(self, world: World) -> None:
        shelf = Shelf()
        copy = started(world, 0, output=shelf)
        world.say(0, "a", "b")
        copy.read()
        copy.commit()
        world.clock.now += 1100
        assert copy.commit() == {}
        assert copy.shown() == {0: {}}
        assert shelf.delivered == ["a", "b", "no a", "no b"]
        assert world.committed() == {0: 2}
        assert (b'[0,"words","a"]', None) in world.records(STATE)

    def test_are_looked_for_every_minute(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.clock.now += 999.5
        copy.commit()
        world.clock.now += 59.9
        copy.commit()
        assert copy.shown() == {0: {"a": 1}}
        world.clock.now += 0.1
        copy.commit()
        assert copy.shown() == {0: {}}

    def test_of_each_partition_go_apart(self, world: World) -> None:
        copy = started(world, 0, 1)
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        copy.commit()
        world.clock.now += 1100
        copy.commit()
        assert sorted(map(len, copy.shown().values())) == [0, 1]
        copy.commit()
        assert copy.shown() == {0: {}, 1: {}}

    def test_are_left_to_the_next_owner_at_the_end(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.clock.now += 1100
        copy.processor.commit(is_last=True)
        assert copy.shown() == {0: {"a": 1}}

    def test_come_back_when_their_transaction_was_aborted(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.clock.now += 1100
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        assert copy.commit() == {HERE: 1}
        copy.commit()
        assert copy.shown() == {0: {"a": 1}}

    def test_are_idle_since_they_were_published_unless_that_lies_ahead(self, world: World) -> None:
        copy = started(world, 0)
        now = int(world.clock.now * 1000)
        for word, published in (("old", now - 900_000), ("ahead", now + 10**9), ("timeless", 0)):
            world.kafka.append(SOURCE, 0, encode_event(said(word)), timestamp=published)
        copy.read()
        copy.commit()
        seen = {word: row.seen_at for (word,), row in copy.processor.shown().states[0].words.present()}
        assert seen == {"old": now - 900_000, "ahead": now, "timeless": now}

    def test_are_waited_for_while_kafka_is_away(self, world: World) -> None:
        copy = started(world, 0, publish=published_words)
        world.say(0, "a")
        copy.read()
        copy.commit()
        world.clock.now += 1100
        world.kafka.away()
        assert copy.commit() == {HERE: 1}
        world.kafka.back()
        copy.commit()
        world.clock.now += 60
        copy.commit()
        assert copy.shown() == {0: {}}


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
        copy.processor.revoked([HERE])
        assert copy.processor.trouble == ""

    def test_a_partition_that_went_meanwhile_is_not_read(self, world: World) -> None:
        copy = Copy(world)
        assign(world, {copy: [0, 1]})
        copy.restorer.step()
        copy.restorer.step()
        copy.processor.revoked([HERE])
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


class TestTheLedger:
    def test_has_the_whole_account(self, world: World) -> None:
        copy = started(world, 0)
        event = said("a")
        world.publish(0, event, event)
        world.kafka.append(SOURCE, 0, b"\xff")
        copy.read()
        assert results(copy) == {}
        copy.processor.advanced(HERE, 5)
        copy.commit()
        assert results(copy) == {"applied": 1, "duplicate": 1, "undecodable": 1, WITHOUT_RECORD: 2}

    def test_has_the_account_of_the_copy_before(self, world: World) -> None:
        first = started(world, 0)
        world.say(0, "a")
        first.read()
        first.commit()
        first.consumer.close()
        assert results(first) == {}
        assert results(started(world, 0, name="b")) == {"applied": 1}

    def test_counts_what_goes_to_the_changelog(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        records = world.records(STATE)
        assert sample(copy, "changelog_records_total") == len(records) == 3
        assert sample(copy, "changelog_bytes_total") == sum(
            len(key or b"") + len(value or b"") for key, value in records
        )

    def test_times_records_from_their_publishing_to_their_commit_once(self, world: World) -> None:
        copy = started(world, 0)
        world.say(0, "a", "b")
        world.clock.now += 3
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 0
        copy.read()
        world.clock.now += 1
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 2
        assert sample(copy, "latency_seconds_sum") == 8
        world.say(0, "c")
        copy.read()
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 3

    def test_does_not_time_records_of_a_partition_that_was_lost(self, world: World) -> None:
        copy = started(world, 0, 1)
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        copy.processor.revoked([HERE])
        copy.commit()
        assert sample(copy, "latency_seconds_count") == 1
