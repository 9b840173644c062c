"""EventPublisher where no Kafka answers: what an agent feels of that, and what is counted."""

import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import pytest

from hypervisor_producers.bus import HypervisorEventBus
from hypervisor_producers.publisher import EventPublisher
from hypervisor_schemas.errors import SettingError
from hypervisor_schemas.events import EventType, HypervisorEvent

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """An address that nothing listens on, and nothing else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def make(nowhere: str) -> Iterator[Callable[..., EventPublisher]]:
    """Publishers with these settings; closed after the test."""
    made: list[EventPublisher] = []

    def make(**settings: str) -> EventPublisher:
        publisher = EventPublisher(environ={"KAFKA_BOOTSTRAP_SERVERS": nowhere, **settings})
        made.append(publisher)
        return publisher

    yield make
    for publisher in made:
        publisher.close(0)


def event(**fields: Any) -> HypervisorEvent:
    return HypervisorEvent(**{"event_type": EventType.RING_ASSIGNED, "session_id": "s", **fields})


def run(script: str, nowhere: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `script` as a program of its own; it has `event()` and an environment where Kafka is away."""
    preamble = """
        import os, sys, time
        from hypervisor_producers.publisher import EventPublisher
        from hypervisor_schemas.events import EventType, HypervisorEvent
        def event():
            return HypervisorEvent(event_type=EventType.RING_ASSIGNED, session_id="s")
    """
    program = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(preamble) + textwrap.dedent(script)],
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": nowhere, **settings},
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
    return subprocess.CompletedProcess(program.args, program.returncode, output, errors)


class TestKafkaIsAway:
    def test_publishing_neither_blocks_nor_raises(self, make):
        publisher = make()
        began_at = time.monotonic()
        assert all(publisher.publish(event()) for _ in range(2000))
        # 2,000 waits for anything would take longer than this.
        assert time.monotonic() - began_at < 2
        stats = publisher.stats()
        assert (stats.enqueued, stats.delivered, stats.failed, stats.queued) == (2000, 0, 0, 2000)
        assert stats.dropped == {}

    def test_a_full_queue_drops_and_counts(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="100")
        assert [publisher.publish(event()) for _ in range(250)] == [True] * 100 + [False] * 150
        assert publisher.stats().enqueued == 100
        assert publisher.stats().dropped == {"queue_full": 150}

    def test_what_a_full_queue_has_no_room_for_is_not_even_read(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="1")
        assert [publisher.publish(event()) for _ in range(2)] == [True, False]
        assert not publisher.publish(Raises())
        assert publisher.stats().dropped == {"queue_full": 2}

    def test_a_bound_that_only_librdkafka_can_read_holds_too(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="0x10")
        assert [publisher.publish(event()) for _ in range(20)] == [True] * 16 + [False] * 4

    def test_the_queue_is_bounded_in_bytes_too(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_KBYTES="100")
        taken = sum(publisher.publish(event(payload={"text": "x" * 1000})) for _ in range(250))
        assert 50 < taken < 100
        assert publisher.stats().dropped == {"queue_full": 250 - taken}

    def test_flush_gives_up_in_time_and_says_what_is_pending(self, make):
        publisher = make()
        for _ in range(3):
            publisher.publish(event())
        began_at = time.monotonic()
        result = publisher.flush(0.3)
        assert 0.3 <= time.monotonic() - began_at < 1.3
        assert (result.pending, result.offsets) == (3, {})
        assert publisher.stats().queued == 3

    def test_close_gives_up_in_time_and_counts_the_rest_as_failed(self, make, caplog):
        publisher = make()
        for _ in range(500):
            publisher.publish(event())
        began_at = time.monotonic()
        publisher.close(0.3)
        assert time.monotonic() - began_at < 1.3
        stats = publisher.stats()
        assert (stats.enqueued, stats.failed, stats.queued) == (500, 500, 0)
        assert "500 events were not delivered." in caplog.text
        assert publisher.flush(5).pending == 0

    def test_an_idle_publisher_closes_at_once(self, make):
        publisher = make()
        began_at = time.monotonic()
        publisher.close(30)
        assert time.monotonic() - began_at < 5

    def test_a_publisher_in_a_with_block_is_closed_at_its_end(self, make):
        with make(TELEMETRY_FLUSH_TIMEOUT="0.1") as publisher:
            publisher.publish(event())
        assert publisher.stats().failed == 1
        assert not publisher.publish(event())


