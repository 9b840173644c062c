"""What a partition's state shows, delivers and commits, from its assignment on."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Thread

import pytest

from hypervisor_consumers.runtime.processor import FoldProcessor, Place, Result
from hypervisor_schemas.errors import InvalidPayload, OutputUnavailable
from hypervisor_schemas.events import EventType, HypervisorEvent

HERE, THERE = Place("events.vfs", 0), Place("events.vfs", 1)


class Words:
    """Counts words; every word also comes out. A session is none of its business, a number is a fault."""

    def new_state(self) -> dict[str, int]:
        return {}

    def apply(self, state: dict[str, int], event: HypervisorEvent) -> Sequence[str] | None:
        if event.event_type == EventType.SESSION_CREATED:
            return None
        word = event.payload["word"]
        if not isinstance(word, str):
            raise InvalidPayload("The payload doesn't fit.")
        state[word] = state.get(word, 0) + 1
        return [word]


class Shelf:
    """Keeps what is delivered, while it is open."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.is_full = False
        self.closed = 0

    def deliver(self, outputs: Sequence[str]) -> None:
        if self.is_full:
            raise OutputUnavailable("The shelf is full.")
        self.delivered += outputs

    def close(self) -> None:
        self.closed += 1


def said(word: object) -> HypervisorEvent:
    return HypervisorEvent(event_type=EventType.VFS_WRITE, payload={"word": word})


OTHER = HypervisorEvent(event_type=EventType.SESSION_CREATED)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def processor(shelf: Shelf) -> FoldProcessor[dict[str, int], str]:
    return FoldProcessor(Words(), shelf)


Processor = FoldProcessor[dict[str, int], str]


def shown(processor: Processor) -> dict[int, dict[str, int]]:
    with processor.visible_states() as states:
        return {partition: dict(state) for partition, state in states.items()}


def say(processor: Processor, *words: str, place: Place = HERE, start: int = 0) -> None:
    for offset, word in enumerate(words, start):
        assert processor.apply(place, offset, said(word)) is Result.APPLIED


@pytest.mark.parametrize("committed", [None, 0, 3, 7])
def test_a_partition_is_read_from_the_beginning_of_its_log_wherever_the_group_stands(
    processor: Processor, committed: int | None
):
    assert processor.assigned(HERE, committed, 2, 7) == 2


def test_nothing_is_shown_before_the_state_includes_what_was_in_the_log(processor: Processor):
    processor.assigned(HERE, None, 0, 3)

    say(processor, "a", "b")
    assert shown(processor) == {}
    assert not processor.is_restored(HERE)
    say(processor, "a", start=2)
    assert shown(processor) == {0: {"a": 2, "b": 1}}
    assert processor.is_restored(HERE)


def test_offsets_without_events_count_as_read(processor: Processor):
    processor.assigned(HERE, None, 0, 4)
    say(processor, "a")

    processor.advanced(HERE, 4)

    assert shown(processor) == {0: {"a": 1}}
    assert processor.deliver() == {HERE: 4}


def test_an_empty_partition_is_shown_at_once(processor: Processor):
    processor.assigned(HERE, None, 5, 5)

    assert shown(processor) == {0: {}}


def test_what_was_delivered_before_the_restart_is_not_delivered_again(processor: Processor, shelf: Shelf):
    processor.assigned(HERE, 2, 0, 4)
    say(processor, "a", "b", "c", "d")

    assert processor.deliver() == {HERE: 4}

    assert shelf.delivered == ["c", "d"]
    assert shown(processor) == {0: dict.fromkeys("abcd", 1)}


def test_a_committed_offset_never_goes_back(processor: Processor):
    processor.assigned(HERE, 3, 0, 4)

    for offset in range(3):
        say(processor, "a", start=offset)
        assert processor.deliver() == {}
    say(processor, "a", start=3)
    assert processor.deliver() == {HERE: 4}


def test_a_topic_that_was_made_anew_is_delivered_from_its_beginning(processor: Processor, shelf: Shelf):
    processor.assigned(HERE, 1000, 0, 2)
    say(processor, "a", "b")

    assert processor.deliver() == {HERE: 2}
    assert shelf.delivered == ["a", "b"]


