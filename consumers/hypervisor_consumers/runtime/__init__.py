"""What every service shares: the consumer loop, health, HTTP and self-metrics. Knows no event type."""