class Raises:
    """An event that won't be read."""

    @property
    def event_type(self) -> str:
        raise UnspeakableError


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class TestEventsThatCannotGo:
    def test_one_that_is_too_large_is_dropped(self, make, caplog):
        publisher = make(TELEMETRY_MAX_EVENT_BYTES="1024")
        assert not publisher.publish(event(payload={"text": "x" * 2000}))
        assert publisher.publish(event())
        assert publisher.stats().dropped == {"too_large": 1}
        assert "more than 1024" in caplog.text

    @pytest.mark.parametrize(
        "bad",
        [event(timestamp="x"), event(event_id=""), event(event_id=None), Raises(), None, object()],
        ids=["timestamp", "empty id", "no id", "raises", "none", "object"],
    )
    def test_one_that_cannot_be_encoded_is_dropped(self, make, bad):
        publisher = make()
        assert not publisher.publish(bad)
        assert publisher.publish(event())
        assert publisher.stats().dropped == {"unencodable": 1}
        assert publisher.stats().enqueued == 1

    def test_one_without_an_id_stays_on_its_bus_and_the_log_says_what_it_needs(self, make, caplog):
        bus, publisher = HypervisorEventBus(), make()
        publisher.attach(bus)
        bus.emit(event(event_id=""))
        assert (bus.event_count, publisher.stats().dropped) == (1, {"unencodable": 1})
        assert "event_id is empty; every event needs an id of its own" in caplog.text

    def test_one_that_the_client_does_not_take_is_dropped(self, make, caplog):
        publisher = make(KAFKA_MESSAGE_MAX_BYTES="1000")
        assert not publisher.publish(event(payload={"text": "x" * 2000}))
        stats = publisher.stats()
        assert (stats.enqueued, stats.dropped) == (0, {"refused": 1})

    def test_one_after_the_end_is_dropped(self, make):
        publisher = make()
        publisher.close(0)
        assert not publisher.publish(event())
        assert not publisher.publish(None)
        assert publisher.stats().dropped == {"closed": 2}

    def test_a_bus_goes_on_whatever_becomes_of_its_events(self, make):
        bus, publisher = HypervisorEventBus(), make()
        publisher.attach(bus)
        bus.emit(event(timestamp="x"))
        bus.emit(event())
        publisher.close(0)
        bus.emit(event())
        assert bus.event_count == 3
        assert bus.handler_errors == 0
        assert publisher.stats().dropped == {"unencodable": 1, "closed": 1}


class TestEventsThatComeFast:
    """Small ones are batched before librdkafka gets them; what becomes of them is the same."""

    def gathering(self, publisher: EventPublisher) -> int:
        """Publish until they are batched, and some have been. How many events that took."""
        published, client = 0, publisher._client
        assert client is not None
        while not 0 < len(client._batch.records) < client._batch.capacity_left:
            assert publisher.publish(event())
            published += 1
        return published

    def test_a_full_queue_takes_exactly_what_it_has_room_for(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="90000")
        taken = self.gathering(publisher)
        refused = 0
        while refused < 50:
            if publisher.publish(event()):
                taken += 1
            else:
                refused += 1
        assert taken == 90000
        stats = publisher.stats()
        assert (stats.enqueued, stats.queued, stats.dropped) == (90000, 90000, {"queue_full": 50})

    def test_one_that_the_client_does_not_take_is_dropped(self, make):
        publisher = make(KAFKA_MESSAGE_MAX_BYTES="1000")
        taken = self.gathering(publisher)
        assert not publisher.publish(event(payload={"text": "x" * 2000}))
        assert publisher.publish(event())
        stats = publisher.stats()
        assert (stats.enqueued, stats.queued, stats.dropped) == (taken + 1, taken + 1, {"refused": 1})

    def test_flush_knows_of_them_and_close_counts_them_as_failed(self, make):
        publisher = make()
        taken = self.gathering(publisher)
        assert publisher.flush(0).pending == taken
        publisher.close(0)
        assert not publisher.publish(event())
        stats = publisher.stats()
        assert (stats.enqueued, stats.failed, stats.queued, stats.dropped) == (taken, taken, 0, {"closed": 1})

    @needs_fork
    def test_a_forked_child_has_none_of_them(self, nowhere):
        result = run(
            """
            publisher = EventPublisher()
            taken = 0
            while not 0 < len(publisher._client._batch.records) < publisher._client._batch.capacity_left:
                assert publisher.publish(event())
                taken += 1
            child = os.fork()
            if child == 0:
                assert publisher.publish(event())
                assert publisher.stats().queued == 1
                sys.exit()
            assert os.waitpid(child, 0)[1] == 0
            assert publisher.stats().queued == taken
            """,
            nowhere,
            TELEMETRY_FLUSH_TIMEOUT="0",
        )
        assert result.returncode == 0, result.stderr


