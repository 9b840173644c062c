"""What runs inside an agent: the event bus and the publisher to Kafka. Small, never blocks, never throws at it."""
