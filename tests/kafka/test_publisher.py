"""EventPublisher against a real Kafka: what was accepted arrives once, whatever happens to broker and process."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec
from hypervisor import observability as package

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.events import (
    EventType,
    GovernanceEventType,
    HypervisorEvent,
    UnknownEventType,
    event_type_of,
)
from hypervisor_schemas.topics import EVENT_PARTITIONS, partition_of, topic_names
from hypervisor_schemas.wire.codec import SINGLE_OBJECT, SUBJECT, EventDecoder, schema_text
from hypervisor_telemetry.topic_admin import apply_topics
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hypervisor_telemetry.local.broker import LocalKafka
    from hypervisor_telemetry.local.kafka_choice import Kafka

pytestmark = pytest.mark.kafka

Place = tuple[str, int]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


class EventLog:
    """The event topics of one prefix, as anybody can read them."""

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        self.environ = {"KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": prefix}
        self.prefix = prefix
        self._client = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._admin = AdminClient(self._client)
        self._begin: dict[Place, int] = {}

    def forget(self) -> EventLog:
        """Skip the records that are there already."""
        self._begin = self.ends()
        return self

    def ends(self) -> dict[Place, int]:
        asked = {
            TopicPartition(topic, partition): OffsetSpec.latest()
            for topic in topic_names(self.prefix)
            for partition in range(EVENT_PARTITIONS)
        }
        answers = self._admin.list_offsets(asked, request_timeout=30)
        return {(asked.topic, asked.partition): answer.result(30).offset for asked, answer in answers.items()}

    def records(self) -> list[Any]:
        """Everything since `forget`, as Kafka's messages."""
        ends = self.ends()
        wanted = {place: end for place, end in ends.items() if end > self._begin.get(place, 0)}
        if not wanted:
            return []
        consumer = Consumer({**self._client, "group.id": secrets.token_hex(8), "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(*place, self._begin.get(place, 0)) for place in wanted])
            found: list[Any] = []
            missing = sum(end - self._begin.get(place, 0) for place, end in wanted.items())
            give_up_at = time.monotonic() + 30
            while len(found) < missing and time.monotonic() < give_up_at:
                found += [message for message in consumer.consume(1000, 0.2) if message.error() is None]
        finally:
            consumer.close()
        return found

    def events(self) -> list[HypervisorEvent]:
        decoder = EventDecoder()
        return [decoder.decode(message.value()) for message in self.records()]

    def ids(self) -> Counter[str]:
        """Count each event id."""
        return Counter(event.event_id for event in self.events())

    def run(self, folder: Path, script: str, **settings: str) -> str:
        """Run `script` as a program that may be imported, as `multiprocessing` wants it; returns its output."""
        preamble = """
            import os, sys, time
            from hypervisor_producers.bus import HypervisorEventBus
            from hypervisor_producers.publisher import EventPublisher
            from hypervisor_schemas.events import EventType, HypervisorEvent
            def event(name, n):
                return HypervisorEvent(f"{name}-{n}", EventType.RING_ASSIGNED, session_id=f"{name}-{n % 7}")
            def events(name, count):
                return [event(name, n) for n in range(count)]
        """
        file = folder / "program.py"
        file.write_text(textwrap.dedent(preamble) + textwrap.dedent(script))
        program = subprocess.Popen(
            [sys.executable, str(file)],
            env={**os.environ, **self.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = program.communicate(timeout=60)
        except BaseException:
            # The group is the program's own: it takes the children along that hang.
            os.killpg(program.pid, signal.SIGKILL)
            program.communicate()
            raise
        assert program.returncode == 0, errors
        return output


@pytest.fixture(scope="module")
def prepared(kafka: Kafka) -> EventLog:
    prefix = f"t{secrets.token_hex(4)}."
    apply_topics({"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers, "TELEMETRY_TOPIC_PREFIX": prefix})
    log = None

    def every_partition_has_a_leader() -> bool:
        nonlocal log
        # A new one each time: an admin client that has met another leader may go on asking that one.
        log = EventLog(kafka.bootstrap_servers, prefix)
        with suppress(KafkaException):
            return bool(log.ends())
        return False

    wait_until(every_partition_has_a_leader)
    return log


@pytest.fixture
def log(prepared: EventLog) -> EventLog:
    """The log since the beginning of this test."""
    return prepared.forget()


def of(name: str, count: int, **fields: Any) -> list[HypervisorEvent]:
    return [
        HypervisorEvent(f"{name}-{n}", EventType.RING_ASSIGNED, session_id=f"{name}-{n % 7}", **fields)
        for n in range(count)
    ]


def once(*counts_by_name: tuple[str, int]) -> Counter[str]:
    """Each of the events that `of` makes, once."""
    return Counter(f"{name}-{n}" for name, count in counts_by_name for n in range(count))


def test_every_event_arrives_once_with_its_topic_key_partition_and_content(log):
    types = [*EventType, *GovernanceEventType, UnknownEventType("ring.invented"), UnknownEventType("Quantum leap")]
    sources = [
        {"session_id": "s1", "agent_did": "did:mesh:a"},
        {"session_id": "sessiön", "agent_did": ""},
        {"agent_did": "did:mesh:b"},
        {"session_id": ""},
    ]
    sent = {
        event.event_id: event
        for event in (
            HypervisorEvent(
                event_type=event_type,
                causal_trace_id=CausalTraceId().full_id,
                parent_event_id="0123456789abcdef",
                payload={"n": n, "deep": [{"ü": None}]},
                **source,
            )
            for event_type in types
            for n, source in enumerate(sources)
        )
    }
    with EventPublisher(environ=log.environ) as publisher:
        assert all(publisher.publish(event) for event in sent.values())
        assert publisher.flush(30).pending == 0
        stats = publisher.stats()
    assert (stats.enqueued, stats.delivered, stats.failed, stats.queued) == (len(sent), len(sent), 0, 0)

    records, decoder = log.records(), EventDecoder()
    assert len(records) == len(sent)
    for record in records:
        found = decoder.decode(record.value())
        event = sent.pop(found.event_id)
        assert found == event
        assert type(found.event_type) is type(event.event_type)
        category = event.event_type.value.partition(".")[0]
        assert record.topic() == f"{log.prefix}events.{'other' if category == 'Quantum leap' else category}"
        first, second = event.session_id, event.agent_did
        if category == "governance":
            first, second = second, first
        assert record.key() == (first or second or event.event_id).encode()
        assert record.partition() == partition_of(record.key(), EVENT_PARTITIONS)
        assert record.headers() is None
    assert not sent


def test_flush_says_where_the_log_ends(log):
    with EventPublisher(environ=log.environ) as publisher:
        for event in of("flush", 500):
            publisher.publish(event)
        first = publisher.flush(30)
        publisher.publish(of("more", 1)[0])
        second = publisher.flush(30)
    ends = log.ends()
    assert (first.pending, second.pending) == (0, 0)
    assert second.offsets == {place: ends[place] for place in second.offsets}
    assert len(second.offsets) == len(
        {partition_of(f"flush-{n}".encode(), 12) for n in range(7)} | {partition_of(b"more-0", 12)}
    )
    moved = {place for place in second.offsets if second.offsets[place] != first.offsets.get(place)}
    assert moved == {(f"{log.prefix}events.ring", partition_of(b"more-0", 12))}


def test_flush_does_not_wait_for_the_linger(log):
    with EventPublisher(environ={**log.environ, "KAFKA_LINGER_MS": "60000"}) as publisher:
        publisher.publish(of("linger", 1)[0])
        assert publisher.flush(20).pending == 0
        publisher.publish(of("close", 1)[0])
    assert publisher.stats().delivered == 2
    assert log.ids() == once(("linger", 1), ("close", 1))


def test_threads_publish_at_once_and_nothing_is_lost_or_doubled(log):
    publisher = EventPublisher(environ=log.environ)
    threads = [
        threading.Thread(target=lambda name=f"thread{n}": [publisher.publish(event) for event in of(name, 1000)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        stats = publisher.stats()
        assert stats.enqueued == stats.delivered + stats.failed + stats.queued
        assert 0 <= stats.queued <= 4000
        publisher.flush(0.01)
    publisher.close(30)
    assert publisher.stats().delivered == 4000
    assert log.ids() == once(*((f"thread{n}", 1000) for n in range(4)))


def test_events_of_one_session_stay_in_order_whatever_their_size(log):
    """Small ones that come fast are gathered, larger ones are not; none overtakes another."""
    sizes = itertools.cycle([0] * 70 + [700] + [0] * 230 + [400, 600])
    events = [
        HypervisorEvent(
            f"{n}", EventType.RING_ASSIGNED, session_id=f"s{n % 3}", payload={"text": "x" * next(sizes)}
        )
        for n in range(30_000)
    ]
    with EventPublisher(environ=log.environ) as publisher:
        assert all(publisher.publish(event) for event in events)
        assert publisher.flush(60).pending == 0
        assert publisher.stats().delivered == len(events)
    decoder = EventDecoder()
    found: dict[str, list[int]] = {}
    for record in sorted(log.records(), key=lambda record: record.offset()):
        event = decoder.decode(record.value())
        found.setdefault(event.session_id, []).append(int(event.event_id))
    assert found == {f"s{n}": list(range(n, 30_000, 3)) for n in range(3)}


def test_an_outage_in_the_middle_loses_and_doubles_nothing(own_kafka: LocalKafka, topic_prefix: str):
    log = EventLog(own_kafka.bootstrap_servers, topic_prefix)
    apply_topics(log.environ)
    publisher = EventPublisher(environ={**log.environ, "KAFKA_RECONNECT_BACKOFF_MAX_MS": "500"})
    stop = threading.Event()
    longest = published = 0.0

    def publish() -> None:
        nonlocal longest, published
        while not stop.is_set():
            began_at = time.monotonic()
            assert publisher.publish(
                HypervisorEvent(f"outage-{published:g}", EventType.SAGA_CREATED, session_id=f"s{published % 50:g}")
            )
            longest = max(longest, time.monotonic() - began_at)
            published += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=publish)
    thread.start()
    wait_until(lambda: publisher.stats().delivered > 500)
    own_kafka.kill()
    at_the_kill = publisher.stats().enqueued
    wait_until(lambda: publisher.stats().enqueued > at_the_kill + 500)
    assert publisher.stats().queued > 0
    own_kafka.start()
    since = publisher.stats().enqueued
    wait_until(lambda: publisher.stats().delivered > since, 60)
    stop.set()
    thread.join()
    assert publisher.flush(60).pending == 0
    publisher.close()
    stats = publisher.stats()
    assert (stats.delivered, stats.failed, stats.dropped) == (published, 0, {})
    # The network was away for seconds; a busy machine is away for less.
    assert longest < 1
    log = EventLog(own_kafka.bootstrap_servers, topic_prefix)
    assert log.ids() == once(("outage", int(published)))


def test_a_topic_that_does_not_exist_fails_and_is_counted(kafka: Kafka, topic_prefix: str, caplog):
    settings = {"TELEMETRY_TOPIC_PREFIX": topic_prefix, "KAFKA_TOPIC_METADATA_PROPAGATION_MAX_MS": "100"}
    with EventPublisher(kafka.bootstrap_servers, environ=settings) as publisher:
        assert all(publisher.publish(event) for event in of("lost", 3))
        result = publisher.flush(30)
        assert (result.pending, result.offsets) == (0, {})
        stats = publisher.stats()
        assert (stats.enqueued, stats.delivered, stats.failed, stats.queued) == (3, 0, 3, 0)
    lines = [record.getMessage() for record in caplog.records if "was not delivered" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith(f"An event for {topic_prefix}events.ring was not delivered: ")


REFUSED_IS_FATAL = {
    "KAFKA_ENABLE_GAPLESS_GUARANTEE": "true",
    "KAFKA_COMPRESSION_TYPE": "none",
    "TELEMETRY_MAX_EVENT_BYTES": "3000000",
}


def test_a_fatal_error_costs_only_the_event_that_caused_it(log, caplog):
    """The gap-less guarantee makes a refused record fatal for librdkafka: it throws away its whole queue."""
    publisher = EventPublisher(environ={**log.environ, **REFUSED_IS_FATAL})
    before, after, later = of("before", 200), of("after", 200), of("later", 50)
    too_much_for_the_broker = HypervisorEvent("huge", EventType.VFS_WRITE, payload={"text": "x" * 2_000_000})
    assert all(publisher.publish(event) for event in [*before, too_much_for_the_broker, *after])
    assert publisher.flush(30).pending == 0
    assert all(publisher.publish(event) for event in later)
    assert publisher.flush(30).pending == 0
    publisher.close()
    stats = publisher.stats()
    assert (stats.delivered, stats.failed, stats.queued) == (450, 1, 0)
    assert set(log.ids()) == set(once(("before", 200), ("after", 200), ("later", 50)))
    assert "The Kafka producer failed for good and is replaced" in caplog.text


def test_close_ends_in_time_while_fatal_errors_last(log):
    publisher = EventPublisher(environ={**log.environ, **REFUSED_IS_FATAL})
    huge = [HypervisorEvent(f"huge{n}", EventType.VFS_WRITE, payload={"text": "x" * 2_000_000}) for n in range(4)]
    taken = sum(publisher.publish(event) for event in huge)
    wait_until(lambda: publisher.stats().failed > 0)
    began_at = time.monotonic()
    publisher.close(1)
    assert time.monotonic() - began_at < 3
    stats = publisher.stats()
    assert (stats.enqueued, stats.failed, stats.queued) == (taken, taken, 0)


def test_our_bus_publishes_what_it_is_given(log):
    bus = HypervisorEventBus()
    with EventPublisher(environ=log.environ) as publisher:
        bus.emit(HypervisorEvent("too-early"))
        publisher.attach(bus)
        for event in of("bus", 50):
            bus.emit(event)
    assert log.ids() == once(("bus", 50))


def test_the_bus_of_the_real_package_publishes_what_it_is_given(log):
    bus = package.HypervisorEventBus()
    with EventPublisher(environ=log.environ) as publisher:
        publisher.attach(bus)
        for event_type in package.EventType:
            bus.emit(
                package.HypervisorEvent(
                    event_type=event_type,
                    session_id="s",
                    agent_did="did:mesh:a",
                    causal_trace_id=package.CausalTraceId().full_id,
                    payload={"ring": package.EventType.RING_ASSIGNED, "at": {1, 2}},
                )
            )
        assert publisher.stats().dropped == {}
    found = {event.event_id: event for event in log.events()}
    assert len(found) == len(bus.all_events) == len(package.EventType)
    for event in bus.all_events:
        twin = found[event.event_id]
        assert twin.event_type == event_type_of(event.event_type.value)
        assert (twin.timestamp, twin.session_id, twin.agent_did, twin.causal_trace_id, twin.parent_event_id) == (
            event.timestamp,
            event.session_id,
            event.agent_did,
            event.causal_trace_id,
            event.parent_event_id,
        )
        assert twin.payload["ring"] == "ring.assigned"


def test_a_traceparent_is_there_only_when_it_is_asked_for(log):
    trace = CausalTraceId()
    events = [*of("trace", 1, causal_trace_id=trace.full_id), *of("odd", 1, causal_trace_id="odd"), *of("none", 1)]
    for setting in ({}, {"TELEMETRY_TRACEPARENT": "off"}):
        with EventPublisher(environ={**log.environ, **setting}) as publisher:
            publisher.publish(events[0])
    assert [record.headers() for record in log.records()] == [None, None]

    log.forget()
    with EventPublisher(environ={**log.environ, "TELEMETRY_TRACEPARENT": "on"}) as publisher:
        assert all(publisher.publish(event) for event in events)
    headers = {record.key().decode(): record.headers() for record in log.records()}
    assert headers == {
        "trace-0": [("traceparent", trace.to_w3c().traceparent.encode())],
        "odd-0": None,
        "none-0": None,
    }


def test_a_program_that_just_ends_loses_nothing(log, tmp_path):
    log.run(
        tmp_path,
        """
        bus = HypervisorEventBus()
        EventPublisher().attach(bus)
        for each in events("bus", 500):
            bus.emit(each)
        del bus

        def nobody_keeps_it():
            publisher = EventPublisher()
            assert all(publisher.publish(each) for each in events("unreferenced", 500))

        nobody_keeps_it()
        """,
        KAFKA_LINGER_MS="5000",
    )
    assert log.ids() == once(("bus", 500), ("unreferenced", 500))


@needs_fork
def test_eight_forked_children_and_their_parent_deliver_every_event_once(log, tmp_path):
    log.run(
        tmp_path,
        """
        import threading

        publishers = [EventPublisher(), EventPublisher()]
        for publisher in publishers:
            assert all(publisher.publish(each) for each in events(f"before{publishers.index(publisher)}", 100))
        # Connected: a child that is forked while its parent looks up a name can't look one up (decision 0010).
        assert all(publisher.flush(30).pending == 0 for publisher in publishers)
        first_fork, last_fork = threading.Event(), threading.Event()
        published = 0

        def publish_meanwhile():
            global published
            while not last_fork.is_set() or published < 2000:
                assert publishers[0].publish(event("parent", published))
                published += 1
                first_fork.set()

        thread = threading.Thread(target=publish_meanwhile)
        thread.start()
        first_fork.wait()
        children = []
        for number in range(8):
            child = os.fork()
            if child == 0:
                for publisher in publishers:
                    name = f"child{number}.{publishers.index(publisher)}"
                    assert all(publisher.publish(each) for each in events(name, 200))
                if number == 0:
                    assert all(publisher.flush(30).pending == 0 for publisher in publishers)
                    grandchild = os.fork()
                    if grandchild == 0:
                        assert all(publishers[0].publish(each) for each in events("grandchild", 200))
                        sys.exit()
                    assert os.waitpid(grandchild, 0)[1] == 0
                if number == 1:
                    for publisher in publishers:
                        publisher.close()
                    os._exit(0)
                sys.exit()
            children.append(child)
        last_fork.set()
        thread.join()
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
        for publisher in publishers:
            assert publisher.flush(30).pending == 0
        print(published)
        """,
    )
    found = log.ids()
    published = sum(1 for name in found if name.startswith("parent-"))
    assert published >= 2000
    expected = once(
        *((f"before{publisher}", 100) for publisher in range(2)),
        *((f"child{number}.{publisher}", 200) for number in range(8) for publisher in range(2)),
        ("grandchild", 200),
        ("parent", published),
    )
    assert found == expected


@needs_fork
def test_children_of_multiprocessing_flush_at_their_end(log, tmp_path):
    log.run(
        tmp_path,
        """
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        publisher = None

        def inherited(name):
            assert all(publisher.publish(each) for each in events(name, 100))

        def of_its_own(name):
            made = EventPublisher()
            assert all(made.publish(each) for each in events(name, 100))

        if __name__ == "__main__":
            fork = multiprocessing.get_context("fork")
            publisher = EventPublisher()
            inherited("parent")
            processes = [fork.Process(target=inherited, args=("process",))]
            for method in ("fork", "spawn", "forkserver"):
                context = multiprocessing.get_context(method)
                processes.append(context.Process(target=of_its_own, args=(method,)))
            for process in processes:
                process.start()
            pool = fork.Pool(2)
            pool.map(inherited, ["pool0", "pool1", "pool2"])
            pool.close()
            pool.join()
            with ProcessPoolExecutor(2, mp_context=fork) as executor:
                list(executor.map(inherited, ["executor0", "executor1", "executor2"]))
            for process in processes:
                process.join()
                assert process.exitcode == 0
        """,
    )
    names = ["parent", "process", "fork", "spawn", "forkserver"]
    names += [f"{kind}{n}" for kind in ("pool", "executor") for n in range(3)]
    assert log.ids() == once(*((name, 100) for name in names))


class Registry(BaseHTTPRequestHandler):
    """A registry that knows the schema under id 7 as soon as it has `learned` it."""

    learned = threading.Event()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == f"/subjects/{SUBJECT}" and body["schema"] == schema_text() and self.learned.is_set()
        answer = json.dumps({"id": 7, "subject": SUBJECT} if known else {"error_code": 40401}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def registry() -> Iterator[str]:
    Registry.learned.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_records_take_the_registrys_id_as_soon_as_it_knows_the_schema(log):
    with registry() as url:
        publisher = EventPublisher(environ={**log.environ, "SCHEMA_REGISTRY_URL": url})
        publisher.publish(of("without", 1)[0])
        Registry.learned.set()
        published = 1

        def has_switched() -> bool:
            nonlocal published
            publisher.publish(of("with", published)[-1])
            published += 1
            assert publisher.flush(20).pending == 0
            return any(record.value()[0] == 0 for record in log.records())

        wait_until(has_switched)
        publisher.close()
    values = [record.value() for record in sorted(log.records(), key=lambda record: record.timestamp()[1])]
    framings = {value[:5] if value[0] == 0 else value[:10] for value in values}
    assert framings == {SINGLE_OBJECT, b"\x00\x00\x00\x00\x07"}
    decoder = EventDecoder(schema_by_id={7: schema_text()}.__getitem__)
    assert Counter(decoder.decode(value).event_id for value in values) == once(
        ("without", 1), ("with", published - 1)
    )


def test_without_the_registry_records_go_in_the_framing_that_needs_none(log, caplog):
    settings = {"SCHEMA_REGISTRY_URL": "http://agent:hunter2@127.0.0.1:1"}
    with EventPublisher(environ={**log.environ, **settings}) as publisher:
        assert all(publisher.publish(event) for event in of("away", 10))
        wait_until(lambda: "Events go in the framing without an id" in caplog.text)
    assert {record.value()[:10] for record in log.records()} == {SINGLE_OBJECT}
    assert log.ids() == once(("away", 10))
    assert "hunter2" not in caplog.text
