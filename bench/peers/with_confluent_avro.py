"""Confluent's consumer and AvroDeserializer: counts in memory, offsets committed from time to time.

Records have the Confluent wire format with `--schema-id`; the registry is one in this process.
"""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bench.peers.shared import Counts, Run, arguments, calm_garbage_collection, schema_text


class OneSchema(SchemaRegistryClient):
    """A registry that answers the one id with the schema, as the client's own cache does after the first record."""

    def __init__(self, schema_id: int) -> None:
        super().__init__({"url": "http://127.0.0.1:9"})  # never asked
        self._schema_id = schema_id
        self._schema = Schema(schema_text(), "AVRO")

    def get_schema(self, schema_id: int, *_: object, **__: object) -> Schema:
        if schema_id != self._schema_id:
            raise ValueError(f"a record's schema id is {schema_id}; --schema-id says {self._schema_id}")
        return self._schema


def main() -> None:
    given = arguments(schema_id=1)
    consumer = Consumer(
        {
            "bootstrap.servers": given.bootstrap,
            "group.id": given.group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "fetch.queue.backoff.ms": 10,
        }
    )
    consumer.subscribe([given.topic])
    read, counts, run = AvroDeserializer(OneSchema(given.schema_id)), Counts(), Run(given.events)
    context = SerializationContext(given.topic, MessageField.VALUE)
    positions: dict[int, int] = {}
    calm_garbage_collection()
    next_commit = time.monotonic() + given.commit_interval
    is_last = False
    while not is_last:
        messages = consumer.consume(1000, timeout=0.1)
        is_last = run.saw(len(messages))
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            counts.add(read(message.value(), context))
            positions[message.partition()] = message.offset() + 1
        if is_last or time.monotonic() >= next_commit:
            if positions:
                places = [TopicPartition(given.topic, number, offset) for number, offset in positions.items()]
                consumer.commit(offsets=places, asynchronous=False)
                positions.clear()
            next_commit = time.monotonic() + given.commit_interval
    run.end(counts)
    consumer.close()


if __name__ == "__main__":
    main()