class TestTheLog:
    def test_a_flood_of_drops_is_one_line(self, make, caplog):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="1")
        for _ in range(100):
            publisher.publish(event())
        lines = [record for record in caplog.records if "queue_full" in record.getMessage()]
        assert [(line.levelname, line.name) for line in lines] == [("WARNING", "hypervisor_producers.publisher")]

    def test_that_kafka_is_away_is_said_once(self, make, caplog):
        publisher = make(KAFKA_RECONNECT_BACKOFF_MS="1", KAFKA_RECONNECT_BACKOFF_MAX_MS="2")
        publisher.publish(event())
        publisher.flush(1)
        refused = [record for record in caplog.records if "onnection refused" in record.getMessage()]
        assert [line.levelno for line in refused if line.levelno > logging.DEBUG] == [logging.WARNING]

    def test_no_secret_is_in_it(self, make, caplog):
        caplog.set_level(logging.DEBUG)
        settings = {
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_SASL_USERNAME": "agent",
            "KAFKA_SASL_PASSWORD": "hunter2-hunter2",
            "KAFKA_DEBUG": "all",
            "SCHEMA_REGISTRY_URL": "http://agent:hunter2-hunter2@127.0.0.1:1",
            "KAFKA_QUEUE_BUFFERING_MAX_MESSAGES": "1",
        }
        publisher = make(**settings)
        for _ in range(2):
            publisher.publish(event())
        publisher.flush(0.5)
        publisher.close(0)
        # What librdkafka itself says comes at debug, and it says a lot.
        assert any(record.name.endswith("librdkafka") for record in caplog.records)
        assert "queue_full" in caplog.text
        assert "hunter2" not in caplog.text

    def test_a_log_handler_that_raises_does_not_hurt_the_agent(self, make):
        class Broken(logging.Handler):
            def emit(self, record):
                raise OSError("disk full")

        handler, logger = Broken(), logging.getLogger("hypervisor_producers")
        logger.addHandler(handler)
        try:
            publisher = make()
            assert not publisher.publish(None)
            publisher.publish(event())
            # The thread that serves Kafka's answers logs too, and lives.
            publisher.flush(0.3)
            publisher.close(0)
        finally:
            logger.removeHandler(handler)
        assert publisher.stats().queued == 0

    def test_a_log_handler_that_publishes_what_it_gets_comes_to_an_end(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="1")

        class Publishing(logging.Handler):
            def emit(self, record):
                publisher.publish(event(payload={"line": record.getMessage()}))

        handler, logger = Publishing(), logging.getLogger("hypervisor_producers")
        logger.addHandler(handler)
        try:
            for _ in range(10):
                publisher.publish(event())
        finally:
            logger.removeHandler(handler)
        assert publisher.stats().enqueued == 1
        assert publisher.stats().dropped["queue_full"] >= 10