def test_what_the_output_does_not_take_is_kept_in_order_and_not_committed(processor: Processor, shelf: Shelf):
    processor.assigned(HERE, None, 0, 0)
    shelf.is_full = True
    for offset, word in enumerate("abc"):
        say(processor, word, start=offset)
        with pytest.raises(OutputUnavailable):
            processor.deliver()

    shelf.is_full = False
    assert processor.deliver() == {HERE: 3}
    assert processor.deliver() == {HERE: 3}
    assert shelf.delivered == ["a", "b", "c"]


def test_a_partition_that_went_leaves_no_state_and_nothing_to_deliver(processor: Processor, shelf: Shelf):
    for place in (HERE, THERE):
        processor.assigned(place, None, 0, 0)
        say(processor, place.topic[-1] + str(place.partition), place=place)

    processor.revoked(HERE)

    assert shown(processor) == {1: {"s1": 1}}
    assert processor.deliver() == {THERE: 1}
    assert shelf.delivered == ["s1"]
    processor.assigned(HERE, None, 0, 0)
    assert shown(processor) == {0: {}, 1: {"s1": 1}}


def test_an_ignored_event_is_read_but_changes_nothing(processor: Processor, shelf: Shelf):
    processor.assigned(HERE, None, 0, 1)

    assert processor.apply(HERE, 0, OTHER) is Result.IGNORED

    assert processor.deliver() == {HERE: 1}
    assert shown(processor) == {0: {}}
    assert shelf.delivered == []


def test_an_event_that_does_not_fit_is_not_taken(processor: Processor):
    processor.assigned(HERE, None, 0, 1)

    with pytest.raises(InvalidPayload):
        processor.apply(HERE, 0, said(1))

    assert processor.deliver() == {}
    processor.advanced(HERE, 1)
    assert processor.deliver() == {HERE: 1}
    assert shown(processor) == {0: {}}


def test_a_state_does_not_change_while_it_is_shown(processor: Processor):
    processor.assigned(HERE, None, 0, 0)
    writer = Thread(target=say, args=(processor, *"abc"))

    with processor.visible_states() as states:
        writer.start()
        writer.join(0.05)
        assert states == {0: {}}
    writer.join(10)

    assert shown(processor) == {0: {"a": 1, "b": 1, "c": 1}}


def test_closing_closes_the_output_once(processor: Processor, shelf: Shelf):
    processor.close()

    assert shelf.closed == 1


def test_without_an_output_the_offsets_are_committed_all_the_same():
    processor: Processor = FoldProcessor(Words())
    processor.assigned(HERE, None, 0, 0)
    say(processor, "a")

    assert processor.deliver() == {HERE: 1}
    processor.close()


class TestAnEventThatComesTwice:
    def test_counts_once_and_comes_out_once(self, shelf: Shelf) -> None:
        processor = FoldProcessor(Words(), shelf)
        processor.assigned(HERE, None, 0, 3)
        event = said("a")
        assert [processor.apply(HERE, offset, event) for offset in range(2)] == [Result.APPLIED, Result.DUPLICATE]
        processor.apply(HERE, 2, said("b"))
        with processor.visible_states() as states:
            assert states == {0: {"a": 1, "b": 1}}
        assert processor.deliver() == {HERE: 3}
        assert shelf.delivered == ["a", "b"]

    def test_counts_again_in_another_partition_and_after_its_window(self) -> None:
        processor = FoldProcessor(Words(), duplicate_window=2)
        for place in (HERE, THERE):
            processor.assigned(place, None, 0, 0)
        event = said("a")
        assert processor.apply(HERE, 0, event) is Result.APPLIED
        assert processor.apply(THERE, 0, event) is Result.APPLIED
        assert processor.apply(HERE, 4, event) is Result.APPLIED

    def test_is_known_again_after_the_partition_came_back(self) -> None:
        processor = FoldProcessor(Words())
        event = said("a")
        for _ in range(2):
            processor.assigned(HERE, None, 0, 1)
            assert processor.apply(HERE, 0, event) is Result.APPLIED
            assert processor.apply(HERE, 1, event) is Result.DUPLICATE
            processor.revoked(HERE)

    def test_is_new_if_it_could_not_be_used_before(self) -> None:
        processor = FoldProcessor(Words())
        processor.assigned(HERE, None, 0, 2)
        bad = said(1)
        with pytest.raises(InvalidPayload):
            processor.apply(HERE, 0, bad)
        mended = HypervisorEvent(bad.event_id, EventType.VFS_WRITE, payload={"word": "a"})
        assert processor.apply(HERE, 1, mended) is Result.APPLIED
