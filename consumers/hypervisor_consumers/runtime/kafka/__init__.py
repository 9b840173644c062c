"""Clients of Kafka, the questions they ask, and the messages they give."""
