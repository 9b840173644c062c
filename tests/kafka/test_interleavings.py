"""The rules of the exactly-once runtime, one test each: the steps that random kills don't hit are forced.

Each runs on the Kafka in memory and on a real one, unless it says why not. `test_mutants.py` switches the rules off
one by one, and sees that the test of each fails.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest
from confluent_kafka import KafkaError, KafkaException

from hypervisor_consumers.ring_metrics.fold.batch_fold import RingBatchFold
from hypervisor_consumers.runtime import ingest as taking
from hypervisor_consumers.runtime import loop
from hypervisor_consumers.runtime.records import TopicPartition
from hypervisor_schemas.wire.codec import encode_event
from tests.kafka.worlds import InMemory, Real, World, event, outcomes, refused_for_good, running_copy, timed_out
from tests.support.service_copies import DEAD_LETTERS, RINGS, SOURCE, STATE, Copy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(params=["memory", "together", pytest.param("real", marks=pytest.mark.kafka)])
def world(request: pytest.FixtureRequest, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    if request.param == "together":  # in memory, and whatever can be is decoded and folded at once
        monkeypatch.setattr(taking, "WORTH_IT", 1)
    it = Real(request.getfixturevalue("kafka"), topic_prefix) if request.param == "real" else InMemory()
    yield it
    for copy in it.copies:
        copy.consumer.close()


@pytest.fixture
def memory() -> InMemory:
    """For steps that a real Kafka can't be made to take."""
    return InMemory()


class TestCommitting:
    def test_offsets_are_sent_when_the_changelog_has_arrived_not_before(self, world: World) -> None:
        copy = running_copy(world)
        before, seen = world.end(STATE), []
        world.kafka.once("send_offsets_to_transaction", lambda go: (seen.append(world.end(STATE)), go())[1])
        world.put(event())
        world.settled(copy, 2)
        assert seen[0] >= before + 2  # a series and the account

    def test_what_kafka_did_not_take_in_time_is_not_committed_without(self, world: World) -> None:
        copy = running_copy(world)
        world.kafka.once("flush", lambda go: (go(), 1)[1])
        world.kafka.calls.clear()
        world.put(event(), event())
        world.settled(copy, 3)
        assert world.kafka.calls[:3] == ["begin_transaction", "flush", "abort_transaction"]

    def test_offsets_that_timed_out_are_aborted_never_committed(self, world: World) -> None:
        copy = running_copy(world)

        def after_it_took_effect(go: Callable[[], Any]) -> None:
            go()
            raise timed_out()

        world.kafka.once("send_offsets_to_transaction", after_it_took_effect)
        world.kafka.calls.clear()
        world.put(event(), event())
        world.settled(copy, 3)
        sent = world.kafka.calls.index("send_offsets_to_transaction")
        assert world.kafka.calls[sent + 1] == "abort_transaction"

    def test_a_commit_that_timed_out_is_called_again_never_aborted(self, world: World) -> None:
        copy = running_copy(world)

        def before_it_took_effect(_go: Callable[[], Any]) -> None:
            raise timed_out()

        world.kafka.once("commit_transaction", before_it_took_effect)
        world.kafka.calls.clear()
        world.put(event(), event())
        world.settled(copy, 3)
        assert world.kafka.calls.count("commit_transaction") >= 2
        assert "abort_transaction" not in world.kafka.calls

    def test_nothing_is_read_on_while_a_commit_has_no_outcome(self, world: World) -> None:
        copy = running_copy(world)

        def not_now(_go: Callable[[], Any]) -> None:
            raise timed_out()

        world.kafka.hooks["commit_transaction"] = not_now
        world.put(event())
        world.until(lambda: copy.health.troubles, copy)
        world.put(event(), event())
        for _ in range(20):
            copy.step()
            world.pass_time()
        assert copy.counts()["s"] in {0, 1}  # 0: the lease has run out meanwhile
        world.kafka.hooks.clear()
        world.settled(copy, 4)

    @pytest.mark.parametrize("took_effect", [True, False])
    def test_a_commit_with_an_unknown_outcome_is_looked_up_in_the_changelog(
        self, world: World, took_effect: bool
    ) -> None:
        copy = running_copy(world)

        def unknown(go: Callable[[], Any]) -> None:
            if took_effect:
                go()
            raise refused_for_good()

        world.kafka.once("commit_transaction", unknown)
        world.put(event("t"), b"junk")
        world.settled(copy, 1, session="t")
        assert sum(outcomes(copy, "unknown")) == 1
        # What the next transaction doesn't write again, the changelog has to hold already.
        world.put(event())
        world.settled(copy, 2)
        world.expel(copy)
        heir = world.copy()
        world.give_to(heir)
        world.settled(heir, 2)
        assert heir.counts() == Counter(s=2, t=1)
        assert heir.results() == Counter(applied=3, undecodable=1)
        assert world.committed(DEAD_LETTERS) == [b"junk"]

    def test_an_aborted_transaction_leaves_no_trace_in_counts_and_known_ids(self, world: World) -> None:
        first, second = event(event_id="1" * 16), event(event_id="2" * 16)
        copy = running_copy(world, first)

        def refused(_go: Callable[[], Any]) -> None:
            raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "Old", txn_requires_abort=True))

        world.kafka.once("send_offsets_to_transaction", refused)
        world.put(second, event("t"))
        world.settled(copy, 2)
        world.put(first, second, event())
        world.settled(copy, 3)
        assert copy.results() == Counter(applied=4, duplicate=2)
        assert sum(outcomes(copy, "aborted")) == 1

    def test_a_fenced_producer_is_replaced_and_its_partitions_are_restored(self, world: World) -> None:
        copy = running_copy(world)
        settings = copy.processor.committer.transactions._settings
        usurper = world.kafka._kafka.producer(settings)
        usurper.init_transactions(10)
        world.put(event(), event())
        world.settled(copy, 3)
        assert copy.results() == Counter(applied=3)
        assert sum(outcomes(copy, "unknown")) == 1

    def test_a_transaction_of_tombstones_alone_is_refused_to_one_who_is_no_member(self, memory: InMemory) -> None:
        # A real session can't be ended without the member's knowing, except by a freeze.
        fold = RingBatchFold(series_ttl_ms=100_000)
        copy = memory.copy(fold=fold, TELEMETRY_LEASE="3600")
        memory.give_to(copy)
        memory.put(event())
        memory.settled(copy, 1)
        memory.expel(copy)
        memory.clock.advance(200)
        [fold] = copy.folds()
        assert copy.processor.commit() != {}  # the series is idle; its removal is refused
        assert fold.partition.committed.series.size == 1
        assert memory.kafka.calls[-1] == "abort_transaction"


