"""A sink that writes spans to a Kafka topic, as OTLP's protobuf.

The OpenTelemetry Collector's Kafka receiver reads this format by default. A record holds spans of one trace, and
its key is the trace id in hexadecimal. So a trace stays in one partition, and a Collector that samples whole traces
sees it whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from opentelemetry.sdk.resources import Resource

from hypervisor_consumers.runtime.kafka.client_config import consumer_settings, writer_settings
from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory, LibrdkafkaClientFactory
from hypervisor_consumers.runtime.kafka.client_types import Message, Producer
from hypervisor_consumers.runtime.protocols import Refused
from hypervisor_consumers.saga_spans.sinks.bisect_rejects import Rejection, send_bisecting
from hypervisor_consumers.saga_spans.sinks.otel_environment import resource_of
from hypervisor_consumers.saga_spans.sinks.otlp_messages import encode_request
from hypervisor_consumers.saga_spans.spans import SagaSpanRecord
from hypervisor_schemas.connection import kafka_settings
from hypervisor_schemas.errors import OutputUnavailable, SettingError
from hypervisor_schemas.settings import Settings

__all__ = ["DEFAULT_TOPIC", "KafkaSink", "kafka_sink"]

DEFAULT_TOPIC = "otlp_spans"
"""The Collector's own default. The topic's name has no prefix: others read it."""

_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
_ANSWER_SECONDS = 10.0
_MAX_RECORD_BYTES = 512 * 1024
"""Half of the default limit of a topic."""
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The client's own limit, far above a topic's: the topic decides how large a record may be."""


def kafka_sink(environ: Mapping[str, str], bootstrap_servers: str | None, topic: str = "") -> KafkaSink:
    """The sink on this topic of the Kafka that the service reads from.

    Raises:
        SettingError: No Kafka is named, or the topic can't have this name.
    """
    topic = topic or DEFAULT_TOPIC
    if not _NAME.fullmatch(topic):
        raise SettingError("--sink kafka:TOPIC", "must be letters, digits, '.', '_' or '-', at most 249 of them.")
    group = Settings.TOPIC_PREFIX.of(environ) + "saga-spans"
    consumer = consumer_settings(kafka_settings(environ, bootstrap_servers), group)
    return KafkaSink(LibrdkafkaClientFactory(), writer_settings(consumer), topic, resource_of(environ))


class KafkaSink:
    """Writes spans to a topic, idempotently; Kafka has acknowledged them when `deliver` returns.

    It connects with the first span. The topic has to exist.

    Args:
        kafka: The factory of its producer.
        settings: librdkafka's settings of an idempotent producer.
        topic: The topic's full name.
        resource: The resource that the spans belong to.
    """

    def __init__(self, kafka: ClientFactory, settings: Mapping[str, Any], topic: str, resource: Resource) -> None:
        self._kafka = kafka
        self._settings = {**settings, "partitioner": "murmur2_random", "message.max.bytes": _MAX_MESSAGE_BYTES}
        self._topic = topic
        self._resource = resource
        self._producer: Producer | None = None

    def deliver(self, outputs: Sequence[SagaSpanRecord]) -> Sequence[Refused]:
        """Write all. A span that is larger than the topic takes is refused.

        Raises:
            OutputUnavailable: Kafka doesn't take them now, or has no such topic.
        """
        records = [part for indices in _by_trace(outputs) for part in self._parts(outputs, indices)]
        refused: list[Refused] = []
        for position in self._write(records) if records else ():
            # A record of a single span is tried again, too: others in its batch may have been too large.
            indices = records[position].indices
            rejects = send_bisecting([outputs[index] for index in indices], self._send_alone, len(indices))
            refused += [Refused(indices[each.at], each.reason) for each in rejects]
        return sorted(refused)

    def _parts(self, outputs: Sequence[SagaSpanRecord], indices: Sequence[int]) -> Iterator[_Record]:
        spans = [outputs[index] for index in indices]
        value = encode_request(spans, self._resource)
        if len(value) > _MAX_RECORD_BYTES and len(spans) > 1:
            middle = len(spans) // 2
            yield from self._parts(outputs, indices[:middle])
            yield from self._parts(outputs, indices[middle:])
        else:
            yield _Record(indices, spans[0].trace_id.encode(), value)

    def _send_alone(self, spans: Sequence[SagaSpanRecord]) -> Rejection | None:
        record = _Record((), spans[0].trace_id.encode(), encode_request(spans, self._resource))
        if not self._write([record]):
            return None
        return Rejection(f"The topic {self._topic} takes no record so large: {len(record.value)} bytes.")

    def _write(self, records: Sequence[_Record]) -> list[int]:
        """Returns when Kafka has them: the positions of those that are too large for it."""
        too_large: list[int] = []
        failed: list[str] = []

        def delivered(position: int, error: KafkaError | None, _message: Message) -> None:
            if error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                too_large.append(position)
            elif error is not None:
                failed.append(error.str())

        try:
            producer = self._connect()
            for position, record in enumerate(records):
                try:
                    producer.produce(
                        self._topic,
                        value=record.value,
                        key=record.key,
                        on_delivery=partial(delivered, position),
                    )
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                        raise
                    too_large.append(position)
            left = producer.flush(_ANSWER_SECONDS)
        except (KafkaException, BufferError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else error
            self._drop_producer()
            raise OutputUnavailable(f"Spans can't be written to the topic {self._topic}: {reason}.") from None
        if left or failed:
            self._drop_producer()
            raise OutputUnavailable(
                f"Spans were not taken by the topic {self._topic}: {failed[0] if failed else 'no answer'}."
            )
        return sorted(too_large)

    def _connect(self) -> Producer:
        if self._producer is not None:
            return self._producer
        producer = self._kafka.producer(self._settings)
        metadata = producer.list_topics(self._topic, timeout=_ANSWER_SECONDS).topics[self._topic]
        if metadata.error is None:
            self._producer = producer
            return producer
        if metadata.error.code() in {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}:
            raise OutputUnavailable(
                f"The topic {self._topic}, for spans, doesn't exist; make it with kafka-topics.sh --create --topic "
                f"{self._topic}, and it goes on by itself."
            )
        raise KafkaException(metadata.error)

    def _drop_producer(self) -> None:
        """Begin anew: the records left in the queue would come later, a second time."""
        if self._producer is not None:
            self._producer.purge(blocking=True)  # confluent-kafka 2.15 has the flag the wrong way round
            self._producer = None

    def close(self) -> None:
        """Let go of the connection."""
        self._producer = None


class _Record(NamedTuple):
    indices: Sequence[int]
    """The indices of its spans among those that are delivered together."""
    key: bytes
    value: bytes


def _by_trace(outputs: Sequence[SagaSpanRecord]) -> Iterable[Sequence[int]]:
    traces: dict[str, list[int]] = {}
    for index, span in enumerate(outputs):
        traces.setdefault(span.trace_id, []).append(index)
    return traces.values()
