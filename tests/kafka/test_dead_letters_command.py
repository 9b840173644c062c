"""`dead-letters list|show|replay` on a real Kafka: what is shown, and that everything is replayed exactly once."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions
from typer.testing import CliRunner

from hypervisor_schemas import errors
from hypervisor_schemas.dead_letters import REPLAY_FOR, REPLAY_OF, DeadLetter, DeadLetterId
from hypervisor_schemas.events import EventType, HypervisorEvent
from hypervisor_schemas.topics import TOPICS
from hypervisor_schemas.wire.codec import confluent_framing, encode_event
from hypervisor_telemetry.cli.app import app
from hypervisor_telemetry.dead_letter_tools.dead_letters import DeadLetterEntry, DeadLetterTopic, Selection
from hypervisor_telemetry.dead_letter_tools.replay import replay
from tests.support.service_processes import COMMAND, Fleet, eventually, run_command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.kafka

PARTITIONS = 2
EVENT = HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s1", agent_did="a", payload={"ring": "x"})


@pytest.fixture
def fleet(new_fleet: Callable[[int], Fleet]) -> Fleet:
    made = new_fleet(PARTITIONS)
    eventually(lambda: made.admin.list_topics(timeout=30).topics, {made.prefix + it.name for it in TOPICS}.issubset)
    return made


def letter(fleet: Fleet, offset: int, partition: int = 0, **fields: Any) -> DeadLetter:
    return replace(
        DeadLetter(
            key=b"s1",
            value=b"rubbish %d" % offset,
            original_headers=(("trace", b"\xff\x00"), ("trace", None)),
            service="ring-metrics",
            reason="undecodable",
            error=f"Nothing can be made of {offset}.",
            topic=fleet.topic("ring"),
            partition=partition,
            offset=offset,
            timestamp=1_700_000_000_000,
        ),
        **fields,
    )


def dead_letters_topic(fleet: Fleet) -> str:
    return f"{fleet.prefix}dead-letters"


def keep(fleet: Fleet, letters: Sequence[DeadLetter], producer: Producer | None = None) -> None:
    """Write them as a service does."""
    settings = {"bootstrap.servers": fleet.bootstrap_servers, "message.max.bytes": 2_000_000, "log_level": 0}
    producer = producer or Producer(settings)
    for each in letters:
        at = each.partition_among(PARTITIONS)
        headers: Any = each.headers()
        producer.produce(dead_letters_topic(fleet), each.value, each.key, partition=at, headers=headers)
        producer.poll(0)
    assert producer.flush(30) == 0


def replayed(fleet: Fleet, category: str = "ring") -> list[tuple[int, bytes | None, bytes | None, Any]]:
    """Read an event topic: partition, key, value and headers of each record."""
    found = fleet.records(fleet.topic(category))
    return [(it.partition(), it.key(), it.value(), it.headers()) for it in found]


def replay_of(message: Any) -> str:
    return dict(message[3])[REPLAY_OF].decode()


def run(fleet: Fleet, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in this process: to start another one takes longer than most of what is tested here."""
    done = CliRunner().invoke(app, ["dead-letters", *arguments], env=fleet.environ)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def begin(fleet: Fleet, *arguments: str) -> subprocess.Popen[str]:
    """A command that goes on while the test does something."""
    return subprocess.Popen(
        [*COMMAND, "dead-letters", *arguments],
        env={**os.environ, **fleet.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def opened(fleet: Fleet, **options: Any) -> DeadLetterTopic:
    return DeadLetterTopic(fleet.environ, None, options.pop("report", lambda _: None), **options)


# ---- list and show ----


def test_list_shows_each_with_its_place_and_how_many_there_are_of_each_service_and_reason(fleet: Fleet):
    ring = fleet.topic("ring")
    keep(fleet, [letter(fleet, 8), letter(fleet, 9, 1, key=None), letter(fleet, 7, 1, reason="unknown_schema")])

    done = run_command("dead-letters", "list", **fleet.environ)

    assert (done.returncode, done.stderr) == (0, "")
    table, summary, _ = (part.splitlines() for part in done.stdout.split("\n\n"))
    time = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
    assert [time.sub("TIME", line).split() for line in table] == [
        ["PLACE", "SERVICE", "REASON", "KEPT", "KEY", "REPLAYED"],
        [f"{ring}/0/8", "ring-metrics", "undecodable", "TIME", "s1", "no"],
        [f"{ring}/1/7", "ring-metrics", "unknown_schema", "TIME", "s1", "no"],
        [f"{ring}/1/9", "ring-metrics", "undecodable", "TIME", "-", "no"],
    ]
    assert [line.split() for line in summary] == [
        ["SERVICE", "REASON", "DEAD", "LETTERS", "REPLAYED"],
        ["ring-metrics", "undecodable", "2", "0"],
        ["ring-metrics", "unknown_schema", "1", "0"],
    ]

    lines = [json.loads(line) for line in run(fleet, "list", "--json", "--limit", "2").stdout.splitlines()]
    assert [(line["place"], line["error"]) for line in lines] == [
        (f"{ring}/0/8", "Nothing can be made of 8."),
        (f"{ring}/1/7", "Nothing can be made of 7."),
    ]


def test_no_dead_letters_is_no_failure_and_no_topic_is_one(fleet: Fleet):
    assert (run(fleet, "list").stdout, run(fleet, "list").returncode) == ("no dead letters\n", 0)
    assert run(fleet, "list", "--reason", "x").stdout == "no dead letters of this kind\n"

    fleet.prefix = "nobody."
    missing = run(fleet, "list")

    assert missing.returncode == 1
    assert missing.stderr == (
        "error: nobody.dead-letters doesn't exist; run `hypervisor-telemetry topics apply`.\n"
    )


def test_a_kafka_that_is_not_there_is_a_sentence():
    done = run_command("dead-letters", "list", "--bootstrap-servers", "127.0.0.1:1", "--wait", "1")

    assert done.returncode == 1
    assert done.stderr.startswith("error: Kafka at 127.0.0.1:1 didn't answer: ")


def test_filters_choose_by_everything_that_is_known_of_a_dead_letter(fleet: Fleet):
    saga = fleet.topic("saga")
    keep(fleet, [letter(fleet, 1), letter(fleet, 2, 1, topic=saga), letter(fleet, 3, 1, service="event-index")])
    keep(fleet, [letter(fleet, 4, key=b"s2", reason="invalid_payload")])
    keep(fleet, [letter(fleet, 5)])
    with opened(fleet) as topic:
        everything = {kept.id.offset: kept for kept in topic.index(Selection())}
        last = everything[5].kept_at_ms

        def chosen(**fields: Any) -> set[int]:
            return {kept.id.offset for kept in topic.index(Selection(**fields))}

        assert everything.keys() == {1, 2, 3, 4, 5}
        assert chosen(service="event-index") == {3}
        assert chosen(reason="invalid_payload") == {4}
        assert chosen(topic="events.saga") == chosen(topic=saga) == {2}
        assert chosen(partition=1) == {2, 3}
        assert chosen(session="s2") == {4}
        assert chosen(since_ms=last) >= {5}
        assert chosen(since_ms=last) | chosen(until_ms=last) == {1, 2, 3, 4, 5}
        assert chosen(since_ms=last + 1) == set()

    done = run(fleet, "list", "--json", "--session", "s1", "--partition", "0", "--since", "2020-01-01")
    assert [json.loads(line)["offset"] for line in done.stdout.splitlines()] == [1, 5]
    assert run(fleet, "list", "--json", "--until", "2020-01-01").stdout == ""


def test_somebody_elses_records_in_the_topic_are_passed_over(fleet: Fleet):
    producer = Producer({"bootstrap.servers": fleet.bootstrap_servers, "log_level": 0})
    producer.produce(dead_letters_topic(fleet), b"hello", partition=0)
    producer.produce(
        dead_letters_topic(fleet), b"hello", partition=0, headers={"hypervisor-dead-letter-service": b"x"}
    )
    keep(fleet, [letter(fleet, 1)], producer)

    with opened(fleet) as topic:
        assert [kept.id.offset for kept in topic.index(Selection())] == [1]


def test_show_tells_everything_about_each_service_that_could_not_use_the_record(fleet: Fleet):
    known = letter(fleet, 4, value=encode_event(EVENT), reason="invalid_payload")
    keep(fleet, [known, replace(known, service="event-index"), letter(fleet, 5, value=confluent_framing(7) + b"?")])

    both = run(fleet, "show", f"{fleet.topic('ring')}/0/4")

    assert (both.returncode, both.stderr) == (0, "")
    first, second = both.stdout.split("\n\n")
    assert "service    event-index" in first
    assert "service    ring-metrics" in second
    for expected in ("reason     invalid_payload", "error      Nothing can be made of 4.", "key        s1"):
        assert expected in second
    for header in ("header     trace = \\xff\\x00", "header     trace = (null)", "published  2023-11-14T22:13:20Z"):
        assert header in second
    assert json.loads(second.partition("decodes it:\n")[2]) == EVENT.to_dict()

    unreadable = run(fleet, "show", "events.ring/0/5", "--service", "ring-metrics")
    assert "can't be decoded now: Schema id 7 needs a registry; set SCHEMA_REGISTRY_URL." in unreadable.stdout
    assert "00000000  00 00 00 00 07 3f" in unreadable.stdout

    nothing = run(fleet, "show", "events.ring/0/6")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("error: There is no such dead letter in ")


# ---- replay ----


def test_a_dry_run_shows_what_would_be_replayed_and_changes_nothing(fleet: Fleet):
    keep(fleet, [letter(fleet, 1), letter(fleet, 2), letter(fleet, 3, 1)])

    done = run(fleet, "replay", "--dry-run", "--limit", "2")

    assert (done.returncode, done.stderr) == (0, "")
    *table, last = done.stdout.splitlines()
    assert [line.split()[0] for line in table[1:]] == [f"{fleet.topic('ring')}/0/{offset}" for offset in (1, 2)]
    assert last == "would replay 2"
    assert replayed(fleet) == []
    assert len(fleet.records(dead_letters_topic(fleet), "read_uncommitted")) == 3
    assert run(fleet, "replay").stdout.splitlines()[-1] == "replayed 3"


def test_a_replay_puts_every_record_back_untouched_and_in_order_and_running_it_again_replays_nothing(fleet: Fleet):
    saga = fleet.topic("saga")
    kept = [
        letter(fleet, 7, 1, value=None),
        letter(fleet, 12, 1, key=None, original_headers=()),
        # Kept after a group went back to earlier records.
        letter(fleet, 3, 1, value=bytes(range(256))),
        letter(fleet, 3, 1, value=bytes(range(256)), service="event-index"),
        letter(fleet, 5, value=b""),
        letter(fleet, 9, topic=saga, service="saga-spans", key=b""),
    ]
    keep(fleet, kept)

    done = run_command("dead-letters", "replay", **fleet.environ)

    assert (done.returncode, done.stderr) == (0, "")
    ring = fleet.topic("ring")
    *table, last = done.stdout.splitlines()
    assert [line.split() for line in table[1:]] == [
        [f"{ring}/0", "ring-metrics", "1", "5-5"],
        [f"{ring}/1", "event-index", "1", "3-3"],
        [f"{ring}/1", "ring-metrics", "3", "3-12"],
        [f"{saga}/0", "saga-spans", "1", "9-9"],
    ]
    assert last == "replayed 6"

    def expected(each: DeadLetter) -> tuple[int, bytes | None, bytes | None, Any]:
        ours = [(REPLAY_FOR, each.service.encode()), (REPLAY_OF, each.id.place.encode())]
        return each.partition, each.key, each.value, [*each.original_headers, *ours]

    assert replayed(fleet) == [expected(kept[at]) for at in (4, 3, 2, 0, 1)]
    assert replayed(fleet, "saga") == [expected(kept[5])]

    again = run(fleet, "replay")
    assert (again.returncode, again.stdout) == (0, "replayed 0, replayed before 6\n")
    assert len(replayed(fleet)) == 5
    listed = run(fleet, "list").stdout
    assert "  no\n" not in listed
    assert ["saga-spans", "undecodable", "1", "1"] in [line.split() for line in listed.splitlines()]

    on_purpose = run(fleet, "replay", f"{ring}/0/5", "--again")
    assert on_purpose.stdout.splitlines()[-1] == "replayed 1 (1 of them again)"
    assert len(replayed(fleet)) == 6


def test_filters_and_a_limit_choose_what_is_replayed_and_the_rest_comes_later(fleet: Fleet):
    keep(fleet, [letter(fleet, number, key=b"s%d" % (number % 2)) for number in range(10)])

    first = run(fleet, "replay", "--session", "s1", "--limit", "3")
    second = run(fleet, "replay", "--session", "s1", "--limit", "3")
    third = run(fleet, "replay")

    assert first.stdout.splitlines()[-1] == "replayed 3"
    assert second.stdout.splitlines()[-1] == "replayed 2, replayed before 3"
    assert third.stdout.splitlines()[-1] == "replayed 5, replayed before 5"
    assert [int(replay_of(it).rpartition("/")[2]) for it in replayed(fleet)] == [1, 3, 5, 7, 9, 0, 2, 4, 6, 8]


def test_a_dead_letter_that_is_there_twice_is_listed_and_replayed_once(fleet: Fleet):
    keep(fleet, [letter(fleet, 1), letter(fleet, 2), letter(fleet, 1), letter(fleet, 2), letter(fleet, 3)])

    with opened(fleet) as topic:
        assert [kept.id.offset for kept in topic.index(Selection())] == [1, 2, 3]
    assert run(fleet, "replay").stdout.splitlines()[-1] == "replayed 3"
    # A service that crashed may write it once more, after the replay.
    keep(fleet, [letter(fleet, 3)])
    assert run(fleet, "replay").stdout == "replayed 0, replayed before 3\n"
    assert len(replayed(fleet)) == 3


def test_a_replayed_record_that_is_a_dead_letter_once_more_can_be_replayed_once_more(fleet: Fleet):
    keep(fleet, [letter(fleet, 1)])
    run(fleet, "replay")
    [(_, key, value, headers)] = replayed(fleet)
    keep(fleet, [letter(fleet, 0, key=key, value=value, original_headers=tuple(headers), error="Still nothing.")])

    done = run(fleet, "replay")

    assert done.stdout.splitlines()[-1] == "replayed 1, replayed before 1"
    ring = fleet.topic("ring")
    assert [record[3] for record in replayed(fleet)] == [
        [("trace", b"\xff\x00"), ("trace", None), (REPLAY_FOR, b"ring-metrics"), (REPLAY_OF, place.encode())]
        for place in (f"{ring}/0/1", f"{ring}/0/0")
    ]
    assert run(fleet, "replay").stdout == "replayed 0, replayed before 2\n"


# ---- what can't go back ----


def test_a_record_that_kafka_refuses_is_told_and_stays_and_the_others_of_its_transaction_go(fleet: Fleet):
    too_large = letter(fleet, 3, value=bytes(1_060_000))
    keep(fleet, [letter(fleet, 1), letter(fleet, 2), too_large, letter(fleet, 4), letter(fleet, 5)])

    done = run(fleet, "replay")

    assert done.returncode == 1
    assert done.stderr.startswith(f"{too_large.id.place} of ring-metrics is not replayed: Kafka refuses it: ")
    assert "too large" in done.stderr
    assert done.stdout.splitlines()[-1] == "replayed 4, not replayed 1"
    assert [replay_of(it).rpartition("/")[2] for it in replayed(fleet)] == ["1", "2", "4", "5"]
    with opened(fleet) as topic:
        assert [kept.id.offset for kept in topic.index(Selection()) if kept.replayed_at_ms is None] == [3]
    assert run(fleet, "replay").stdout == "replayed 0, replayed before 4, not replayed 1\n"


def test_a_record_whose_topic_or_partition_is_gone_is_told_and_the_others_go(fleet: Fleet):
    gone = f"{fleet.prefix}events.gone"
    keep(fleet, [letter(fleet, 1, topic=gone), letter(fleet, 2, topic=gone), letter(fleet, 3), letter(fleet, 4, 9)])

    for arguments in (["--dry-run"], []):
        done = run(fleet, "replay", *arguments)

        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            f"2 of {gone}/0 can't be replayed: the topic doesn't exist any more",
            f"1 of {fleet.topic('ring')}/9 can't be replayed: the topic has 2 partitions now",
        ]
        assert done.stdout.splitlines()[-1] == f"{'would replay' if arguments else 'replayed'} 1, not replayed 3"
    assert [replay_of(it) for it in replayed(fleet)] == [f"{fleet.topic('ring')}/0/3"]


def test_a_dead_letters_topic_that_grew_is_read_whole_and_marks_stay_with_their_dead_letters(fleet: Fleet):
    keep(fleet, [letter(fleet, 1, 1)])
    topic = dead_letters_topic(fleet)
    fleet.admin.create_partitions([NewPartitions(topic, 3)])[topic].result(30)
    eventually(lambda: len(fleet.admin.list_topics(timeout=30).topics[topic].partitions), lambda count: count == 3)

    assert run(fleet, "replay").stdout.splitlines()[-1] == "replayed 1"

    assert [(it.partition(), it.value()) for it in fleet.records(topic)] == [(1, b"rubbish 1"), (1, None)]


# ---- exactly once ----


def is_each_replayed_once_and_in_order(fleet: Fleet, letters: Sequence[DeadLetter]) -> bool:
    found = [replay_of(it) for it in replayed(fleet)]
    return found == [each.id.place for each in sorted(letters, key=lambda each: (each.partition, each.offset))]


def many(fleet: Fleet, count: int) -> list[DeadLetter]:
    letters = [letter(fleet, number, number % 2) for number in range(count)]
    keep(fleet, letters)
    return letters


def test_two_replays_at_once_replay_each_record_once(fleet: Fleet):
    letters = many(fleet, 3000)

    both = [begin(fleet, "replay") for _ in range(2)]
    outputs = [process.communicate(timeout=90) for process in both]

    assert sorted(process.returncode for process in both) in ([0, 0], [0, 1])
    for process, (_, errors_said) in zip(both, outputs, strict=True):
        if process.returncode:
            assert re.fullmatch(r"error: (Another replay has begun|The replay stopped: ).*\n", errors_said)
    assert is_each_replayed_once_and_in_order(fleet, letters)


def test_a_replay_that_another_one_overtakes_stops_with_a_sentence_and_nothing_goes_twice(fleet: Fleet):
    letters = many(fleet, 700)
    overtaken = threading.Event()
    at_its_second_batch = threading.Event()

    class Held(DeadLetterTopic):
        """Stands still between the first transaction and the second."""

        batches = 0

        def fetch(self, wanted: Sequence[DeadLetterEntry]) -> dict[DeadLetterId, DeadLetter]:
            self.batches += 1
            if self.batches == 2:
                at_its_second_batch.set()
                assert overtaken.wait(60)
            return super().fetch(wanted)

    said: list[str] = []

    def overtaken_replay() -> None:
        with Held(fleet.environ, None, said.append) as topic:
            try:
                replay(topic, Selection(), said.append)
            except errors.KafkaError as error:
                said.append(str(error))

    thread = threading.Thread(target=overtaken_replay)
    thread.start()
    try:
        assert at_its_second_batch.wait(60)
        second = run(fleet, "replay")
    finally:
        overtaken.set()
        thread.join(60)

    assert said == ["Another replay has begun and goes on in place of this one. This one replayed 500."]
    assert (second.returncode, second.stdout.splitlines()[-1]) == (0, "replayed 200, replayed before 500")
    assert is_each_replayed_once_and_in_order(fleet, letters)


def test_what_another_replay_does_after_the_marks_were_read_is_not_done_again(fleet: Fleet):
    letters = many(fleet, 10)

    class Overtaken(DeadLetterTopic):
        """Another replay runs from beginning to end between the reading of the marks and the first transaction."""

        def index(self, selection: Selection, *, past_open_transactions: bool = False) -> list[DeadLetterEntry]:
            found = super().index(selection, past_open_transactions=past_open_transactions)
            assert run(fleet, "replay").stdout.splitlines()[-1] == "replayed 10"
            return found

    with (
        Overtaken(fleet.environ, None, lambda _: None) as topic,
        pytest.raises(errors.KafkaError, match=r"^Another replay has begun and goes on in place of this one\. "),
    ):
        replay(topic, Selection(), lambda _: None)

    assert is_each_replayed_once_and_in_order(fleet, letters)


@pytest.mark.parametrize("records_before_it", [1, 4000])
def test_after_a_replay_was_killed_the_next_one_goes_on_and_each_record_is_there_once(
    fleet: Fleet, records_before_it: int
):
    letters = many(fleet, 20_000)
    first = begin(fleet, "replay")
    ends = [TopicPartition(fleet.topic("ring"), 0)]
    watcher = Consumer({"bootstrap.servers": fleet.bootstrap_servers, "group.id": "unused", "log_level": 0})
    eventually(lambda: watcher.get_watermark_offsets(ends[0], timeout=10)[1], lambda end: end >= records_before_it)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    watcher.close()
    assert first.returncode == -signal.SIGKILL

    second = run(fleet, "replay")

    assert second.returncode == 0, second.stderr
    went_on = re.fullmatch(r"replayed ([\d,]+)(?:, replayed before ([\d,]+))?", second.stdout.splitlines()[-1])
    assert went_on is not None
    after, before = (int((number or "0").replace(",", "")) for number in went_on.groups())
    assert after > 0
    assert before + after == len(letters)
    assert is_each_replayed_once_and_in_order(fleet, letters)


def test_a_mark_behind_a_transaction_that_is_open_is_waited_for(fleet: Fleet, service: Producer):
    keep(fleet, [letter(fleet, 1)])
    service.begin_transaction()
    keep(fleet, [letter(fleet, 2)], service)
    # Somebody replays the first one meanwhile.
    other = Producer({"bootstrap.servers": fleet.bootstrap_servers, "log_level": 0})
    headers: Any = letter(fleet, 1).id.mark_headers()
    other.produce(dead_letters_topic(fleet), partition=0, headers=headers)
    assert other.flush(30) == 0

    assert '"replayed_at": null' in run(fleet, "list", "--json").stdout  # what is committed, at once
    waiting = begin(fleet, "replay")
    assert waiting.stderr is not None
    assert waiting.stderr.readline() == (
        f"waiting for a transaction that is open in partition 0 of {dead_letters_topic(fleet)}\n"
    )
    service.commit_transaction(30)
    said, _ = waiting.communicate(timeout=60)

    assert said.splitlines()[-1] == "replayed 1, replayed before 1"
    assert [replay_of(it) for it in replayed(fleet)] == [f"{fleet.topic('ring')}/0/2"]


def test_a_transaction_that_stays_open_is_a_sentence(fleet: Fleet, service: Producer):
    service.begin_transaction()
    keep(fleet, [letter(fleet, 1)], service)

    with (
        opened(fleet, open_transaction_seconds=1) as topic,
        pytest.raises(errors.KafkaError, match=r"^A transaction has been open in .*; try again later\.$"),
    ):
        replay(topic, Selection(), lambda _: None)


@pytest.fixture
def service(fleet: Fleet) -> Producer:
    """A transactional producer, as a service has one."""
    producer = Producer(
        {
            "bootstrap.servers": fleet.bootstrap_servers,
            "transactional.id": f"{fleet.prefix}a-service",
            "transaction.timeout.ms": 60_000,
            "log_level": 0,
        }
    )
    producer.init_transactions(30)
    return producer
