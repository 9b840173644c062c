"""GovernanceMetrics: decisions, scores and agents under governance, to Kafka, OpenTelemetry and Prometheus."""
