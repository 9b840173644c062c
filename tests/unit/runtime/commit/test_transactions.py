"""One transaction after another, with what can go wrong at every step."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from hypervisor_consumers.runtime.commit.changeset import Changeset
from hypervisor_consumers.runtime.commit.transactions import Outcome, Transactions
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.hanging_transactions import HangingTransactions
from hypervisor_consumers.runtime.records import OutputBatch, TopicPartition
from hypervisor_schemas import errors
from hypervisor_telemetry.testing.memory.producer import MemoryProducer
from tests.support.faulty_kafka import FaultyKafka
from tests.support.word_count_service import SOURCE, STATE, World

HERE = TopicPartition(SOURCE, 0)
FOR_GOOD = KafkaError(KafkaError.INVALID_TXN_STATE, "Broker: not now, not ever")
FATAL = KafkaError(KafkaError._FATAL, "Local: Fatal error", fatal=True)
SETTINGS_OF_READERS = {"group.id": "t.words"}
SETTINGS = {"transactional.id": "t.words-a", "transaction.timeout.ms": 10_000}


def transactions_on(clients: ClientFactory) -> Transactions:
    return Transactions(clients, SETTINGS, HangingTransactions(clients, SETTINGS_OF_READERS, SETTINGS))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def transactions(world: World) -> Transactions:
    return transactions_on(world.kafka)


class Sender:
    """Sends one record and one offset per transaction, as a member of the group."""

    def __init__(self, world: World, transactions: Transactions) -> None:
        self.transactions = transactions
        self.consumer = world.consumer()

    def commit(self, offset: int = 1) -> Outcome:
        record = OutputBatch(TopicPartition(STATE, 0), [(b"key", str(offset).encode(), [("header", b"h")])])
        return self.transactions.commit(
            Changeset([record], {HERE: offset}), self.consumer.consumer_group_metadata()
        )


@pytest.fixture
def sender(world: World, transactions: Transactions) -> Sender:
    return Sender(world, transactions)


def test_records_and_offsets_go_through_together(world: World, transactions: Transactions, sender: Sender):
    assert sender.commit(7) is Outcome.COMMITTED

    assert world.records(STATE) == [(b"key", b"7")]
    assert world.kafka.log(STATE, 0)[0].headers == [("header", b"h")]
    assert world.committed() == {0: 7}
    assert transactions.reason == ""
    assert not transactions.is_unfinished


def test_one_producer_serves_many_transactions(world: World, sender: Sender):
    assert [sender.commit(offset) for offset in (1, 2, 3)] == [Outcome.COMMITTED] * 3
    assert world.kinds(STATE) == ["committed", "commit marker"] * 3


def test_offsets_alone_are_a_transaction(world: World, transactions: Transactions, sender: Sender):
    member = sender.consumer.consumer_group_metadata()

    assert transactions.commit(Changeset([], {HERE: 4}), member) is Outcome.COMMITTED
    assert world.committed() == {0: 4}


def test_records_without_offsets_are_never_sent(world: World, transactions: Transactions, sender: Sender):
    with pytest.raises(ValueError, match="without offsets"):
        transactions.commit(
            Changeset([OutputBatch(TopicPartition(STATE, 0), [(b"k", b"v", None)])], {}),
            sender.consumer.consumer_group_metadata(),
        )

    assert world.kinds(STATE) == []


class TestRecordsBeforeOffsets:
    def test_are_in_the_log_when_the_offsets_are_sent(self, world: World, sender: Sender) -> None:
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        assert sender.commit() is Outcome.ABORTED
        assert world.kinds(STATE) == ["aborted", "abort marker"]

    def test_that_kafka_did_not_take_in_time_are_given_up(
        self, world: World, transactions: Transactions, sender: Sender
    ) -> None:
        world.kafka.fail_next("flush", before=True)
        assert sender.commit() is Outcome.ABORTED
        assert transactions.reason == "The transaction was aborted: 1 records were not taken by Kafka in 5 s."
        assert world.records(STATE) == []
        assert world.committed() == {}
        assert sender.commit(2) is Outcome.COMMITTED
        assert world.records(STATE) == [(b"key", b"2")]

    @pytest.mark.parametrize(
        "error", [KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), KafkaError(KafkaError._MSG_TIMED_OUT)]
    )
    def test_that_kafka_refused_take_the_offsets_with_them(
        self, world: World, transactions: Transactions, sender: Sender, error: KafkaError
    ) -> None:
        world.kafka.fail_next("deliver", error, before=True)
        assert sender.commit() in {Outcome.ABORTED, Outcome.UNKNOWN}
        assert transactions.prepare()
        assert world.records(STATE) == []
        assert world.committed() == {}
        assert not world.group.is_unstable(HERE)
        assert sender.commit(2) is Outcome.COMMITTED

    def test_that_have_no_place_in_a_topic_abort(
        self, world: World, transactions: Transactions, sender: Sender
    ) -> None:
        record = OutputBatch(TopicPartition(STATE, 99), [(b"k", b"v", None)])
        assert (
            transactions.commit(Changeset([record], {HERE: 1}), sender.consumer.consumer_group_metadata())
            is Outcome.ABORTED
        )
        assert world.committed() == {}
        assert sender.commit() is Outcome.COMMITTED


class TestOffsetsThatWereNotSent:
    @pytest.mark.parametrize("before", [True, False])
    def test_are_never_committed(
        self, world: World, transactions: Transactions, sender: Sender, before: bool
    ) -> None:
        world.kafka.fail_next("send_offsets_to_transaction", before=before)
        assert sender.commit(1) is Outcome.ABORTED
        assert transactions.reason == "The transaction was aborted: Local: Timed out."
        assert world.records(STATE) == []
        assert world.committed() == {}
        assert not world.group.is_unstable(HERE)
        assert sender.commit(2) is Outcome.COMMITTED
        assert world.committed() == {0: 2}

    def test_because_the_member_is_gone_abort(self, world: World, sender: Sender) -> None:
        world.kafka.fence(sender.consumer)
        assert sender.commit() is Outcome.ABORTED
        assert world.records(STATE) == []
        assert world.committed() == {}

    def test_because_the_producer_is_fenced_leave_the_outcome_unknown(
        self, world: World, transactions: Transactions, sender: Sender
    ) -> None:
        world.kafka.fail_next("send_offsets_to_transaction", FATAL, before=True)
        assert sender.commit() is Outcome.UNKNOWN
        assert transactions.reason == "A transaction was refused: Local: Fatal error."
        assert sender.commit(2) is Outcome.COMMITTED
        assert world.records(STATE) == [(b"key", b"2")]


class TestACommit:
    @pytest.mark.parametrize("before", [True, False])
    def test_that_timed_out_is_called_again(
        self, world: World, transactions: Transactions, sender: Sender, before: bool
    ) -> None:
        for _ in range(2):
            world.kafka.fail_next("commit_transaction", before=before)
        assert sender.commit() is Outcome.UNFINISHED
        assert transactions.is_unfinished
        assert transactions.reason == "A transaction has no outcome yet: Local: Timed out."
        assert transactions.finish() is Outcome.UNFINISHED
        assert transactions.finish() is Outcome.COMMITTED
        assert not transactions.is_unfinished
        assert transactions.reason == ""
        assert world.records(STATE) == [(b"key", b"1")]
        assert world.committed() == {0: 1}
        assert sender.commit(2) is Outcome.COMMITTED

    @pytest.mark.parametrize("error", [FOR_GOOD, FATAL])
    @pytest.mark.parametrize(("before", "kind"), [(True, "aborted"), (False, "committed")])
    def test_that_failed_for_good_is_unknown_and_ended_by_the_next_producer_of_that_id(
        self, world: World, transactions: Transactions, sender: Sender, error: KafkaError, before: bool, kind: str
    ) -> None:
        world.kafka.fail_next("commit_transaction", error, before=before)
        assert sender.commit() is Outcome.UNKNOWN
        assert error.str() in transactions.reason
        assert not transactions.is_unfinished
        assert transactions.prepare()
        assert world.kinds(STATE)[0] == kind
        assert not world.group.is_unstable(HERE)
        assert sender.commit(2) is Outcome.COMMITTED

    def test_that_was_called_again_can_still_fail_for_good(
        self, world: World, transactions: Transactions, sender: Sender
    ) -> None:
        world.kafka.fail_next("commit_transaction", before=True)
        world.kafka.fail_next("commit_transaction", FOR_GOOD, before=True)
        assert sender.commit() is Outcome.UNFINISHED
        assert transactions.finish() is Outcome.UNKNOWN
        assert not transactions.is_unfinished

    def test_of_a_producer_that_another_one_with_its_id_fenced_is_unknown(
        self, world: World, transactions: Transactions, sender: Sender
    ) -> None:
        assert transactions.prepare()
        world.kafka.producer(SETTINGS).init_transactions(5)
        assert sender.commit() is Outcome.UNKNOWN
        assert world.records(STATE) == []
        assert sender.commit(2) is Outcome.COMMITTED

    def test_that_took_longer_than_kafka_allows_is_unknown_and_did_not_go_through(
        self, world: World, transactions: Transactions, sender: Sender
    ) -> None:
        world.kafka.fail_next("commit_transaction", before=True)
        assert sender.commit() is Outcome.UNFINISHED
        world.clock.now += 11
        assert transactions.finish() is Outcome.UNKNOWN
        assert world.records(STATE) == []
        assert world.committed() == {}


class TestAnAbort:
    def test_that_timed_out_is_called_again(self, world: World, transactions: Transactions, sender: Sender) -> None:
        world.kafka.fail_next("send_offsets_to_transaction", before=True)
        for before in (True, False):
            world.kafka.fail_next("abort_transaction", before=before)
        assert sender.commit() is Outcome.UNFINISHED
        assert transactions.is_unfinished
        assert transactions.finish() is Outcome.UNFINISHED
        assert transactions.finish() is Outcome.ABORTED
        assert not transactions.is_unfinished
        assert transactions.reason == "The transaction was aborted: Local: Timed out."
        assert world.kinds(STATE) == ["aborted", "abort marker"]
        assert sender.commit(2) is Outcome.COMMITTED

    @pytest.mark.parametrize("error", [FOR_GOOD, FATAL])
    def test_that_failed_for_good_is_left_to_the_next_producer(
        self, world: World, transactions: Transactions, sender: Sender, error: KafkaError
    ) -> None:
        world.kafka.fail_next("send_offsets_to_transaction", before=False)
        world.kafka.fail_next("abort_transaction", error, before=True)
        assert sender.commit() is Outcome.UNKNOWN
        assert world.group.is_unstable(HERE)
        assert transactions.prepare()
        assert not world.group.is_unstable(HERE)
        # Once when the next producer came, and once more by itself, for what a crashed broker may have forgotten.
        assert world.kinds(STATE) == ["aborted", "abort marker"] * 2


class TestPreparing:
    def test_is_tried_again_until_kafka_answers(self, world: World, transactions: Transactions) -> None:
        world.kafka.fail_next("init_transactions", before=True)
        world.kafka.fail_next("init_transactions", before=False)
        assert not transactions.prepare()
        assert transactions.reason == "A transaction could not be begun: Local: Timed out."
        assert not transactions.prepare()
        assert transactions.prepare()

    def test_that_failed_lets_no_transaction_begin(self, world: World, sender: Sender) -> None:
        world.kafka.fail_next("init_transactions", before=True)
        assert sender.commit() is Outcome.ABORTED
        assert world.kinds(STATE) == []
        assert sender.commit() is Outcome.COMMITTED

    def test_that_failed_for_good_is_tried_again_with_a_new_producer(
        self, world: World, transactions: Transactions
    ) -> None:
        world.kafka.fail_next("init_transactions", FATAL, before=True)
        assert not transactions.prepare()
        assert transactions.prepare()

    @pytest.mark.parametrize(
        "code",
        [
            KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.INVALID_TRANSACTION_TIMEOUT,
            KafkaError.UNSUPPORTED_VERSION,
        ],
    )
    def test_that_is_refused_is_a_sentence(self, world: World, transactions: Transactions, code: int) -> None:
        error = KafkaError(code)
        world.kafka.fail_next("init_transactions", error, before=True)
        with pytest.raises(errors.KafkaError) as caught:
            transactions.prepare()
        assert str(caught.value) == (
            f"Kafka doesn't let this service write in transactions: {error.str()}. Allow it to write to the "
            "transactional ids that begin with its group's name."
        )

    def test_ends_at_once_what_an_earlier_process_with_the_same_id_left_open(self, world: World) -> None:
        dead = Sender(world, transactions_on(world.kafka))
        world.kafka.fail_next("commit_transaction", before=True)
        assert dead.commit() is Outcome.UNFINISHED
        assert transactions_on(world.kafka).prepare()
        assert world.kinds(STATE) == ["aborted", "abort marker"]


class FullProducer(MemoryProducer):
    """Its queue is full until it was polled so many times."""

    polls_needed = 0

    def produce(self, *args: object, **kwargs: object) -> None:
        if self.polls_needed:
            raise BufferError("Local: Queue full")
        super().produce(*args, **kwargs)  # type: ignore[arg-type]

    def poll(self, timeout: float = -1) -> int:
        self.polls_needed -= self.polls_needed > 0
        return super().poll(timeout)


@pytest.mark.parametrize(("polls", "outcome"), [(49, Outcome.COMMITTED), (10_000, Outcome.ABORTED)])
def test_a_full_queue_is_waited_for_a_while(world: World, polls: int, outcome: Outcome):
    class FullKafka(FaultyKafka):
        def producer(self, settings: object) -> MemoryProducer:
            producer = FullProducer(world.kafka._broker, SETTINGS)
            producer.polls_needed = polls
            return producer

    sender = Sender(world, transactions_on(FullKafka()))

    assert sender.commit() is outcome
    assert world.committed() == ({0: 1} if outcome is Outcome.COMMITTED else {})


class OddProducer(MemoryProducer):
    """Raises what confluent-kafka makes of an error that comes while a callback is due."""

    def flush(self, timeout: float = -1) -> int:
        try:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        except KafkaException as error:
            raise SystemError("returned a result with an exception set") from error


def test_an_error_that_comes_in_disguise_is_taken_for_what_it_is(world: World):
    class OddKafka(FaultyKafka):
        def producer(self, settings: object) -> MemoryProducer:
            return OddProducer(world.kafka._broker, SETTINGS)

    transactions = transactions_on(OddKafka())

    assert Sender(world, transactions).commit() is Outcome.ABORTED
    assert transactions.reason == "The transaction was aborted: Local: Timed out."


def test_closing_leaves_an_open_transaction_to_its_timeout(
    world: World, transactions: Transactions, sender: Sender
):
    world.kafka.fail_next("commit_transaction", before=True)
    assert sender.commit() is Outcome.UNFINISHED

    transactions.close()

    assert world.kinds(STATE) == ["open"]
    world.clock.now += 11
    assert world.kinds(STATE) == ["aborted", "abort marker"]
