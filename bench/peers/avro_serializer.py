"""The peer of `publish`: Confluent's AvroSerializer and `produce`, in the virtual environment of the peers.

    python avro_serializer.py --bootstrap HOST:PORT --topic NAME --schema FILE --events FILE --settings JSON

The events are dicts, one in JSON per line, all made before the clock starts. Each is serialized and produced; the
clock stops when Kafka has acknowledged all of them. Prints {"events", "seconds", "cpu_seconds", "version"}.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import confluent_kafka
import msgspec

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of authlib, about httpx
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroSerializer

from confluent_kafka.serialization import MessageField, SerializationContext

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
POLL_EVERY = 1_000

encode_json = msgspec.json.Encoder().encode


def main() -> None:
    options = arguments()
    with options.events.open("rb") as lines:
        events = [msgspec.json.decode(line) for line in lines]
    for event in events:
        event["timestamp"] = datetime.fromisoformat(event["timestamp"])
    producer = confluent_kafka.Producer({**json.loads(options.settings), "bootstrap.servers": options.bootstrap})
    # A registry in this process: nothing is asked over the network, neither here nor on the other side.
    serialize = AvroSerializer(
        SchemaRegistryClient.new_client({"url": "mock://bench"}), options.schema.read_text("utf-8"), as_record
    )
    producer.list_topics(options.topic, timeout=30)
    began, cpu = time.perf_counter(), time.process_time()
    run(producer, serialize, options.topic, events)
    print(
        json.dumps(
            {
                "events": len(events),
                "seconds": time.perf_counter() - began,
                "cpu_seconds": time.process_time() - cpu,
                "version": confluent_kafka.__version__,
            }
        )
    )


def run(
    producer: confluent_kafka.Producer, serialize: AvroSerializer, topic: str, events: list[dict[str, object]]
) -> None:
    context = SerializationContext(topic, MessageField.VALUE)
    for number, event in enumerate(events):
        value = serialize(event, context)
        while True:
            try:
                producer.produce(topic, value, event["session_id"])
                break
            except BufferError:
                producer.poll(0.001)
        if number % POLL_EVERY == 0:
            producer.poll(0)
    if left := producer.flush(300):
        raise SystemExit(f"{left} records were not written in 300 s")


def as_record(event: dict[str, object], _: SerializationContext) -> dict[str, object]:
    """Make the record as our codec does: the payload is JSON text, the time a number, which is fastest."""
    return {
        **event,
        "timestamp": (event["timestamp"] - EPOCH) // MICROSECOND,
        "payload": encode_json(event["payload"]).decode(),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--schema", required=True, type=Path)
    parser.add_argument("--events", required=True, type=Path)
    parser.add_argument("--settings", required=True, help="of the producer, as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
