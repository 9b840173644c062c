"""Tests of agents without Kafka: what the fleet would see of them."""
