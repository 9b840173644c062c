"""The runtime that every service shares: it knows Kafka, threads and health, and no event type."""
