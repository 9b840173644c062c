"""Dead letters of a service that keeps its offsets outside Kafka, and so has no transaction to put them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from hypervisor_consumers.runtime.kafka.client_factory import ClientFactory
from hypervisor_consumers.runtime.kafka.client_types import Message, Producer
from hypervisor_consumers.runtime.records import Record
from hypervisor_schemas.dead_letters import DeadLetter
from hypervisor_schemas.errors import OutputUnavailable, RecordError

__all__ = ["DeadLetterWriter", "dead_letter_of"]

_WITHIN = 5.0


class DeadLetterWriter:
    """Writes to the dead-letters topic, idempotently. Connects when the first one comes."""

    def __init__(self, clients: ClientFactory, settings: Mapping[str, Any], *, service: str, topic: str) -> None:
        self._clients = clients
        self._settings = settings
        self._service = service
        self._topic = topic
        self._producer: Producer | None = None
        self._partitions = 0
        self._waiting: list[DeadLetter] = []

    def add(self, record: Record, error: RecordError) -> None:
        """Keep one for the next `flush`."""
        self._waiting.append(dead_letter_of(record, self._service, error))

    def flush(self) -> None:
        """Returns when Kafka has all that was added.

        Raises:
            OutputUnavailable: It doesn't take them now; they stay, and some may come twice.
        """
        if not self._waiting:
            return
        failed: list[str] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error.str())

        try:
            producer = self._connect()
            for letter in self._waiting:
                producer.produce(
                    self._topic,
                    value=letter.value,
                    key=letter.key,
                    partition=letter.partition_among(self._partitions),
                    headers=letter.headers(),
                    on_delivery=delivered,
                )
            left = producer.flush(_WITHIN)
        except (KafkaException, BufferError) as error:
            reason = error.args[0].str() if isinstance(error, KafkaException) else error
            raise OutputUnavailable(f"Dead letters can't be written: {reason}.") from None
        if left or failed:
            # What is left in the queue would come later, and again.
            producer.purge(blocking=True)  # confluent-kafka 2.15 has the flag the wrong way round
            self._producer = None  # after an error that is fatal to it, it would take nothing any more
            raise OutputUnavailable(
                f"Dead letters were not taken by Kafka: {failed[0] if failed else 'no answer'}."
            )
        self._waiting.clear()

    def _connect(self) -> Producer:
        if self._producer is None:
            self._producer = self._clients.producer(self._settings)
        if not self._partitions:
            found = self._producer.list_topics(self._topic, timeout=_WITHIN).topics[self._topic]
            if found.error is not None:
                raise KafkaException(found.error)
            self._partitions = len(found.partitions)
        return self._producer

    def close(self) -> None:
        """Let go of the connection."""
        self._producer = None


def dead_letter_of(record: Record, service: str, error: RecordError) -> DeadLetter:
    """The dead letter that a record becomes."""
    return DeadLetter(
        key=record.key,
        value=record.value,
        original_headers=tuple(record.headers or ()),
        service=service,
        reason=error.reason,
        error=str(error),
        topic=record.topic_partition.topic,
        partition=record.topic_partition.partition,
        offset=record.offset,
        timestamp=record.published_ms,
    )