class TestOwning:
    def test_records_that_came_with_the_loss_of_their_partition_are_not_folded(self, memory: InMemory) -> None:
        # The last messages of a batch and the callback come from one call of the client.
        copy = running_copy(memory)
        consume = copy.consumer.consume

        def consume_and_lose(*arguments: Any, **options: Any) -> Any:
            messages = consume(*arguments, **options)
            if messages:
                copy.loop._on_lost(copy.consumer, [confluent_kafka.TopicPartition(SOURCE, 0)])
            return messages

        copy.consumer.consume = consume_and_lose
        memory.put(event(), event())
        for _ in range(3):
            copy.step()
        del copy.consumer.consume
        heir = memory.copy()
        memory.give_to(heir)
        memory.until(lambda: heir.counts()["s"] == 3, copy, heir)
        assert heir.results() == Counter(applied=3)

    def test_what_was_read_is_committed_before_a_partition_is_given_back(self, memory: InMemory) -> None:
        copy = running_copy(memory)
        copy.loop._schedule.interval = copy.loop._schedule.next_commit = 1e12
        memory.put(event(), event())
        copy.step()
        heir = memory.copy()
        memory.give_to(heir)
        copy.step()
        assert copy.counts() == Counter()
        memory.until(heir.folds, heir)
        # At once, not by reading it again.
        assert [fold.partition.account.next_offset for fold in heir.folds()] == [3]

    def test_a_client_that_begins_to_read_at_a_wrong_place_loses_nothing(self, world: World) -> None:
        copy = world.copy()
        assign = copy.consumer.incremental_assign
        shifted = []

        def shift(partitions: list[confluent_kafka.TopicPartition]) -> None:
            for one in partitions:
                if one.topic.endswith(SOURCE) and not shifted:
                    shifted.append(one.offset)
                    one.offset += 2
            assign(partitions)

        proxy = _Proxy(copy.consumer, incremental_assign=shift)
        copy.loop._consumer = proxy
        world.put(*(event() for _ in range(5)))
        world.give_to(copy) if isinstance(world, Real) else world.memory.rebalance(
            {proxy._inner: [(SOURCE, 0), (RINGS, 0)]}
        )
        world.settled(copy, 5)
        assert shifted == [0]
        assert copy.results() == Counter(applied=5)
        copy.loop._consumer = proxy._inner

    def test_numbers_are_shown_for_a_lease_and_no_longer(self, memory: InMemory) -> None:
        # A frozen process in tests/chaos shows the same on a real Kafka.
        copy = running_copy(memory)
        memory.clock.advance(2)
        copy.step()
        memory.clock.advance(4.9)
        assert copy.counts()["s"] == 1
        memory.clock.advance(0.2)
        assert copy.counts() == Counter()
        assert copy.processor.shown().rows == {}
        copy.step()
        assert copy.counts()["s"] == 1  # a transaction of offsets alone has renewed it

    def test_a_lease_counts_from_the_beginning_of_its_transaction(self, memory: InMemory) -> None:
        copy = running_copy(memory)

        def slow(go: Callable[[], Any]) -> Any:
            memory.clock.advance(4.9)
            return go()

        memory.kafka.once("commit_transaction", slow)
        memory.put(event())
        copy.step()
        assert copy.counts()["s"] == 2
        memory.clock.advance(0.2)
        assert copy.counts() == Counter()

    def test_a_copy_that_kafka_says_is_out_shows_nothing_from_then_on(self, memory: InMemory) -> None:
        copy = running_copy(memory)  # with a lease of 5 s
        memory.expel(copy)
        memory.put(event())
        steps = 0
        while copy.counts() and steps < 10:
            memory.clock.advance(0.1)
            copy.processor.commit()
            # The client itself has not heard of it: its heartbeats got through last.
            copy.assignment[TopicPartition(SOURCE, 0)].content.partition.advance(100 + steps)
            steps += 1
        assert steps <= 2
        assert "no member of its group" in copy.processor.trouble


