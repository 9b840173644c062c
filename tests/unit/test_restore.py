"""Bringing back what is kept of a partition, step by step."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from hypervisor_consumers.runtime.account import AGED_OUT, Account
from hypervisor_consumers.runtime.memory_consumer import MemoryConsumer
from hypervisor_consumers.runtime.partition import Partition
from hypervisor_consumers.runtime.processor import Place, Result
from hypervisor_consumers.runtime.restore import Restoration, Restorer
from hypervisor_schemas.codec import EventDecoder, confluent_framing, encode_event, schema_text
from hypervisor_schemas.dead_letters import REPLAY_FOR
from hypervisor_schemas.errors import OutputUnavailable, RegistryUnavailable, StateError
from tests.services import eventually
from tests.words import (
    GROUP,
    SETTINGS,
    SOURCE,
    STATE,
    TABLE,
    Copy,
    Words,
    WordState,
    WordView,
    World,
    assign,
    published_words,
    said,
    started,
    times,
)

if TYPE_CHECKING:
    from collections.abc import Callable

HERE, THERE = Place(SOURCE, 0), Place(SOURCE, 1)
AGAIN = (
    f"To count anew from what the log still holds: stop all copies, delete the group {GROUP} and the topic "
    f"{STATE}, then run `hypervisor-telemetry topics apply`."
)
P = Partition[WordState, str]


@pytest.fixture
def world() -> World:
    return World()


class Workshop:
    """A restorer whose steps are the test's."""

    def __init__(self, world: World, decoder: EventDecoder | None = None, window: int = 1000) -> None:
        self.world = world
        self.window = window
        self.restorer = Restorer(
            world.kafka,
            SETTINGS,
            service="words",
            state_topic=STATE,
            decoder=decoder or EventDecoder(),
            clock=world.clock,
        )
        self.done: dict[Place, Restoration] = {}

    def begin(self, *places: Place) -> None:
        for place in places:
            self.restorer.begin(place, Partition(place.partition, Words(), self.window))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.restorer.step()
            self.done |= {job.place: job for job in self.restorer.finished()}

    def partition(self, place: Place = HERE) -> P:
        job = self.done[place]
        assert job.error is None
        assert isinstance(job.into, Partition)
        assert job.offset == job.into.next_offset
        return job.into

    def restored(self, *places: Place) -> P:
        """The first of these, after at most ten steps."""
        self.begin(*(places or (HERE,)))
        self.step(10)
        return self.partition(*places[:1])

    def error(self, place: Place = HERE) -> str:
        self.begin(place)
        self.step(10)
        error = self.done[place].error
        assert isinstance(error, StateError)
        return str(error)


def counted(partition: P) -> dict[str, int]:
    return times(partition.snapshot())


