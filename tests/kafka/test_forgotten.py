"""Kafka may end a transaction without some of its partitions (KAFKA-20734): nothing is lost or counted twice.

A real broker does so when it is killed at a certain millisecond, as `tests/chaos/test_broker.py` finds now and
then; here it is made to, in memory. What was written to such a partition stays open until its producer ends
another transaction there, and then ends as that one does.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from hypervisor_consumers.runtime import loop
from hypervisor_consumers.runtime.partitions.restore import HANGING_AFTER_SECONDS
from hypervisor_telemetry.testing.memory.log import Kind
from tests.kafka.worlds import InMemory, event, outcomes, refused_for_good, running_copy, timed_out
from tests.support.service_copies import DEAD_LETTERS, RINGS, STATE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.service_copies import Copy

GROUP = "ring-metrics"
EVERYWHERE = ((STATE, 0), (RINGS, 0), (DEAD_LETTERS, 0))


@pytest.fixture
def memory() -> InMemory:
    return InMemory()


def forget_in_next_commit(
    memory: InMemory, *topic_partitions: tuple[str, int], groups: tuple[str, ...] = ()
) -> None:
    """The next commit is told to have gone through, as it is, but not in these places."""

    def forget(go: Callable[[], Any]) -> Any:
        memory.memory.forget(*topic_partitions, groups=groups)
        return go()

    memory.kafka.once("commit_transaction", forget)


def read_on(memory: InMemory, copy: Copy, *batches: int) -> list[int]:
    """Collect the shown value of the session after every step, until all records are counted."""
    shown: list[int] = []
    for count in batches:
        memory.put(*(event() for _ in range(count)))
        for _ in range(40):
            copy.step()
            shown.append(copy.counts()["s"])
            memory.pass_time()
    return shown


def never_falls(shown: list[int]) -> bool:
    """Nothing at all may be shown for a while."""
    numbers = [number for number in shown if number]
    return numbers == sorted(numbers)


def end(memory: InMemory, copy: Copy) -> None:
    """As SIGKILL: nothing is said to anybody."""
    memory.copies.remove(copy)
    memory.expel(copy)


def kept(memory: InMemory) -> Counter[str]:
    """Return the count of a copy that knows only Kafka."""
    for copy in list(memory.copies):
        end(memory, copy)
    heir = memory.copy()
    memory.give_to(heir)
    memory.until(lambda: heir.live and heir.processor.is_serving, heir)
    return heir.counts()


@pytest.mark.parametrize("groups", [(), (GROUP,)])
def test_a_commit_that_was_shown_and_undone_is_counted_again_from_the_log_and_nothing_lower_is_shown(
    memory: InMemory, groups: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "BATCH", 1)  # each commit is of one record
    copy = running_copy(memory)
    commits = 2

    def forget(go: Callable[[], Any]) -> Any:
        nonlocal commits
        commits -= 1
        if commits == 0:
            del memory.kafka.hooks["commit_transaction"]
        memory.memory.forget(*EVERYWHERE, groups=groups)
        return go()

    memory.kafka.hooks["commit_transaction"] = forget
    shown = read_on(memory, copy, 2)
    assert shown[-1] == 3
    # The producer is replaced: the new one ends what lies open, as aborted.
    memory.kafka.once("flush", lambda _go: (_ for _ in ()).throw(refused_for_good()))
    shown += read_on(memory, copy, 4)
    assert shown[-1] == 7
    assert never_falls(shown)
    assert copy.results() == Counter(applied=7)
    assert kept(memory) == Counter(s=7)


@pytest.mark.parametrize("groups", [(), (GROUP,)])
def test_who_gets_the_partition_then_shows_nothing_lower_than_was_shown(
    memory: InMemory, groups: tuple[str, ...]
) -> None:
    copy = running_copy(memory)

    def forget_and_refuse_the_next(go: Callable[[], Any]) -> None:
        memory.memory.forget(*EVERYWHERE, groups=groups)
        go()
        memory.kafka.once("flush", lambda _go: (_ for _ in ()).throw(refused_for_good()))

    memory.kafka.once("commit_transaction", forget_and_refuse_the_next)
    memory.put(event(), event())
    memory.until(lambda: copy.counts()["s"] == 3, copy)
    shown = [3]
    memory.until(lambda: sum(outcomes(copy, "unknown")), copy)
    copy.processor.committer.transactions.prepare()  # the new producer ends what lies open
    end(memory, copy)
    heir = memory.copy()
    memory.give_to(heir)
    shown += read_on(memory, heir, 1)
    assert never_falls(shown)
    assert shown[-1] == 4


def test_an_abort_that_undoes_the_commit_before_it_is_made_good_by_the_next_commit(memory: InMemory) -> None:
    copy = running_copy(memory)
    forget_in_next_commit(memory, *EVERYWHERE)
    memory.put(event("t"), event("t"))
    memory.settled(copy, 2, "t")

    def fail(go: Callable[[], Any]) -> None:
        go()
        raise timed_out()

    memory.kafka.once("send_offsets_to_transaction", fail)
    shown = read_on(memory, copy, 1)
    assert shown[-1] == 2
    assert never_falls(shown)
    assert memory.kafka.calls.count("abort_transaction") == 1
    assert kept(memory) == Counter(s=2, t=2)
    assert len({record.key for record in memory.memory.log(RINGS, 0) if record.kind is Kind.COMMITTED}) == 2


@pytest.mark.parametrize("was_cut_off", [True, False])
def test_dead_letters_are_written_once_more_only_if_the_connection_was_lost(
    memory: InMemory, was_cut_off: bool
) -> None:
    copy = running_copy(memory)
    if was_cut_off:
        forget_in_next_commit(memory, *EVERYWHERE)
    memory.put(b"junk", event())
    memory.settled(copy, 2)

    def fail(go: Callable[[], Any]) -> None:
        go()
        copy.processor.committer.transactions._connection_trouble(None) if was_cut_off else None
        raise timed_out()

    memory.kafka.once("send_offsets_to_transaction", fail)
    memory.put(b"trash", event())
    memory.settled(copy, 3)
    assert memory.committed(DEAD_LETTERS) == [b"junk", b"trash"]


@pytest.mark.parametrize(
    ("topic_partitions", "groups"),
    [
        pytest.param([(STATE, 0)], (), id="the state"),
        pytest.param([(RINGS, 0)], (), id="the public table"),
        pytest.param([(STATE, 0)], (GROUP,), id="the state and the group's offset"),
        pytest.param(EVERYWHERE, (GROUP,), id="everything"),
    ],
)
def test_what_a_dead_copy_left_open_for_ever_is_ended_in_its_name(
    memory: InMemory, topic_partitions: list[tuple[str, int]], groups: tuple[str, ...]
) -> None:
    copy = running_copy(memory)
    forget_in_next_commit(memory, *topic_partitions, groups=groups)
    memory.put(event(), event())
    memory.until(lambda: copy.counts()["s"] == 3, copy)
    end(memory, copy)

    heir = memory.copy()
    memory.give_to(heir)
    for _ in range(40):
        heir.step()
    assert not heir.processor.is_serving
    for _ in range(int(HANGING_AFTER_SECONDS) * 2):
        memory.clock.advance(1)
        heir.step()
    assert heir.processor.is_serving
    assert heir.counts()["s"] == 3
    assert heir.results() == Counter(applied=3)
    assert kept(memory) == Counter(s=3)


def test_what_nobody_is_known_to_have_written_is_said_and_how_to_end_it(
    memory: InMemory, caplog: pytest.LogCaptureFixture
) -> None:
    copy = running_copy(memory)
    end(memory, copy)
    stranger = memory.memory.producer({"transactional.id": "stranger", "transaction.timeout.ms": 1_000_000})
    stranger.init_transactions()
    stranger.begin_transaction()
    stranger.produce(STATE, b"{}", key=b'[9,"x"]', partition=0)
    stranger.flush()

    heir = memory.copy()
    memory.give_to(heir)
    for _ in range(int(HANGING_AFTER_SECONDS) * 2):
        memory.clock.advance(1)
        heir.step()
    assert heir.live == {(RINGS, 0)}
    assert "it isn't known whose; end it with Kafka's own kafka-transactions.sh" in heir.processor.trouble
    stranger.abort_transaction()
    memory.until(lambda: heir.counts()["s"] == 1, heir)
    assert heir.processor.trouble == ""


def test_a_transaction_is_left_to_kafka_as_long_as_it_may_end_by_itself(memory: InMemory) -> None:
    copy = running_copy(memory)

    def die(_go: Callable[[], Any]) -> None:
        raise KeyboardInterrupt

    memory.kafka.once("commit_transaction", die)
    memory.put(event())
    with pytest.raises(KeyboardInterrupt):
        memory.until(lambda: False, copy)
    end(memory, copy)
    memory.kafka.calls.clear()
    heir = memory.copy()
    memory.give_to(heir)
    memory.settled(heir, 2)
    # The heir's own producer alone.
    assert memory.kafka.calls.count("init_transactions") == 1


def test_the_first_record_of_each_partition_says_who_wrote_it(memory: InMemory) -> None:
    copy = running_copy(memory)
    memory.put(event("t"), event("u"))
    memory.settled(copy, 1, "u")
    name = copy.processor.committer.transactions._settings["transactional.id"].encode()
    for topic in (STATE, RINGS):
        records = [record for record in memory.memory.log(topic, 0) if not record.kind.is_marker]
        named = [record.headers == [("transactional.id", name)] for record in records]
        assert named[0]
        assert named.count(True) < len(named)