class TestSettings:
    def refusal(self, environ: Mapping[str, str]) -> str:
        with pytest.raises(SettingError) as caught:
            EventPublisher(environ=environ)
        return str(caught.value)

    def test_a_missing_address_is_said_in_a_sentence(self):
        assert self.refusal({}).startswith("KAFKA_BOOTSTRAP_SERVERS is not set; give the addresses of your Kafka")

    def test_a_bad_value_is_named_by_its_variable(self, nowhere):
        sentence = self.refusal({"KAFKA_BOOTSTRAP_SERVERS": nowhere, "KAFKA_LINGER_MS": "soon"})
        assert sentence.startswith("KAFKA_LINGER_MS has a value that librdkafka refuses for linger.ms")

    def test_values_that_exclude_each_other_are_said_so(self, nowhere):
        sentence = self.refusal({"KAFKA_BOOTSTRAP_SERVERS": nowhere, "KAFKA_ACKS": "1"})
        assert "settings don't go together" in sentence
        assert "acks" in sentence

    def test_a_secret_is_in_no_error(self, nowhere):
        sentence = self.refusal(
            {
                "KAFKA_BOOTSTRAP_SERVERS": nowhere,
                "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
                "KAFKA_SASL_MECHANISM": "PLAIN",
                "KAFKA_SASL_USERNAME": "agent",
                "KAFKA_SASL_PASSWORD": "hunter2-hunter2",
                "KAFKA_SSL_CA_LOCATION": "/no/such/file",
            }
        )
        assert "KAFKA_" in sentence
        assert "hunter2" not in sentence

    def test_what_kubernetes_injects_is_passed_over(self, make):
        publisher = make(KAFKA_PORT="tcp://10.0.0.1:9092", KAFKA_SERVICE_HOST="10.0.0.1")
        assert publisher.publish(event())

    def test_a_bad_setting_of_our_own_is_named(self, nowhere):
        sentence = self.refusal({"KAFKA_BOOTSTRAP_SERVERS": nowhere, "TELEMETRY_FLUSH_TIMEOUT": "soon"})
        assert sentence.startswith("TELEMETRY_FLUSH_TIMEOUT can't be 'soon'")

    def test_an_explicit_address_wins(self, nowhere):
        publisher = EventPublisher(nowhere, environ={"KAFKA_BOOTSTRAP_SERVERS": "no-such-host.invalid:1"})
        publisher.publish(event())
        publisher.close(0.1)
        assert publisher.stats().failed == 1


class TestThreadsAndSignals:
    def test_what_close_meets_is_either_counted_or_dropped(self, make):
        publisher = make()
        taken, stop = [0] * 4, threading.Event()

        def publish(number: int) -> None:
            refused = 0
            while refused < 10 and not stop.is_set():
                if publisher.publish(event()):
                    taken[number] += 1
                else:
                    refused += 1

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(len(taken))]
        for thread in threads:
            thread.start()
        while publisher.stats().enqueued < 500:
            pass
        publisher.close(0.1)
        for thread in threads:
            thread.join(30)
        stop.set()
        stats = publisher.stats()
        assert stats.enqueued == sum(taken) == stats.failed
        assert stats.queued == 0
        assert stats.dropped == {"closed": 10 * len(threads)}

    def test_an_event_that_close_overtakes_is_dropped(self, make):
        publisher = make()

        class ClosesMeanwhile(HypervisorEvent):
            def __getattribute__(self, name: str) -> Any:
                if name == "payload":
                    publisher.close(0)
                return super().__getattribute__(name)

        assert publisher.publish(event())
        assert not publisher.publish(ClosesMeanwhile())
        stats = publisher.stats()
        assert (stats.enqueued, stats.failed, stats.dropped) == (1, 1, {"closed": 1})

    def test_the_counts_add_up_at_every_moment(self, make):
        publisher = make(KAFKA_QUEUE_BUFFERING_MAX_MESSAGES="1000")
        stop = threading.Event()

        def publish() -> None:
            while not stop.is_set():
                publisher.publish(event())

        threads = [threading.Thread(target=publish) for _ in range(3)]
        for thread in threads:
            thread.start()
        seen = [publisher.stats() for _ in range(300)]
        closer = threading.Thread(target=publisher.close, args=(0.1,))
        closer.start()
        while closer.is_alive():
            seen.append(publisher.stats())
        stop.set()
        for thread in threads:
            thread.join(30)
        assert all(0 <= stats.queued <= 1000 for stats in seen)
        for earlier, later in pairwise(seen):
            assert earlier.enqueued <= later.enqueued
            assert earlier.failed <= later.failed
        assert publisher.stats().queued == 0

    def test_two_threads_may_close(self, make):
        publisher = make()
        publisher.publish(event())
        patient = threading.Thread(target=publisher.close, args=(60,))
        patient.start()
        publisher.close(0.1)
        patient.join(10)
        assert not patient.is_alive()
        assert publisher.stats().failed == 1

    def test_a_signal_handler_may_publish_in_the_middle_of_a_publish(self, make):
        publisher = make()
        fired = published = 0

        def handler(_number: int, _frame: object) -> None:
            nonlocal fired
            fired += 1
            publisher.publish(event())
            publisher.stats()

        with on_timer(handler):
            while fired < 100:
                # The timer counts this process's own time: it ends somewhere in the calls that follow.
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001)
                before = fired
                while fired == before:
                    publisher.publish(event())
                    published += 1
        stats = publisher.stats()
        assert stats.enqueued + stats.dropped.get("queue_full", 0) == published + fired

    def test_an_error_from_a_signal_handler_leaves_the_counts_right(self, make):
        class TimeIsUpError(Exception):
            pass

        fired = 0

        def handler(_number: int, _frame: object) -> None:
            nonlocal fired
            fired += 1
            raise TimeIsUpError

        publisher = make()
        with on_timer(handler):
            for expected in range(1, 151):
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001)
                # Where it is raised inside publish, that takes it for the event's fault.
                with suppress(TimeIsUpError):
                    while fired < expected:
                        publisher.publish(event())
        publisher.close(0)
        stats = publisher.stats()
        assert stats.enqueued == stats.failed > 1000
        assert stats.queued == 0


