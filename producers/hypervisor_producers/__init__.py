"""The part that runs inside an agent: the event bus and the publisher to Kafka. It never blocks the agent."""
