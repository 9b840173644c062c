"""EventPublisher: events of this process to Kafka, without ever being in the agent's way."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import confluent_kafka

from hypervisor_producers.kafka_producer.client import ProducerClient
from hypervisor_producers.kafka_producer.framing import RecordFraming
from hypervisor_producers.kafka_producer.owned_producer import ProducerFactory
from hypervisor_producers.metrics import DROP_REASONS, PublisherStats
from hypervisor_schemas.causal_trace import CausalTraceId
from hypervisor_schemas.connection import kafka_settings, registry_url
from hypervisor_schemas.errors import EventTooLarge
from hypervisor_schemas.events import EventType, GovernanceEventType, type_value
from hypervisor_schemas.public import public
from hypervisor_schemas.rate_limited_log import RateLimitedLog
from hypervisor_schemas.read_token import write_token
from hypervisor_schemas.settings import Settings
from hypervisor_schemas.topics import category_of, event_topic, record_key
from hypervisor_schemas.wire.codec import encode_event

if TYPE_CHECKING:
    from hypervisor_schemas.wire.registry import SchemaRegistry

__all__ = ["EventPublisher", "EventSource", "FlushResult"]

log = logging.getLogger(__name__)


class EventSource(Protocol):
    """What a publisher attaches to: our bus, or the package's."""

    def subscribe(self, event_type: Any = None, handler: Callable[[Any], object] | None = None) -> None:
        """`handler` is called with every event that follows."""
        ...


@public
@dataclass(frozen=True, slots=True)
class FlushResult:
    """The result of `EventPublisher.flush`: how many events are still `pending`, and the `offsets` written so far.

    `offsets` holds, per (topic, partition), the offset after the last acknowledged event of this publisher. A
    reader that is past these has seen everything that was acknowledged.
    """

    pending: int
    offsets: Mapping[tuple[str, int], int]

    @property
    def token(self) -> str:
        """The offsets as text; with it as `?after=`, an answer of the event index includes acknowledged events."""
        return write_token(self.offsets)