def told(world: World, *words: object) -> None:
    """Words in partition 0 that a copy has counted and committed."""
    world.say(0, *words)
    copy = started(world, 0)
    copy.read()
    assert copy.commit() == {}
    copy.consumer.close()


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
        assert {place.partition: counted(workshop.partition(place)) for place in workshop.done} == {
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
        assert [counted(workshop.partition(place)) for place in (HERE, THERE)] == [{"a": 1}, {"b": 1}]


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


class TestTheWindow:
    def test_knows_the_same_ids_again(self, world: World) -> None:
        events = world.say(0, "a", "b", 1, "c")
        copy = started(world, 0)
        copy.read()
        copy.commit()
        world.say(0, "not committed")
        partition = Workshop(world).restored()
        answers = [partition.apply(offset, event, 0)[0] for offset, event in enumerate(events[:2], 4)]
        assert answers == [Result.DUPLICATE] * 2
        assert partition.apply(6, said("mended", events[2].event_id), 0)[0] is Result.APPLIED

    def test_does_not_know_what_was_not_committed(self, world: World) -> None:
        told(world, "a")
        [event] = world.say(0, "b")
        partition = Workshop(world).restored()
        assert partition.apply(1, event, 0)[0] is Result.APPLIED

    def test_is_read_from_the_stretch_before_on(self, world: World) -> None:
        events = world.say(0, *"abcdefgh")
        copy = started(world, 0, window=3)
        copy.read()
        copy.commit()
        partition = Workshop(world, window=3).restored()
        known = [partition.apply(8, event, 0)[0] for event in events[:8]]
        assert known == [Result.APPLIED] * 3 + [Result.DUPLICATE] * 5

    def test_is_what_is_left_of_it_where_retention_deleted_some(self, world: World) -> None:
        events = world.say(0, *"abcd")
        told(world)
        world.kafka.expire(SOURCE, 0, 2)
        partition = Workshop(world).restored()
        known = [partition.apply(4, event, 0)[0] for event in events]
        assert known == [Result.APPLIED] * 2 + [Result.DUPLICATE] * 2

    @pytest.mark.parametrize("receiver", ["another", "words"])
    def test_does_not_know_what_was_sent_again_for_another_service(self, world: World, receiver: str) -> None:
        event = said("a")
        world.kafka.append(SOURCE, 0, encode_event(event), headers=[(REPLAY_FOR, receiver)])
        told(world)
        partition = Workshop(world).restored()
        known = partition.apply(1, event, 0)[0]
        assert known is (Result.DUPLICATE if receiver == "words" else Result.APPLIED)

    def test_goes_over_records_that_cannot_be_read_and_markers(self, world: World) -> None:
        world.kafka.append(SOURCE, 0, b"\xff")
        world.kafka.append(SOURCE, 0, None)
        producer = world.kafka.producer({"transactional.id": "an agent"})
        producer.init_transactions()
        event = said("a")
        for end in (producer.abort_transaction, producer.commit_transaction):
            producer.begin_transaction()
            producer.produce(SOURCE, encode_event(event), partition=0)
            producer.flush()
            end()
        assert world.kinds(SOURCE) == ["plain", "plain", "aborted", "abort marker", "committed", "commit marker"]
        copy = started(world, 0)
        copy.read()
        copy.processor.advanced(HERE, 6)
        copy.commit()
        partition = Workshop(world).restored()
        assert partition.next_offset == 6
        assert partition.apply(6, event, 0)[0] is Result.DUPLICATE

    def test_does_not_know_what_comes_behind_a_marker_at_its_end(self, world: World) -> None:
        producer = world.kafka.producer({"transactional.id": "an agent"})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(SOURCE, encode_event(said("a")), partition=0)
        producer.commit_transaction()
        copy = started(world, 0)
        copy.read()
        copy.processor.advanced(HERE, 2)
        copy.commit()
        [event] = world.say(0, "b")
        partition = Workshop(world).restored()
        assert partition.next_offset == 2
        assert partition.apply(2, event, 0)[0] is Result.APPLIED


class Registry:
    """Knows the schema as number 7, when it answers."""

    answers = True

    def __call__(self, schema_id: int) -> str:
        if not self.answers:
            raise RegistryUnavailable("The registry is away.")
        return schema_text()


def test_a_registry_that_is_away_holds_up_only_partitions_with_records_that_need_it(world: World):
    registry = Registry()
    event = said("a")
    world.kafka.append(SOURCE, 0, encode_event(event, confluent_framing(7)))
    world.say(1, "b")
    copy = started(world, 0, 1, decoder=EventDecoder(registry))
    copy.read()
    copy.commit()
    registry.answers = False
    workshop = Workshop(world, EventDecoder(registry))

    assert counted(workshop.restored(THERE, HERE)) == {"b": 1}
    for _ in range(5):
        world.clock.now += 1.1
        workshop.step(2)
    assert set(workshop.done) == {THERE}
    assert workshop.restorer.trouble == ("The registry is away. Partitions with records that need it wait.")

    registry.answers = True
    world.clock.now += 1.1
    workshop.step(3)
    assert workshop.restorer.trouble == ""
    assert counted(workshop.partition()) == {"a": 1}
    assert workshop.partition().apply(1, event, 0)[0] is Result.DUPLICATE


def test_a_registry_that_is_away_holds_up_nothing_for_records_before_the_window(world: World):
    registry = Registry()
    world.kafka.append(SOURCE, 0, encode_event(said("a"), confluent_framing(7)))
    world.say(0, *"bcdefgh")
    copy = started(world, 0, decoder=EventDecoder(registry), window=3)
    copy.read()
    copy.commit()
    registry.answers = False

    assert len(counted(Workshop(world, EventDecoder(registry), window=3).restored())) == 8


class TestTheView:
    def restore(self, world: World) -> tuple[Workshop, Callable[[], tuple[Any, Any]]]:
        workshop = Workshop(world)
        view = WordView()
        place = Place(TABLE, 1)
        workshop.restorer.begin(place, (view, view.new_rows()))
        return workshop, lambda: (workshop.done[place].into[1], workshop.done[place].offset)  # type: ignore[index]

    def test_is_read_from_its_beginning(self, world: World) -> None:
        world.consumer().commit(offsets=[TopicPartition(TABLE, 1, 2)], asynchronous=False)
        for key, value in (("a", "1"), ("b", "2"), ("a", "3"), ("b", None)):
            world.kafka.append(TABLE, 1, value, key=key)
        workshop, found = self.restore(world)
        workshop.step(3)
        assert found() == ({"a": 3}, 4)

    def test_of_an_empty_topic_is_empty(self, world: World) -> None:
        workshop, found = self.restore(world)
        workshop.step(3)
        assert found() == ({}, 0)

    def test_goes_over_rows_that_cannot_be_used(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.kafka.append(TABLE, 1, "?")
        world.kafka.append(TABLE, 1, "1", key="a")
        workshop, found = self.restore(world)
        workshop.step(3)
        assert found() == ({"a": 1}, 2)
        assert f"{TABLE}: A row has no key." in caplog.text

    def test_has_all_that_was_committed_before_and_waits_for_what_is_open(self, world: World) -> None:
        copy = started(world, 0, publish=published_words)
        world.say(0, "a", "a")
        copy.read()
        world.kafka.fail_next("commit_transaction", before=True)
        with pytest.raises(OutputUnavailable):
            copy.commit()
        [partition] = [number for number in (0, 1) if world.kinds(TABLE, number)]
        workshop, view = Workshop(world), WordView()
        place = Place(TABLE, partition)
        workshop.restorer.begin(place, (view, view.new_rows()))
        workshop.step(3)
        assert workshop.done == {}
        copy.commit()
        workshop.step(3)
        assert workshop.done[place].into == (view, {"a": 2})
        assert workshop.done[place].offset == 1


def hold_at_offset(world: World) -> None:
    world.kafka.fail_next("committed", before=True)


def hold_at_end(world: World) -> None:
    world.kafka.fail_next("get_watermark_offsets", before=True)


def hold_at_kept(world: World) -> None:
    world.kafka.fail_next("consume", before=True)


def hold_at_nothing(world: World) -> None:
    pass


class TestCancelling:
    @pytest.mark.parametrize("steps", range(6))
    @pytest.mark.parametrize("hold", [hold_at_offset, hold_at_end, hold_at_kept, hold_at_nothing])
    def test_at_any_time_forgets_the_partition_and_it_can_come_again(
        self, world: World, hold: Callable[[World], None], steps: int
    ) -> None:
        told(world, "a")
        workshop = Workshop(world)
        workshop.begin(HERE)
        hold(world)
        for _ in range(steps):
            workshop.restorer.step()  # what is finished is not asked for

        workshop.restorer.cancel([HERE])

        workshop.step(5)
        assert workshop.done == {}
        assert not workshop.restorer.step()
        assert counted(workshop.restored()) == {"a": 1}

    @pytest.mark.parametrize("steps", range(3))
    def test_one_leaves_the_others(self, world: World, steps: int) -> None:
        told(world, "a")
        workshop = Workshop(world)
        workshop.begin(HERE, THERE)
        for _ in range(steps):
            workshop.restorer.step()
        workshop.restorer.cancel([THERE])
        workshop.step(10)
        assert set(workshop.done) == {HERE}
        assert counted(workshop.partition()) == {"a": 1}

    @pytest.mark.parametrize("steps", range(4))
    def test_and_beginning_again_before_the_next_step_restores_into_the_new_one(
        self, world: World, steps: int
    ) -> None:
        told(world, "a")
        workshop = Workshop(world)
        old: P = Partition(0, Words(), 1000)
        workshop.restorer.begin(HERE, old)
        for _ in range(steps):
            workshop.restorer.step()
        workshop.restorer.cancel([HERE])
        assert counted(workshop.restored()) == {"a": 1}
        assert workshop.partition() is not old
        assert workshop.restorer.finished() == []


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


def test_a_thread_restores_what_comes_and_ends_when_it_is_told(world: World):
    told(world, "a")
    workshop = Workshop(world)
    stop = threading.Event()
    thread = threading.Thread(target=workshop.restorer.run, args=(stop.is_set,))
    thread.start()
    try:
        for _ in range(2):
            workshop.begin(HERE)
            found = eventually(workshop.restorer.finished, len, 10)
            assert [job.place for job in found] == [HERE]
    finally:
        stop.set()
        workshop.restorer.wake()
        thread.join(10)
    assert not thread.is_alive()


def test_partitions_move_between_copies_with_all_that_was_counted(world: World):
    first, second = Copy(world, "a"), Copy(world, "b")
    for number, (here, there) in enumerate([(first, second), (second, first), (first, second)], 1):
        assign(world, {here: [0], there: [1]})
        world.say(0, "a")
        world.say(1, "b")
        for copy in (here, there):
            copy.restore()
            copy.read()
            copy.commit()
        assert here.shown() == {0: {"a": number}}
        assert there.shown() == {1: {"b": number}}
