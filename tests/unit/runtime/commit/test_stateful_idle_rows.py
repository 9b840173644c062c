"""Rows of a service's state that nothing came for in a long time go."""

from __future__ import annotations

import pytest

from hypervisor_schemas.wire.codec import encode_event
from tests.support.word_count_service import HERE, SOURCE, STATE, Shelf, World, published_words, said, started


@pytest.fixture
def world() -> World:
    return World()


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

    def test_wait_for_what_is_still_to_be_read(self, world: World) -> None:
        """By the clock both are idle; but when "b" was said, "a" was not yet, and more may follow in the log."""
        copy = started(world, 0)
        old = int(world.clock.now * 1000) - 5_000_000
        for word, published in (("a", old), ("b", old + 900_000)):
            world.kafka.append(SOURCE, 0, encode_event(said(word)), timestamp=published)
        copy.read(to_the_end=False)
        copy.commit()
        world.clock.now += 60
        copy.commit()
        assert copy.shown() == {0: {"a": 1, "b": 1}}
        copy.read()
        world.clock.now += 60
        copy.commit()
        assert copy.shown() == {0: {}}

    def test_wait_where_an_open_transaction_looks_like_the_end(self, world: World) -> None:
        """A reader of committed records is told an end there; what was published long ago may follow."""
        copy = started(world, 0)
        world.say(0, "a")
        copy.read()
        copy.commit()
        copy.assignment[HERE].accounting.saw_end(3, world.clock.now)
        world.clock.now += 1100
        copy.commit()
        assert copy.shown() == {0: {"a": 1}}
        copy.assignment[HERE].accounting.saw_end(1, world.clock.now)
        world.clock.now += 60
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
        copy.read()
        copy.commit()
        world.clock.now += 60
        copy.commit()
        assert copy.shown() == {0: {}}