class TestGoingOn:
    def test_a_source_of_small_transactions_is_read_on_without_asking_again_at_every_gap(
        self, memory: InMemory
    ) -> None:
        copy = running_copy(memory)
        writer = memory.memory.producer({"transactional.id": "agent"})
        writer.init_transactions()
        for number in range(100):
            writer.begin_transaction()
            for _ in range(2):
                writer.produce(SOURCE, encode_event(event()), partition=0)
            writer.flush()
            writer.abort_transaction() if number % 10 == 9 else writer.commit_transaction()
        sought: list[int] = []
        seek = copy.consumer.seek
        copy.consumer.seek = lambda partition: (sought.append(partition.offset), seek(partition))
        memory.settled(copy, 1 + 2 * 90)
        del copy.consumer.seek
        assert sought == []
        assert copy.results() == Counter(applied=181, without_record=100 + 20)

    def test_numbers_stay_shown_when_commits_are_rarer_than_a_lease(self, memory: InMemory) -> None:
        copy = running_copy(memory)  # with a lease of 5 s
        copy.loop._schedule.interval = 15
        copy.loop._schedule.begin()
        for _ in range(200):
            memory.pass_time()
            copy.step()
            assert copy.counts() == Counter(s=1)
        memory.put(event())
        for _ in range(70):
            memory.pass_time()
            copy.step()
        assert copy.counts() == Counter(s=2)

    def test_trouble_lasts_and_tries_grow_rare_until_a_commit_covers_what_was_rolled_back(
        self, memory: InMemory
    ) -> None:
        copy = running_copy(memory)

        def refuse_rows(go: Callable[[], Any]) -> int:
            before = memory.end(STATE)
            go()
            return int(memory.end(STATE) > before)  # a transaction of offsets alone goes through

        memory.kafka.hooks["flush"] = refuse_rows
        memory.kafka.calls.clear()
        memory.put(event())
        memory.until(lambda: copy.health.troubles, copy)
        for _ in range(160):
            memory.pass_time()
            copy.step()
            assert copy.health.is_in_trouble(loop.HELD_BACK), "an empty commit is no recovery"
        assert memory.kafka.calls.count("abort_transaction") <= 22  # 40 s: after 0.1 to 0.2, … 2.5 to 5 s
        del memory.kafka.hooks["flush"]
        memory.settled(copy, 2)
        assert copy.health.troubles == []
        assert copy.results() == Counter(applied=2)


