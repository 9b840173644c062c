"""The publisher's Kafka client: framing, batching, delivery reports."""