@contextmanager
def on_timer(handler: Callable[[int, Any], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGVTALRM, handler)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class TestTheEndOfAProcess:
    def test_the_exit_waits_no_longer_than_the_setting_says(self, nowhere):
        result = run(
            """
            publishers = [EventPublisher() for _ in range(3)]
            for publisher in publishers:
                publisher.publish(event())
            print(time.monotonic(), flush=True)
            """,
            nowhere,
            TELEMETRY_FLUSH_TIMEOUT="1",
        )
        lasted = time.monotonic() - float(result.stdout)
        assert result.returncode == 0, result.stderr
        # All three share the second.
        assert 1 <= lasted < 2.5

    @needs_fork
    def test_a_forked_child_begins_at_zero_and_the_parent_keeps_its_queue(self, nowhere):
        result = run(
            """
            publishers = [EventPublisher() for _ in range(2)]
            for publisher in publishers:
                assert all(publisher.publish(event()) for _ in range(10))
                publisher.publish(None)
            child = os.fork()
            if child == 0:
                for publisher in publishers:
                    assert publisher.stats().enqueued == 0
                    assert publisher.stats().dropped == {}
                    assert publisher.flush(60).pending == 0
                    assert publisher.publish(event())
                    assert publisher.stats().queued == 1
                grandchild = os.fork()
                if grandchild == 0:
                    assert publishers[0].stats().enqueued == 0
                    assert publishers[0].publish(event())
                    sys.exit()
                assert os.waitpid(grandchild, 0)[1] == 0
                sys.exit()
            assert os.waitpid(child, 0)[1] == 0
            assert [publisher.stats().queued for publisher in publishers] == [10, 10]
            """,
            nowhere,
            TELEMETRY_FLUSH_TIMEOUT="0.2",
        )
        assert result.returncode == 0, result.stderr

    @needs_fork
    def test_a_fork_at_any_moment_leaves_a_child_that_works_and_ends(self, nowhere):
        """While other threads publish, close and open publishers, and so hold whatever lock there is."""
        result = run(
            """
            import logging, threading
            logging.disable()
            publisher, stop = EventPublisher(), threading.Event()
            def publish():
                while not stop.is_set():
                    publisher.publish(event())
                    publisher.publish(None)
                    publisher.stats()
            def open_and_close():
                while not stop.is_set():
                    with EventPublisher() as other:
                        other.publish(event())
            threads = [threading.Thread(target=each) for each in (publish, open_and_close)]
            for thread in threads:
                thread.start()
            for _ in range(40):
                child = os.fork()
                if child == 0:
                    assert publisher.publish(event())
                    assert not publisher.publish(None)
                    assert publisher.stats().enqueued == 1
                    sys.exit()
                assert os.waitpid(child, 0)[1] == 0
            stop.set()
            """,
            nowhere,
            TELEMETRY_FLUSH_TIMEOUT="0",
        )
        assert result.returncode == 0, result.stderr

    @needs_fork
    def test_a_fork_right_after_close_leaves_a_child_that_ends(self, nowhere):
        result = run(
            """
            for _ in range(40):
                publisher = EventPublisher()
                publisher.publish(event())
                publisher.close(0)
                child = os.fork()
                if child == 0:
                    assert not publisher.publish(event())
                    sys.exit()
                assert os.waitpid(child, 0)[1] == 0
            """,
            nowhere,
        )
        assert result.returncode == 0, result.stderr
