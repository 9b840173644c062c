"""Outputs that take long, that are refused, and that are replayed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicPartition

from hypervisor_consumers.runtime.commit import committer
from hypervisor_consumers.runtime.commit import output_thread as delivery
from hypervisor_schemas.dead_letters import DeadLetter, read_dead_letter
from hypervisor_schemas.errors import OutputUnavailable
from tests.support.word_count_service import DEAD_LETTERS, SOURCE, Shelf, WordCodec, World, assign, results, started


@pytest.fixture
def world() -> World:
    return World()


class Slow(Shelf):
    """Takes nothing until it is let; what comes meanwhile waits inside, as in a receiver that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.may_go_on = threading.Event(), threading.Event()
        self.look = self._hang

    def _hang(self) -> None:
        self.inside.set()
        assert self.may_go_on.wait(30)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(committer, "DELIVERY_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(committer, "LAST_DELIVERY_TIMEOUT_SECONDS", 0.01)
    shelf = Slow()
    yield shelf
    shelf.may_go_on.set()


def letters(world: World) -> list[DeadLetter]:
    found = [
        read_dead_letter(record.key, record.value, record.headers) for record in world.kafka.log(DEAD_LETTERS, 0)
    ]
    return [letter for letter in found if letter is not None]


class TestAnOutputThatTakesLong:
    def test_holds_up_the_commit_but_not_the_loop(self, world: World, slow: Slow) -> None:
        copy = started(world, 0, output=slow)
        world.say(0, "a")
        copy.read()
        with pytest.raises(OutputUnavailable, match="the output takes long"):
            copy.commit()
        with pytest.raises(OutputUnavailable):
            copy.commit()
        assert world.committed() == {}
        slow.may_go_on.set()
        copy.processor.delivery.thread._current.is_done.wait(30)
        copy.commit()
        assert world.committed() == {0: 1}
        assert slow.delivered == ["a"]

    def test_what_was_committed_before_is_shown_as_long_as_it_takes(self, world: World, slow: Slow) -> None:
        copy = started(world, 0, output=slow)
        slow.look = lambda: None
        world.say(0, "a")
        copy.read()
        copy.commit()
        slow.look = slow._hang
        world.say(0, "b")
        copy.read()
        for _ in range(20):
            with pytest.raises(OutputUnavailable):
                copy.commit()
            assert copy.processor.keep() == {}
            assert copy.shown() == {0: {"a": 1}}
            world.clock.now += 4
        assert world.committed() == {0: 1}

    def test_what_was_never_committed_is_not_named_while_it_waits(self, world: World, slow: Slow) -> None:
        """The next owner would take an offset without a state for a state that is lost."""
        copy = started(world, 0, output=slow)
        world.say(0, "a")
        copy.read()
        with pytest.raises(OutputUnavailable):
            copy.commit()
        world.clock.now += 100
        assert copy.processor.keep() == {}
        assert world.committed() == {}

    def test_a_partition_that_goes_meanwhile_is_the_next_owners(self, world: World, slow: Slow) -> None:
        copy = started(world, 0, 1, output=slow)
        world.say(0, "a")
        world.say(1, "b")
        copy.read()
        with pytest.raises(OutputUnavailable):
            copy.commit()
        assert slow.inside.wait(30)
        copy._on_lost(copy.consumer, [TopicPartition(SOURCE, 0)])
        slow.may_go_on.set()
        copy.processor.delivery.thread._current.is_done.wait(30)
        copy.commit()
        assert world.committed() == {1: 1}
        assert sorted(slow.delivered) == ["a", "b"]

    def test_what_came_out_while_it_waited_is_delivered_before_anything_is_committed(
        self, world: World, slow: Slow
    ) -> None:
        copy = started(world, 0, output=slow)
        world.say(0, "a")
        copy.read()
        with pytest.raises(OutputUnavailable):
            copy.commit()
        world.say(0, "b")
        copy.read()
        slow.may_go_on.set()
        copy.processor.delivery.thread._current.is_done.wait(30)
        seen: list[object] = []
        slow.look = lambda: seen.append(world.committed())
        copy.commit()
        assert (slow.delivered, seen, world.committed()) == (["a", "b"], [{}], {0: 2})

    def test_a_copy_that_waits_for_it_from_the_start_serves(self, world: World, slow: Slow) -> None:
        copy = started(world, 0, output=slow)
        world.say(0, "a")
        copy.read()
        with pytest.raises(OutputUnavailable):
            copy.commit()
        world.clock.now += 10
        copy.processor.ready()
        assert copy.processor.is_serving

    def test_an_end_doesnt_wait_for_it(self, world: World, slow: Slow) -> None:
        copy = started(world, 0, output=slow)
        world.say(0, "a")
        copy.read()
        with pytest.raises(OutputUnavailable):
            copy.processor.commit(is_last=True)
        copy.processor.close()
        assert slow.closed == 0
        assert world.committed() == {}


class TestManyOutputs:
    def test_go_in_parts_and_what_was_taken_doesnt_come_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delivery, "MAX_BATCH_OUTPUTS", 3)
        shelf = Shelf()
        sizes: list[int] = []

        def look() -> None:
            sizes.append(len(shelf.delivered))
            shelf.is_full = len(sizes) == 3

        shelf.look = look
        shelf.refuses = {"f"}
        copy = started(world, 0, 1, output=shelf, output_codec=WordCodec())
        world.say(0, *"abcde")
        world.say(1, *"fgh")
        copy.read()
        with pytest.raises(OutputUnavailable):
            copy.commit()
        assert shelf.delivered == ["a", "b", "c", "d", "e"]
        copy.commit()
        assert shelf.delivered == ["a", "b", "c", "d", "e", "g", "h"]
        assert sizes == [0, 3, 5, 5]
        assert world.committed() == {0: 5, 1: 3}
        assert [(letter.partition, letter.offset, letter.output) for letter in letters(world)] == [
            (1, 0, "the word f")
        ]


