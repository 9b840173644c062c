"""A real Kafka on this machine without Docker, and the demo."""
