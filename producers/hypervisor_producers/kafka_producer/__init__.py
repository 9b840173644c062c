"""The publisher's client of Kafka: framing, batching, delivery reports."""
