"""EventPublisher: sends the events of this process to Kafka and never gets in the agent's way."""

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
from functools import partial
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
    """A bus that a publisher can attach to: ours, or the package's."""

    def subscribe(self, event_type: Any = None, handler: Callable[[Any], object] | None = None) -> None:
        """Call `handler` with every later event."""
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
    `publish` never blocks on the network and never raises: an event that can't be queued is dropped, counted
    (`stats`) and logged at a limited rate. librdkafka's `queue.buffering.max.messages` (100,000) and
    `queue.buffering.max.kbytes` (64 MiB) bound the memory; up to 250 events of 512 bytes may wait in front of that
    queue.

    At the interpreter's exit, and at the end of a `multiprocessing` child, queued events are flushed within
    `TELEMETRY_FLUSH_TIMEOUT` seconds. A process that ends by `os._exit` or a signal (`Pool.terminate` sends one)
    has to call `close` itself. After a fork, the child's first publish makes a client of its own, and its counts
    begin at 0. An open publisher lives until it is closed, even if nothing refers to it.

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
        self._routes = _Routes(Settings.TOPIC_PREFIX.of(environ) if topic_prefix is None else topic_prefix)
        self._max_bytes = Settings.MAX_EVENT_BYTES.of(environ)
        self._exit_timeout_seconds = Settings.FLUSH_TIMEOUT.of(environ)
        self._adds_traceparent = Settings.TRACEPARENT.of(environ) == "on"
        # Tests of agents have a producer in memory.
        self._new_client = partial(
            ProducerClient, kafka_settings(environ, bootstrap_servers), self._max_bytes, _make_producer
        )
        url = registry_url(environ)
        self._framing = RecordFraming(_registry_at(url) if url else None)
        self._limited = RateLimitedLog(log)
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

        `event` is a `HypervisorEvent` or the package's own; only its attributes are read.
        """
        try:
            if not self._closed and self._enqueue(event):
                return True
            reason, detail = "closed", "the publisher is closed"
        except EventTooLarge as error:
            reason, detail = "too_large", str(error)
        except BufferError:
            reason, detail = "queue_full", "the queue is full; Kafka is away or too slow"
        except confluent_kafka.KafkaException as error:
            reason, detail = "refused", error.args[0].str()
        except _NoClientAfterFork as error:
            reason, detail = "refused", f"this process can have no Kafka client, {_in_words(error.__cause__)}"
        except Exception as error:  # noqa: BLE001 - the agent must not be hurt by what it hands over
            reason, detail = "unencodable", _in_words(error)
        with self._lock:
            # No call between reading and writing: the lock keeps threads out, not a signal handler.
            self._dropped[reason] += 1
        self._limited.log(logging.WARNING, reason, "An event was dropped (%s): %s.", reason, detail)
        return False

    def stats(self) -> PublisherStats:
        """The counts of this process's events so far."""
        with self._lock:
            dropped = MappingProxyType({reason: count for reason, count in self._dropped.items() if count})
            client = self._client
        enqueued, delivered, failed = (0, 0, 0) if client is None else client.counts()
        return PublisherStats(enqueued, delivered, failed, dropped)

    def flush(self, timeout: float = 10.0) -> FlushResult:
        """Wait until all queued events are acknowledged, at most `timeout` seconds."""
        client = self._client
        return FlushResult(0, {}) if client is None else FlushResult(client.flush(timeout), client.offsets())

    def close(self, timeout: float | None = None) -> None:
        """Flush for at most `timeout` seconds (default: `TELEMETRY_FLUSH_TIMEOUT`) and close the connection.

        Events that Kafka hasn't acknowledged by then count as failed. Later events are dropped as `closed`.
        """
        with self._lock:
            self._closed = True
            client = self._client
        self._stopped.set()
        if client is not None:
            client.close(self._exit_timeout_seconds if timeout is None else timeout)
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
        """Forget all events and take fresh locks: at the beginning, and in a forked child."""
        # Reentrant: a signal handler may publish while its own thread is inside.
        self._lock = threading.RLock()
        self._dropped = dict.fromkeys(DROP_REASONS, 0)
        self._client: ProducerClient | None = None
        self._stopped = threading.Event()

    def _enqueue(self, event: Any) -> bool:
        """Queue an event. False: the client was closed meanwhile. Raises for every other reason not to take it."""
        client = self._client or self._client_after_a_fork()
        if client.was_full and client.is_full:
            # Before encoding: an event that a long outage drops should cost the agent next to nothing.
            raise BufferError
        kind = event.event_type
        # In a class of somebody else, equality may mean anything; our members are strings.
        event_type = kind if type(kind) is EventType else type_value(kind)
        category, topic = self._routes[event_type]
        value = encode_event(event, self._framing.current)
        if len(value) > self._max_bytes:
            raise EventTooLarge(f"its {len(value)} bytes are more than {self._max_bytes}")
        key = record_key(category, event.session_id, event.agent_did, event.event_id)
        return client.produce(topic, key, value, _traceparent(event) if self._adds_traceparent else None)

    def _client_of_this_process(self) -> ProducerClient:
        with self._lock:
            if self._client is None:
                self._client = self._new_client()
                self._framing.start_lookup(self._stopped)
                _flush_before_a_worker_process_ends()
            return self._client

    def _client_after_a_fork(self) -> ProducerClient:
        try:
            return self._client_of_this_process()
        except Exception as error:
            raise _NoClientAfterFork from error


class _Routes(dict[str, tuple[str, str]]):
    """The category and the topic of each event type. Only the known types are kept."""

    def __init__(self, topic_prefix: str) -> None:
        super().__init__((kind, _route_of(topic_prefix, kind.value)) for kind in _KNOWN_TYPES)
        self._topic_prefix = topic_prefix

    def __missing__(self, event_type: str) -> tuple[str, str]:
        return _route_of(self._topic_prefix, event_type)


def _route_of(topic_prefix: str, event_type: str) -> tuple[str, str]:
    return category_of(event_type), event_topic(topic_prefix, event_type)


class _NoClientAfterFork(Exception):
    """No client could be made after a fork; `__cause__` has the reason."""


def _registry_at(url: str) -> SchemaRegistry:
    from hypervisor_schemas.wire.registry import SchemaRegistry  # noqa: PLC0415 - an HTTP client, which few need

    return SchemaRegistry(url)


def _in_words(error: BaseException | None) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an error of the agent's own may fail to describe itself
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
# Not weak: a publisher's events have to be flushed, whether or not the agent still refers to it.
_open_publishers: set[EventPublisher] = set()
_finalizer_pid = 0


def _close_all() -> None:
    """Close every publisher. They share the time: each goes on delivering while another one is being closed."""
    began_at = time.monotonic()
    for publisher in list(_open_publishers):
        publisher.close(max(0.0, publisher._exit_timeout_seconds - (time.monotonic() - began_at)))


def _start_all_over() -> None:
    for publisher in list(_publishers):
        publisher._start_over()


def _flush_before_a_worker_process_ends() -> None:
    """Make a child of `multiprocessing` flush: it leaves by `os._exit`, which runs its finalizers but no atexit."""
    global _finalizer_pid  # noqa: PLW0603 - once per process
    util = sys.modules.get("multiprocessing.util")
    if util is None or _finalizer_pid == os.getpid():
        return
    _finalizer_pid = os.getpid()
    # Last of all: other finalizers may still emit.
    util.Finalize(None, _close_all, exitpriority=-100)


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_over)
