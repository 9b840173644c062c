"""governance-metrics: decisions, trust and presence of governed agents to the Prometheus metrics of the seed."""
