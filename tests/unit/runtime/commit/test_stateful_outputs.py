"""The outputs of a service with state: to its receiver, as dead letters and as public records."""

from __future__ import annotations

from typing import Any

import pytest

from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.dead_letters import REPLAY_FOR, DeadLetter, read_dead_letter
from hypervisor_schemas.errors import OutputUnavailable
from hypervisor_schemas.topics import partition_of
from hypervisor_schemas.wire.codec import encode_event
from tests.support.word_count_service import (
    DEAD_LETTERS,
    HERE,
    SOURCE,
    STATE,
    TABLE,
    Copy,
    Shelf,
    WordView,
    World,
    assign,
    published_words,
    results,
    said,
    started,
)


@pytest.fixture
def world() -> World:
    return World()


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
        copy.lose(HERE)
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
        copy.processor.advanced(TopicPartition(TABLE, 0), 7)
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