class TestRestoring:
    def test_a_restarted_copy_goes_on_with_the_same_counts_and_known_ids(self, world: World) -> None:
        one = event(event_id="1" * 16)
        copy = running_copy(world, one, event())
        world.expel(copy)
        heir = world.copy()
        world.give_to(heir)
        world.put(one, event())
        world.settled(heir, 3)
        assert heir.results() == Counter(applied=3, duplicate=1)

    def test_a_commit_that_ends_after_its_partition_was_lost_is_in_the_heirs_state(self, world: World) -> None:
        copy, heirs = running_copy(world), []

        def lose_it_first(go: Callable[[], Any]) -> Any:
            world.expel(copy)
            heir = world.copy()
            heirs.append(heir)
            world.give_to(heir)
            world.until(lambda: not heir.assignment.is_restored, heir)
            for _ in range(10):
                heir.step()
            assert not any(topic_partition.topic.endswith(SOURCE) for topic_partition in heir.live)
            return go()

        world.put(event(), event())
        world.kafka.once("commit_transaction", lose_it_first)
        world.until(lambda: heirs, copy)
        world.put(event())
        world.settled(heirs[0], 4)
        assert heirs[0].results() == Counter(applied=4)
        assert restored_at(heirs[0]) == 3

    def test_offsets_sent_by_a_dead_copy_are_waited_for_until_its_transaction_is_ended(
        self, memory: InMemory
    ) -> None:
        # On a real Kafka it takes the transaction's timeout; tests/chaos kills copies there.
        copy = running_copy(memory)

        def die(_go: Callable[[], Any]) -> None:
            raise KeyboardInterrupt

        memory.kafka.once("commit_transaction", die)
        memory.put(event(), event())
        with pytest.raises(KeyboardInterrupt):
            memory.until(lambda: False, copy)
        memory.expel(copy)
        heir = memory.copy()
        memory.give_to(heir)
        for _ in range(20):
            heir.step()
        assert heir.live == {(RINGS, 0)} or not heir.live
        memory.clock.advance(11)
        memory.settled(heir, 3)
        assert heir.results() == Counter(applied=3)

    def test_records_of_an_open_transaction_at_the_end_of_the_changelog_are_waited_for(self, world: World) -> None:
        # Its owner may be a member still, and commit it after the heir looked at the end of what is committed.
        copy = running_copy(world)
        world.expel(copy)
        account = b'[0,"account"]', b'[0,2,{"applied":2}]'
        late = world.kafka._kafka.producer(
            {"bootstrap.servers": world.bootstrap_servers, "transactional.id": f"{world.prefix}late"}
        )
        late.init_transactions(10)
        late.begin_transaction()
        late.produce(world.prefix + STATE, key=account[0], value=account[1], partition=0)
        late.flush(10)
        heir = world.copy()
        world.give_to(heir)
        world.until(lambda: not heir.assignment.is_restored, heir)
        for _ in range(10):
            heir.step()
        assert not any(topic_partition.topic.endswith(SOURCE) for topic_partition in heir.live)
        late.abort_transaction(10)
        world.settled(heir, 1)

    def test_an_aborted_transaction_in_the_changelog_is_not_restored(self, world: World) -> None:
        copy = running_copy(world)

        def refused(_go: Callable[[], Any]) -> None:
            raise KafkaException(KafkaError(KafkaError.ILLEGAL_GENERATION, "Old", txn_requires_abort=True))

        world.kafka.hooks["send_offsets_to_transaction"] = refused
        world.put(event())
        world.until(lambda: sum(outcomes(copy, "aborted")) >= 1, copy)
        world.kafka.hooks.clear()
        world.expel(copy)
        heir = world.copy()
        world.give_to(heir)
        world.settled(heir, 2)
        assert heir.results() == Counter(applied=2)
        assert restored_at(heir) == 1


def restored_at(copy: Copy) -> int:
    """Up to where that counted which was restored."""
    [fold] = copy.folds()
    return fold.catch_up.restored_to


class _Proxy:
    """An object with some methods of its own."""

    def __init__(self, inner: Any, **methods: Callable[..., Any]) -> None:
        self._inner = inner
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