class TestAnOutputThatIsRefused:
    def test_is_a_dead_letter_and_the_rest_goes_through(self, world: World) -> None:
        shelf = Shelf()
        shelf.refuses = {"b"}
        copy = started(world, 0, output=shelf, output_codec=WordCodec())
        world.say(0, "a", "b", "c")
        copy.read()
        copy.commit()
        assert shelf.delivered == ["a", "c"]
        assert copy.shown() == {0: {"a": 1, "b": 1, "c": 1}}
        assert results(copy) == {"applied": 3}
        [letter] = letters(world)
        assert (letter.key, letter.value, letter.output) == (None, b"word:b", "the word b")
        assert (letter.service, letter.reason, letter.error) == ("words", "output_refused", "no b here")
        assert (letter.topic, letter.partition, letter.offset) == (SOURCE, 0, 1)

    def test_comes_again_with_its_event_when_the_transaction_is_aborted(self, world: World) -> None:
        shelf = Shelf()
        shelf.refuses = {"a"}
        copy = started(world, 0, output=shelf, output_codec=WordCodec())
        world.say(0, "a")
        copy.read()
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        copy.commit()
        copy.read()
        copy.commit()
        committed = [value for _, value in world.records(DEAD_LETTERS)]
        assert committed == [b"word:a"]

    def test_goes_to_the_output_as_it_is_when_it_is_replayed(self, world: World) -> None:
        shelf = Shelf()
        shelf.refuses = {"a"}
        copy = started(world, 0, output=shelf, output_codec=WordCodec())
        world.say(0, "a")
        copy.read()
        copy.commit()
        [letter] = letters(world)
        shelf.refuses = set()
        world.kafka.append(SOURCE, 0, letter.value, key=letter.key, headers=letter.replay_headers())
        copy.read()
        copy.commit()
        assert shelf.delivered == ["a"]
        assert copy.shown() == {0: {"a": 1}}
        assert results(copy) == {"applied": 2}

    def test_that_is_none_when_it_is_replayed_is_a_dead_letter_as_a_record(self, world: World) -> None:
        copy = started(world, 0, output=Shelf(), output_codec=WordCodec())
        letter = DeadLetter(None, b"nonsense", (), "words", "output_refused", "why", SOURCE, 0, 0, 1, "the word a")
        world.kafka.append(SOURCE, 0, letter.value, headers=letter.replay_headers())
        copy.read()
        copy.commit()
        assert [(one.reason, one.output) for one in letters(world)] == [("undecodable", "")]
        assert results(copy) == {"undecodable": 1}

    def test_is_not_in_the_window_of_the_next_owner(self, world: World) -> None:
        """Restoring reads the log again for the events' ids; a replayed output has none."""
        letter = DeadLetter(None, b"word:a", (), "words", "output_refused", "why", SOURCE, 0, 0, 1, "the word a")
        copy = started(world, 0, output=Shelf(), output_codec=WordCodec())
        world.kafka.append(SOURCE, 0, letter.value, headers=letter.replay_headers())
        world.say(0, "b")
        copy.read()
        copy.commit()
        assign(world, {copy: []})
        shelf = Shelf()
        other = started(world, 0, name="b", output=shelf, output_codec=WordCodec())
        world.say(0, "c")
        other.read()
        other.commit()
        assert shelf.delivered == ["c"]
        assert results(other) == {"applied": 3}