@public
class EventPublisher:
    """Publishes events of this process to Kafka.

    An event goes to the topic `<prefix>events.<category>`, keyed by its session, once per call that returned True.
    `publish` never blocks on the network and never raises: an event that can't be queued is dropped and
    counted (`stats`), and logged at a limited rate. Memory is bounded by librdkafka's
    `queue.buffering.max.messages` (100,000) and `queue.buffering.max.kbytes` (64 MiB), beside which up to 250
    events of 512 bytes may be about to go there. What is queued at the interpreter's exit, and at the end of a
    `multiprocessing` child, is flushed within `TELEMETRY_FLUSH_TIMEOUT` seconds; a process that ends by `os._exit`
    or a signal (`Pool.terminate` sends one) has to `close()` itself.
    After a fork the child's first publish makes a client of its own, and the counts begin at 0. An open
    publisher lives until it is closed, also when nothing refers to it.

    Settings come from `environ` (`os.environ`): `KAFKA_*`, `SCHEMA_REGISTRY_URL`, `TELEMETRY_*`.

    Raises:
        SettingError: A setting is missing or wrong.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        topic_prefix: str | None = None,
        environ: Mapping[str, str] | None = None,
        _make_producer: ProducerFactory | None = None,
    ) -> None:
        environ = os.environ if environ is None else environ
        self._prefix = Settings.TOPIC_PREFIX.of(environ) if topic_prefix is None else topic_prefix
        self._max_bytes = Settings.MAX_EVENT_BYTES.of(environ)
        self._exit_timeout = Settings.FLUSH_TIMEOUT.of(environ)
        self._traceparent = Settings.TRACEPARENT.of(environ) == "on"
        self._settings = kafka_settings(environ, bootstrap_servers)
        url = registry_url(environ)
        self._framing = RecordFraming(_registry_at(url) if url else None)
        self._places: Mapping[str, tuple[str, str]] = {kind: self._place_of(kind.value) for kind in _KNOWN_TYPES}
        self._limited = RateLimitedLog(log)
        # Tests of agents have one in memory.
        self._make_producer = _make_producer
        self._closed = False
        self._start_over()
        _publishers.add(self)
        self._client_of_this_process()
        _open_publishers.add(self)

    def attach(self, source: EventSource) -> None:
        """Publish every event that `source` emits from now on."""
        source.subscribe(event_type=None, handler=self.publish)

    def publish(self, event: Any) -> bool:
        """Queue one event; False if it was dropped. Returns at once and never raises.

        `event` is a `HypervisorEvent`, or the package's own; only its attributes are read.
        """
        try:
            if not self._closed and self._enqueue(event):
                return True
            reason, why = "closed", "the publisher is closed"
        except EventTooLarge as error:
            reason, why = "too_large", str(error)
        except BufferError:
            reason, why = "queue_full", "the queue is full; Kafka is away or too slow"
        except confluent_kafka.KafkaException as error:
            reason, why = "refused", error.args[0].str()
        except _NoClientHere as error:
            reason, why = "refused", f"this process can have no Kafka client, {_in_words(error.__cause__)}"
        except Exception as error:  # noqa: BLE001 - whatever an agent hands over, it must not be hurt
            reason, why = "unencodable", _in_words(error)
        with self._lock:
            # No call between reading and writing: the lock keeps threads out, not a signal handler.
            self._dropped[reason] += 1
        self._limited.log(logging.WARNING, reason, "An event was dropped (%s): %s.", reason, why)
        return False

    def stats(self) -> PublisherStats:
        """What became of this process's events so far."""
        with self._lock:
            dropped = MappingProxyType({reason: count for reason, count in self._dropped.items() if count})
            client = self._client
        enqueued, delivered, failed = (0, 0, 0) if client is None else client.counts()
        return PublisherStats(enqueued, delivered, failed, dropped)

    def flush(self, timeout: float = 10.0) -> FlushResult:
        """Wait until everything queued is acknowledged, at most `timeout` seconds."""
        client = self._client
        return FlushResult(0, {}) if client is None else FlushResult(client.flush(timeout), client.offsets())

    def close(self, timeout: float | None = None) -> None:
        """Flush (at most `timeout` seconds, default `TELEMETRY_FLUSH_TIMEOUT`) and let go of the connection.

        What Kafka hasn't acknowledged by then counts as failed. Later events are dropped as `closed`.
        """
        with self._lock:
            self._closed = True
            client = self._client
        self._stop_looking.set()
        if client is not None:
            client.close(self._exit_timeout if timeout is None else timeout)
            _, _, failed = client.counts()
            if failed:
                self._limited.log(logging.WARNING, "undelivered", "%d events were not delivered.", failed)
        _open_publishers.discard(self)

    def __enter__(self) -> EventPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start_over(self) -> None:
        """Nothing published, and fresh locks: at the beginning, and in a forked child."""
        # Reentrant: a signal handler may publish while its own thread is inside.
        self._lock = threading.RLock()
        self._dropped = dict.fromkeys(DROP_REASONS, 0)
        self._client: ProducerClient | None = None
        self._stop_looking = threading.Event()

    def _enqueue(self, event: Any) -> bool:
        """False: the client was closed meanwhile. Raises for every other reason not to take the event."""
        client = self._client or self._client_after_a_fork()
        if client.was_full and client.is_full:
            # Before it is encoded: what a long outage drops should cost the agent next to nothing.
            raise BufferError
        kind = event.event_type
        # Of a stranger's class, equality may mean anything; our members are strings.
        event_type = kind if type(kind) is EventType else type_value(kind)
        category, topic = self._places.get(event_type) or self._place_of(event_type)
        value = encode_event(event, self._framing.current)
        if len(value) > self._max_bytes:
            raise EventTooLarge(f"its {len(value)} bytes are more than {self._max_bytes}")
        key = record_key(category, event.session_id, event.agent_did, event.event_id)
        return client.produce(topic, key, value, _traceparent(event) if self._traceparent else None)

    def _client_of_this_process(self) -> ProducerClient:
        with self._lock:
            if self._client is None:
                self._client = ProducerClient(self._settings, self._max_bytes, self._make_producer)
                self._framing.look_for_id(self._stop_looking)
                _flush_before_a_worker_process_ends()
            return self._client

    def _client_after_a_fork(self) -> ProducerClient:
        try:
            return self._client_of_this_process()
        except Exception as error:
            raise _NoClientHere from error

    def _place_of(self, event_type: str) -> tuple[str, str]:
        return category_of(event_type), event_topic(self._prefix, event_type)


class _NoClientHere(Exception):
    """No client could be made after a fork; `__cause__` says why."""


def _registry_at(url: str) -> SchemaRegistry:
    from hypervisor_schemas.wire.registry import SchemaRegistry  # noqa: PLC0415 - an HTTP client, which few need

    return SchemaRegistry(url)


def _in_words(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a stranger's error may be unable to say what it is
        return type(error).__name__


def _traceparent(event: Any) -> dict[str, bytes] | None:
    if not event.causal_trace_id:
        return None
    try:
        trace = CausalTraceId.from_string(event.causal_trace_id)
    except ValueError:
        return None
    return {"traceparent": trace.to_w3c().traceparent.encode()}


_KNOWN_TYPES = [member for kind in (EventType, GovernanceEventType) for member in kind]

_publishers: weakref.WeakSet[EventPublisher] = weakref.WeakSet()
# Not weak: what a publisher holds has to be flushed, whether or not the agent still refers to it.
_open_publishers: set[EventPublisher] = set()
_prepared_for_the_end_of = 0


def _close_all() -> None:
    """Close every publisher. They share the time: each goes on delivering while another one is waited for."""
    began_at = time.monotonic()
    for publisher in list(_open_publishers):
        publisher.close(max(0.0, publisher._exit_timeout - (time.monotonic() - began_at)))


def _start_all_over() -> None:
    for publisher in list(_publishers):
        publisher._start_over()


def _flush_before_a_worker_process_ends() -> None:
    """A child of `multiprocessing` leaves by `os._exit`: no atexit there, but a registry of its own."""
    global _prepared_for_the_end_of  # noqa: PLW0603 - once per process, whichever publisher comes first
    util = sys.modules.get("multiprocessing.util")
    if util is None or _prepared_for_the_end_of == os.getpid():
        return
    _prepared_for_the_end_of = os.getpid()
    # Last of all: other finalizers may still emit, and the children that are waited for may ask them to.
    util.Finalize(None, _close_all, exitpriority=-100)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_over)
